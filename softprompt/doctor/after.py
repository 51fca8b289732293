"""Failure signatures: what a run's log, report and prompt say when it is over, or was stopped.

Thresholds are those of the project's survey of training issues; where a comment says "added", the bench of
tests/doctor showed that the survey's trigger alone fires on healthy runs.
"""

import statistics
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from softprompt import checkpoint, joint
from softprompt.artifact import Artifact, Card
from softprompt.backbones import Backbone, load_backbone
from softprompt.core import Example
from softprompt.doctor import answers, before
from softprompt.doctor.findings import DEEP, LOWER, Finding, of_error, ranked
from softprompt.doctor.trace import Trace, mean, read
from softprompt.errors import SoftpromptError
from softprompt.metrics import find_metric
from softprompt.prompt import Prompt
from softprompt.run import restore, snapshot
from softprompt.training import reopen

FALL = 0.05  # by which share a loss has to fall
LEARNT = 0.3  # a loss (nats a label) that needs not fall any more
FEWEST = 20  # steps before a loss says anything
LEAP = 10.0  # times the median of losses, to be a spike
GAP, RISE = 3.0, 0.1  # dev over train loss, and (added) how far dev loss rose since its best
MOVED, FAR = 0.01, 100.0  # of the prompt's own size; of the embeddings
WIDE, TOO_WIDE = 0.05, 0.10  # half-widths of a test score
MARGIN, FAR_BEHIND = (
    0.05,
    0.10,
)  # (added) by which a baseline has to be better, beyond doubt: to be said, to be warned of
SEEDS = 0.03  # standard deviation over seeds
SURE = 2.576 / 1.96  # times a 95 % half-width: 99 %, so that of runs that learnt nothing 1 in 100 looks as if it had


def examine_run(folder: str | Path, backbone: Backbone | None = None) -> list[Finding]:
    """Everything that a run's folder shows, the first to mend first. Nothing in it is changed."""
    trace, place = read(folder), Path(folder)
    found = list(signatures(trace))
    try:
        plan, backbone = reopen(place, backbone)
        made = joint.build(plan, backbone)
        rows = [made.row(example) for example in plan.train]
        found += before.examine(made.alone, plan, rows)
        found += movement(made, place, trace)
        if trace.report is not None:
            if made is not made.alone:  # the LoRA beside the prompt is under it now
                backbone = load_backbone(**plan.recipe.under(place).model_dump())
            found += answers.examine(Artifact.load(place / "prompt.safetensors").bind(backbone), plan, trace)
    except SoftpromptError as error:
        found.append(of_error(error))
    return ranked(found)


def examine_prompt(artifact: Artifact, backbone: Backbone) -> list[Finding]:
    """Everything that a prompt file shows on a backbone, the first to mend first."""
    found = [*versions(artifact.card), *reported(artifact.card.report)]
    try:
        prompt = artifact.bind(backbone)
        rows = [prompt.template.encode(Example(dict.fromkeys(prompt.template.fields, "text")))]
        found += before.lengths(prompt, rows)
    except SoftpromptError as error:
        found.append(of_error(error))
    return ranked(found)


def signatures(trace: Trace) -> Iterator[Finding]:
    """What log and report show."""
    if trace.failure is not None:
        seen = f"{trace.failure['found']} ({trace.failure['code']})"
        more = (("optim.lr=auto", "backbone.dtype=float32"),)
        yield Finding("not-finite", "error", seen, trace.failure["expected"], settings=LOWER, remedies=more)
    yield from falling(trace)
    yield from dev_losses(trace)
    yield from reported(trace.report or {})


