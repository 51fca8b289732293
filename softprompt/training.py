"""The one training loop. What a step does depends on the seed, the step and the last state, and on nothing else.

The order of examples and every random number are functions of (seed, step), so a state needs no generators, and a run
that is killed at any moment and resumed ends with the same bits as one that is not.
"""

import json
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from softprompt import checkpoint, joint, ranks
from softprompt.artifact import Artifact
from softprompt.backbones import Backbone, load_backbone
from softprompt.checkpoint import State
from softprompt.core import Batch, Row
from softprompt.cost import announce
from softprompt.doctor.before import guard
from softprompt.engine import choose, idle, once, parted
from softprompt.errors import TrainingError
from softprompt.evaluate import Report, evaluate
from softprompt.files import sweep, write_atomically
from softprompt.frozen import remember
from softprompt.methods import check_options, find
from softprompt.optim import clip, factor, make_optimizer
from softprompt.plan import Plan, make_plan
from softprompt.prompt import Prompt
from softprompt.recipe import Recipe, load_recipe
from softprompt.run import Event, Listener, Log, Run, Stopped, restore, snapshot, stopping
from softprompt.track import tracker

SAVING = 0.04  # share of the time that saving states may take


@dataclass(frozen=True)
class Result:
    """What a finished run leaves: the prompt in use, its file, and its numbers."""

    prompt: Prompt
    artifact: Path
    report: Report


def train(
    recipe: Recipe, folder: str | Path, *, backbone: Backbone | None = None, listen: Listener = lambda event: None
) -> Result:
    """Train a prompt as the recipe says, evaluate it, and write `prompt.safetensors` into `folder`.

    `folder` holds the whole run: recipe.yaml (resolved), log.jsonl, states, report.json. Raises `TrainingError` where
    it already holds another run; `resume` goes on with that one.
    """
    ranks.join()
    place = ranks.folder(Path(folder))
    if (place / "recipe.yaml").exists():
        do = f"use `softprompt resume {place}`, or --run"
        raise TrainingError("SP-E510", f"a run in {place}", "a new folder", do)
    check_options(find(recipe.method.name), recipe.method.options)  # before seconds go into loading a model
    backbone = backbone or open_backbone(recipe)
    set_threads(recipe)
    plan = make_plan(recipe, backbone)
    place.mkdir(parents=True, exist_ok=True)
    identity = {"backbone": backbone.fingerprint, "data": plan.sha256, "threads": torch.get_num_threads()}
    identity |= {"ranks": ranks.count()}
    write_atomically(place / "run.json", json.dumps(identity, indent=1).encode())
    write_atomically(place / "recipe.yaml", plan.recipe.rooted().to_yaml(full=True).encode())
    return run(plan, backbone, place, None, listen)


def resume(folder: str | Path, *, backbone: Backbone | None = None, listen: Listener = lambda event: None) -> Result:
    """Go on with a run that stopped, from its newest valid state, to the same bits as if it had never stopped.

    Raises `TrainingError` where the folder holds no run, or where backbone or data are no longer the same.
    """
    ranks.join()
    place = run_in(ranks.folder(Path(folder)))
    plan, backbone = reopen(place, backbone)
    state, notes = checkpoint.newest(place / "states")
    for note in notes:
        listen({"event": "note", "text": note})
    return run(plan, backbone, place, state, listen)


def run_in(folder: str | Path) -> Path:
    """The folder of a run; raises `TrainingError` where it holds none."""
    place = Path(folder)
    if not (place / "recipe.yaml").exists():
        raise TrainingError("SP-E511", f"no run in {place}", "a folder made by `softprompt train`", "check the path")
    return place


def reopen(folder: str | Path, backbone: Backbone | None = None) -> tuple[Plan, Backbone]:
    """The plan and the backbone of a run; raises `TrainingError` where they are no longer what they were."""
    place = run_in(folder)
    recipe, before = load_recipe(place / "recipe.yaml"), json.loads((place / "run.json").read_text())
    torch.set_num_threads(before["threads"])  # sums over other blocks give other last bits
    backbone = backbone or open_backbone(recipe)
    plan = make_plan(recipe, backbone)
    now = {"backbone": backbone.fingerprint, "data": plan.sha256}
    changed = [name for name, value in now.items() if before[name] != value]
    if changed:
        found, do = f"another {' and '.join(changed)} than when the run began", "put them back, or start a new run"
        raise TrainingError("SP-E512", found, "the same backbone and data", do, where=str(place))
    return plan, backbone


def parents_of(recipe: Recipe) -> tuple[str, ...]:
    """The file names of the prompts that a run starts from, for the card."""
    return tuple(Path(source).name for source in recipe.init.files)


def open_backbone(recipe: Recipe) -> Backbone:
    """The backbone that a recipe names; raises `RecipeError` for settings that do not go with one in parts."""
    ranks.check(recipe)
    return load_backbone(**recipe.backbone.model_dump())