def falling(trace: Trace) -> Iterator[Finding]:
    """A train loss that does not fall, or jumps."""
    losses = trace.losses
    if len(losses) < FEWEST:
        return
    first, last = trace.ends
    fall = 1 - last / first if first > 0 else 0.0
    if fall < FALL and last > LEARNT:
        seen = f"the train loss went from {first:.3g} to {last:.3g} in {len(losses)} steps, a fall of {fall:.0%}"
        more = (("init.kind=labels",), ("optim.name=adafactor", "optim.schedule=constant"), DEEP)
        yield Finding("not-converging", "warning", seen, f"{FALL:.0%}", settings=LOWER, remedies=more)
    for at in range(FEWEST, len(losses)):
        usual = statistics.median(losses[at - FEWEST : at])
        if losses[at] > LEAP * usual and losses[at] > first:  # added: small losses jump far without harm
            seen = f"loss {losses[at]:.3g} at step {at + 1} after a median of {usual:.3g}"
            lower = (f"optim.lr={trace.recipe.optim.lr / 4:.3g}",) if trace.recipe.optim.lr != "auto" else LOWER
            yield Finding("spike", "warning", seen, f"{LEAP:g} times the median", settings=lower)
            return


def dev_losses(trace: Trace) -> Iterator[Finding]:
    """A dev loss that rises, or goes up and down."""
    dev = [event["loss"] for event in trace.dev]
    if len(dev) < 2 or len(trace.losses) < FEWEST:
        return
    first, train = trace.ends
    if dev[-1] > GAP * train and train < (1 - FALL) * first and dev[-1] > min(dev) + RISE:
        seen = f"train loss {train:.3g}, dev loss {dev[-1]:.3g} after {min(dev):.3g} at its best"
        settings = ("train.patience=3",) if trace.recipe.train.patience is None else ("train.epochs=5",)
        more = (("train.epochs=5",), ("method.length=5",))
        yield Finding("gap", "warning", seen, f"{GAP:g} times train, and no rise", settings=settings, remedies=more)
    turns = [(b - a) * (c - b) < 0 for a, b, c in zip(dev, dev[1:], dev[2:], strict=False)]
    swing = mean([abs(b - a) for a, b in pairwise(dev)]) / max(1e-9, mean(dev))
    if len(turns) >= 4 and mean(turns) > 0.6 and swing > 0.2 and mean(dev) > 0.5 * first:
        seen = f"dev loss turns at {mean(turns):.0%} of evaluations, by {swing:.0%} of itself"
        half = (f"optim.lr={trace.recipe.optim.lr / 2:.3g}",) if trace.recipe.optim.lr != "auto" else LOWER
        more = (("init.kind=labels",), ("method.name=residual",))
        yield Finding("unstable", "warning", seen, "60 % and 20 %", settings=half, remedies=more)


def reported(report: dict[str, Any]) -> Iterator[Finding]:
    """What the scores of a report say beside its baselines."""
    if not report.get("scores"):
        return
    score, beside = report["scores"][0], report.get("baselines", {})
    if find_metric(score["name"]).higher_is_better:
        yield from against(score, beside)
    if score["error"] > WIDE and 0 <= score["value"] <= 1:
        wide = score["error"] > TOO_WIDE
        seen = f"{score['n']} test examples give ±{100 * score['error']:.1f} points"
        limit = f"±{100 * (TOO_WIDE if wide else WIDE):.0f} points"
        do = "softprompt evaluate PROMPT MORE_DATA"
        yield Finding("small-eval", "warning" if wide else "info", seen, limit, do=do)


def against(score: dict[str, Any], beside: dict[str, Any]) -> Iterator[Finding]:
    """A prompt that learnt nothing, or less than what costs less."""
    value, most = score["value"], beside.get("majority")
    probe = beside.get("linear probe")
    chance = [most is not None and one["value"] - SURE * one["error"] <= most["value"] for one in (score, probe) if one]
    if most is not None and probe is not None and all(chance):
        seen = f"{score['name']} {value:.3f}, linear probe {probe['value']:.3f}, majority {most['value']:.3f}"
        do = "softprompt data check DATA   # and read some rows: are these the right labels for these texts?"
        yield Finding("no-signal", "warning", seen, f"the majority and {SURE:.2f} times ±", do=do)
        return
    doubt = {name: max(MARGIN, (score["error"] ** 2 + one["error"] ** 2) ** 0.5) for name, one in beside.items()}
    better = {name: one for name, one in beside.items() if one["value"] - value > doubt[name]}
    if better:
        name = max(better, key=lambda one: better[one]["value"])
        seen = f"{score['name']} {value:.3f} ±{score['error']:.3f}; {name} {better[name]['value']:.3f}"
        more = (("method.name=prefix", "method.options.bottleneck=64"), ("task.head=classifier",))
        far = better[name]["value"] - value > FAR_BEHIND
        limit = f"{name} ±{max(FAR_BEHIND, doubt[name]) if far else doubt[name]:.3f}"
        yield Finding("baseline-wins", "warning" if far else "info", seen, limit, settings=DEEP, remedies=more)


def movement(prompt: Prompt, place: Path, trace: Trace) -> Iterator[Finding]:
    """How far the newest state is from where the run began; `prompt` is the untrained one, and stays so."""
    state, _ = checkpoint.newest(place / "states")
    if state is None or state.step < before.TRY:
        return
    now = {name.removeprefix("now/"): value for name, value in state.tensors.items() if name.startswith("now/")}
    start = snapshot(prompt)
    names = [name for name, _ in prompt.named_parameters() if name.startswith("method.")]
    way = torch.stack([(now[name] - start[name]).float().norm() for name in names]).norm().item()
    size = torch.stack([start[name].float().norm() for name in names]).norm().item()
    if way < MOVED * size:
        seen = f"after {state.step} steps the prompt has moved by {way / size:.2%} of its size"
        yield Finding("did-not-move", "warning", seen, f"{MOVED:.0%}", settings=LOWER)
    restore(prompt, now)
    example = prompt.template.encode(Example(dict.fromkeys(prompt.template.fields, "text")))
    far = before.size_of(prompt, [example]) if prompt.backbone.spec.kind != "vision" else None
    restore(prompt, start)
    if far is not None and far > FAR:
        seen = f"the prompt is {far:.3g} times the size of word vectors"
        yield Finding("moved-off", "warning", seen, f"{FAR:g}", settings=before.SLOW)


def versions(card: Card) -> Iterator[Finding]:
    """Libraries of another major version than those that the prompt was made with."""
    for name in ("torch", "transformers"):
        made, here = card.versions.get(name, ""), version(name)
        if made and made.partition(".")[0] != here.partition(".")[0]:
            do = f"pip install '{name}=={made.partition('+')[0]}'"
            yield Finding("versions", "warning", f"{name} {here}, made with {made}", "the same major version", do=do)


def examine_seeds(folders: Sequence[Path]) -> list[Finding]:
    """The spread of ended runs that differ in the seed only; three or more are needed to say anything."""
    families: dict[str, list[dict[str, Any]]] = {}
    for folder in folders:
        trace = read(folder)
        if trace.report is not None:
            recipe = trace.recipe.model_dump_json(exclude={"train": {"seed"}})
            families.setdefault(recipe, []).append(trace.report["scores"][0])
    found = []
    for scores in families.values():
        values = [score["value"] for score in scores]
        if len(values) < 3:
            continue
        middle, spread = mean(values), statistics.stdev(values)
        chance = (max(0.0, middle * (1 - middle)) / scores[0]["n"]) ** 0.5
        if spread > max(2 * chance, SEEDS):
            listed = ", ".join(f"{value:.3f}" for value in values)
            seen = f"{scores[0]['name']} {listed}: standard deviation {spread:.3f} over {len(values)} seeds"
            more = (("method.name=residual",), ("optim.lr=0.05",))
            limit = f"{max(2 * chance, SEEDS):.3f}"
            found.append(Finding("seeds", "warning", seen, limit, settings=("init.kind=labels",), remedies=more))
    return ranked(found)