def set_threads(recipe: Recipe) -> None:
    """Use as many CPU threads as the recipe says."""
    if recipe.train.threads:
        torch.set_num_threads(recipe.train.threads)


def run(plan: Plan, backbone: Backbone, place: Path, state: State | None, listen: Listener) -> Result:
    """From a state (or from nothing) to the finished artifact."""
    began = time.monotonic()
    sweep(place)  # what a killed process was writing
    sweep(place / "states")
    listen = tracker(plan.recipe, place, listen)
    prompt = joint.build(plan, backbone, listen)
    if plan.recipe.train.compare:
        from softprompt.comparators import check  # which takes its steps from here

        check(plan, plan.recipe.train.compare)  # before hours go into the prompt
    listen({"event": "plan", "plan": plan, "prompt": prompt})
    if plan.recipe.backbone.shard != "none":
        listen({"event": "note", "text": ranks.held(backbone)})
    untrained = snapshot(prompt)
    best, history = fit(prompt, plan, place, state, listen)
    restore(prompt, best)
    return deliver(prompt, plan, place, untrained, history, began, listen)


def deliver(
    prompt: Prompt,
    plan: Plan,
    place: Path,
    untrained: dict[str, Tensor],
    history: list[Event],
    began: float,
    listen: Listener,
) -> Result:
    """Score a trained prompt and write what its run leaves: prompt.safetensors and report.json."""
    if isinstance(prompt, joint.Joint):
        prompt, report = joint.finish(prompt, plan, place, untrained, history, listen)
    else:
        report = evaluate(prompt, plan, untrained=untrained, history=history, listen=listen)
    report = replace(report, seconds=time.monotonic() - began)
    path = place / "prompt.safetensors"
    facts = {name: value for name, value in report.as_dict().items() if "seconds" not in name}  # the same bits
    Artifact.of(prompt, plan.recipe.shared(), facts, parents_of(plan.recipe)).save(path)
    write_atomically(place / "report.json", json.dumps(report.as_dict(), indent=1).encode())
    listen({"event": "done", "report": report, "path": path})
    return Result(prompt, path, report)


def fit(
    prompt: Prompt, plan: Plan, place: Path, state: State | None, listen: Listener
) -> tuple[dict[str, Tensor], list[Event]]:
    """Train until the steps are done or dev stops improving; the best tensors and the history of dev scores."""
    settings = plan.recipe.train
    rows, optimizer, rates = prepared(prompt, plan, listen)
    with mixed(prompt.backbone, settings.precision):
        rows = remember(prompt, plan, rows, place, listen)
    every = settings.evaluate_every or plan.steps_per_epoch
    run = Run.new(prompt) if state is None else Run.of(state, prompt, optimizer)
    log = Log(place / "log.jsonl", run.step)
    announce(prompt, plan, rows, run.step, log, listen)
    states = place / "states"
    states.mkdir(exist_ok=True)
    saved, cost = time.monotonic(), 0.0
    with stopping() as stop:
        while run.step < plan.steps and not run.patience_is_over(settings.patience):
            began = time.monotonic()
            try:
                loss, norm, tokens = step(prompt, plan, rows, optimizer, rates, run.step)
            except TrainingError as error:  # so that `softprompt doctor` can say how the run ended
                log.write({"event": "failed", "step": run.step + 1, **error.as_dict()})
                log.close()
                raise
            run.step += 1
            seconds = time.monotonic() - began
            event = {"event": "step", "step": run.step, "loss": loss, "norm": norm, "tokens": tokens}
            event["lr"] = optimizer.param_groups[0]["lr"] / prompt.method.groups()[0].unit
            log.write(event)
            listen(event | {"total": plan.steps, "seconds": seconds})
            if run.step % every == 0 or run.step == plan.steps:
                run.judge(prompt, plan, log, listen)
            told = ranks.most(stop[0] if stop else 0)  # a signal that reached one rank stops all, at the same step
            now = time.monotonic()
            if told or now - saved > max(settings.save_seconds, cost / SAVING) or run.step == plan.steps:
                log.flush()
                checkpoint.save(states, run.state(prompt, optimizer))
                saved, cost = time.monotonic(), time.monotonic() - now
            if told:
                listen({"event": "stopped", "step": run.step})
                raise Stopped(128 + told)
    prompt.backbone.recompute(False)
    log.close()
    return run.best, run.history


def prepared(prompt: Prompt, plan: Plan, listen: Listener) -> tuple[list[Row], torch.optim.Optimizer, list[float]]:
    """What steps need: encoded rows, the optimiser and its rates; decides how batches run, before any state is read."""
    settings = plan.recipe.train
    rows = [prompt.row(example) for example in plan.train]
    warn_cut(rows, listen)
    guard(prompt.alone, plan, rows, listen)
    optimizer, rates = make_optimizer(plan.recipe.optim, prompt.groups(), prompt.head)
    prompt.backbone.recompute(settings.checkpointing)
    first = order(len(rows), settings.batch_size * settings.accumulate, settings.seed, 0)[: settings.batch_size]
    choose(prompt, [rows[i] for i in first], settings.engine, listen)  # before the state: the choice is not part of it
    return rows, optimizer, rates


def step(
    prompt: Prompt, plan: Plan, rows: list[Row], optimizer: torch.optim.Optimizer, rates: list[float], number: int
) -> tuple[float, float, int]:
    """One optimiser step over `accumulate` batches; the mean loss, the size of the gradient, and tokens computed."""
    settings = plan.recipe.train
    batches = ready(prompt, plan, rows, optimizer, rates, number)
    count = ranks.total(sum(prompt.head.count(batch) for batch in batches))
    passes = ranks.most(len(batches)) if prompt.backbone.sharded else len(batches)  # each is a meeting of all ranks
    total = 0.0
    with mixed(prompt.backbone, settings.precision):
        shared = once(prompt, passes)
    for batch in batches:
        with mixed(prompt.backbone, settings.precision):
            loss = prompt.loss(batch, None if shared is None else shared.injection) / max(1, count)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    for _ in range(passes - len(batches)):
        with mixed(prompt.backbone, settings.precision):
            idle(prompt, min(rows, key=lambda row: len(row.ids)), shared)
    if shared is not None:
        shared.backward()
    ranks.add_gradients(weight for group in optimizer.param_groups for weight in group["params"])
    total = ranks.total(total)
    norm = move(plan, len(rows), optimizer, rates, number, total)
    return total, norm, int(ranks.total(sum(computed(batch) for batch in batches)))


def ready(
    prompt: Prompt, plan: Plan, rows: list[Row], optimizer: torch.optim.Optimizer, rates: list[float], number: int
) -> list[Batch]:
    """The batches of optimiser step `number`; its random numbers and rates are set, and no gradient is left.

    Of several ranks, each has its share of every batch.
    """
    settings = plan.recipe.train
    torch.manual_seed(settings.seed * 1_000_003 + number)  # dropout of this step, whatever happened before
    prompt.train()
    share = factor(plan.recipe.optim, number, plan.steps)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * share
    optimizer.zero_grad(set_to_none=True)
    chosen = order(len(rows), settings.batch_size * settings.accumulate, settings.seed, number)
    size = settings.batch_size
    shares = [ranks.share(chosen[at : at + size]) for at in range(0, len(chosen), size)]
    return [prompt.batch(part) for mine in shares if mine for part in parted(prompt, [rows[i] for i in mine])]


def move(
    plan: Plan, examples: int, optimizer: torch.optim.Optimizer, rates: list[float], number: int, total: float
) -> float:
    """Clip the gradients and let the optimiser step; the norm before. Raises `TrainingError` where one is not finite.

    `total` is the loss of the step.
    """
    norm = clip(optimizer, rates, plan.recipe.optim.clip)
    if not (total == total and norm == norm and abs(total) != float("inf") and norm != float("inf")):
        settings = plan.recipe.train
        chosen = order(examples, settings.batch_size * settings.accumulate, settings.seed, number)
        raise TrainingError(
            "SP-E520",
            f"loss {total} and gradient {norm} at step {number + 1}, rows {chosen[:8]}",
            "finite numbers",
            "lower optim.lr, or use float32; the last finite state is kept and `softprompt resume` starts from it",
        )
    optimizer.step()
    return norm


def computed(batch: Batch) -> int:
    """How many tokens a batch runs through the model, prompt and padding included."""
    return batch.input_ids.numel() if batch.packing is None else batch.packing.computed


def order(examples: int, size: int, seed: int, number: int) -> list[int]:
    """Which examples optimiser step `number` sees: a new permutation every epoch, from the seed alone."""
    per_epoch = -(-examples // size)
    epoch, place = divmod(number, per_epoch)
    generator = torch.Generator().manual_seed(seed * 7_919 + epoch)
    return torch.randperm(examples, generator=generator)[place * size : (place + 1) * size].tolist()


def mixed(backbone: Backbone, precision: str) -> Any:
    """Mixed precision where it was asked for and the backbone is not in that type anyway."""
    if precision != "bfloat16" or backbone.dtype == torch.bfloat16:
        return nullcontext()
    return torch.autocast(backbone.device.type, dtype=torch.bfloat16)


def warn_cut(rows: list[Row], listen: Listener) -> None:
    """Say how many texts were too long: they are used, but not whole."""
    cut = sum(1 for row in rows if row.cut)
    if cut:
        most = max(row.cut for row in rows)
        text = f"{cut} of {len(rows)} training texts are too long and were cut, by {most} tokens at most"
        listen({"event": "note", "text": text})


__all__ = ["Result", "Stopped", "resume", "train"]
