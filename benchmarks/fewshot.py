"""Sixteen examples a class, five fixed samples, on SST-2, CR and TREC with the embedded backbone.

    python benchmarks/fewshot.py [--tasks sst2,cr,trec] [--ways plain,hybrid] [--seeds 13,21] [--ppt FILE] [--page]

Reads ../shared/data. Does the runs that benchmarks/results/fewshot.jsonl does not have yet for the weights and the
protocol at hand, so it can be stopped and repeated. `--page` writes the table of docs/fewshot.md from that file.
Train and dev are drawn by `data.few_shot`; the epoch is chosen on dev, rates are the defaults, and nothing is chosen on
the test examples, which are the same for every sample. `--ppt` is a prompt of `softprompt transfer` that was trained on
raw text: without it, that row is left out.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from results import ROOT, parts, write
from runs import Run, done, facts, known, mean, note, numbers, put, split, versions

from softprompt import load_backbone
from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.backbones.embedded import TINY
from softprompt.baselines import majority, zero_shot
from softprompt.evaluate import score
from softprompt.fewshot.patterns import Pattern
from softprompt.fewshot.pet import pet
from softprompt.fewshot.sample import SEEDS
from softprompt.plan import make_plan
from softprompt.recipe import Recipe, make_recipe, override
from softprompt.stages import stage
from softprompt.untrained import build

LOG = ROOT / "benchmarks" / "results" / "fewshot.jsonl"
PAGE = ROOT / "docs" / "fewshot.md"
SHOTS, POOL, TEXTS, TEST, STEPS = 16, 2000, 200, 300, 40  # a class; rows to draw from; unlabelled; tested; steps
KINDS = {"DESC": "description", "ENTY": "thing", "ABBR": "abbreviation", "HUM": "person", "LOC": "place"}
KINDS |= {"NUM": "number"}
OPINIONS = {"positive": "great", "negative": "terrible"}
REVIEWS = {
    "words": {"positive": "positive", "negative": "negative"},
    "question": "Is this review positive or negative?",
    "patterns": [
        Pattern("Is this review positive or negative? {text}\nanswer: {mask}"),
        Pattern("{text}\nsentiment: {mask}"),
        Pattern("{text} It was {mask}", OPINIONS),
    ],
}
QUESTIONS = {
    "words": KINDS,
    "question": "What does this question ask for?",
    "patterns": [
        Pattern("What does this question ask for? {text}\nquestion type: {mask}"),
        Pattern("{text}\nquestion type: {mask}"),
        Pattern("{text}\nanswer: {mask}"),
    ],
}
TASKS: dict[str, dict[str, Any]] = {"sst2": REVIEWS, "cr": REVIEWS, "trec": QUESTIONS}
FIXED = ("majority", "zero-shot", "zero-shot, content-free prior", "zero-shot, prior of the domain")


def files(task: str, folder: Path) -> dict[str, str]:
    """Rows to draw from, test rows, and texts without labels, none of which is among the rows."""
    made = parts(task, POOL + TEXTS, TEST)
    rows = {"train": made["train"][TEXTS:], "test": made["test"]}
    found = {name: write(own, folder / f"{name}.csv") for name, own in rows.items()}
    plain = folder / "texts.txt"
    plain.write_text("\n".join(text.replace("\n", " ") for text, _ in made["train"][:TEXTS]) + "\n", encoding="utf-8")
    return found | {"texts": str(plain)}


def recipe(task: str, seed: int, given: dict[str, str], *settings: str) -> Recipe:
    """Plain vectors in front of the text, which the model continues with the class word."""
    chosen = TASKS[task]
    values = {
        "backbone": {"name": TINY},
        "data": {"train": given["train"], "test": given["test"], "few_shot": SHOTS, "seed": seed},
        "task": {"head": "verbalizer", "words": chosen["words"], "template": "{soft}{text}\n{mask}"},
        "method": {"name": "prompt_tuning", "length": 20},
        "train": {"steps": STEPS, "evaluate_every": 10, "patience": None, "seed": seed, "threads": 1},
    }
    return make_recipe(override(values, list(settings)))


def worded(task: str) -> str:
    """The setting that puts the words of the first pattern behind the vectors."""
    return "task.template={soft}" + TASKS[task]["patterns"][0].template


def plain(task: str, seed: int, given: dict[str, str], folder: Path, backbone: Backbone, *settings: str) -> Path:
    return stage(recipe(task, seed, given, *settings), folder, backbone=backbone).artifact


def hybrid(task: str, seed: int, given: dict[str, str], folder: Path, backbone: Backbone) -> Path:
    return plain(task, seed, given, folder, backbone, worded(task))


def dart(task: str, seed: int, given: dict[str, str], folder: Path, backbone: Backbone) -> Path:
    start = f"init.text={TASKS[task]['question']}"
    return plain(task, seed, given, folder, backbone, worded(task), "method.name=dart", start)


def shown(task: str, seed: int, given: dict[str, str], folder: Path, backbone: Backbone) -> Path:
    return plain(task, seed, given, folder, backbone, worded(task), "task.demonstrations=true")


def distilled(task: str, seed: int, given: dict[str, str], folder: Path, backbone: Backbone) -> Path:
    made = pet(
        recipe(task, seed, given),
        folder,
        patterns=TASKS[task]["patterns"],
        unlabelled=given["texts"],
        steps=2 * STEPS,
        backbone=backbone,
    )
    return made.student.prompt


WAYS: dict[str, tuple[str, Callable[..., Path]]] = {
    "plain": ("prompt tuning, vectors alone", plain),
    "hybrid": ("hybrid: words and vectors", hybrid),
    "dart": ("`dart`, in the hybrid's words", dart),
    "pet": ("PET, distilled into the hybrid", distilled),
    "demonstrations": ("hybrid, one demonstration a class", shown),
}


def baselines(task: str, seed: int, given: dict[str, str], backbone: Backbone) -> dict[str, Run]:
    """What answers without training, in the hybrid's words; the last prior alone depends on the sample."""
    found: dict[str, Run] = {}
    for name, kind in zip(FIXED[1:], ("none", "content_free", "domain"), strict=True):
        plan = make_plan(recipe(task, seed, given, worded(task), f"task.calibrate={kind}"), backbone)
        answers = zero_shot(build(plan, backbone), plan.test)
        assert answers is not None
        found[name] = {"score": score(plan.kind, "accuracy", answers, plan.test).as_dict()}
    return {"majority": {"score": score(plan.kind, "accuracy", majority(plan, plan.test), plan.test).as_dict()}} | found


def trained(task: str, way: str, seed: int, given: dict[str, str], backbone: Backbone, ppt: str | None) -> Run:
    """Train, then answer the test examples once."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        if way == "ppt":
            path = plain(task, seed, given, Path(folder) / "run", backbone, worded(task), f"init.source={ppt}")
        else:
            path = WAYS[way][1](task, seed, given, Path(folder) / "run", backbone)
        plan = make_plan(recipe(task, seed, given), backbone)
        prompt = Artifact.load(path).bind(backbone)
        answers = [prediction.answer for prediction in prompt.predict(plan.test)]
    made = score(plan.kind, "accuracy", answers, plan.test).as_dict()
    numbers = sum(weight.numel() for weight in prompt.parameters())
    return {"score": made, "parameters": numbers, "cpu_s": round(time.process_time() - began, 1)}


def protocol(task: str, backbone: Backbone) -> Run:
    return {"task": task, "shots": SHOTS, "steps": STEPS, "test": TEST, "backbone": backbone.fingerprint}


def everything(chosen: argparse.Namespace, backbone: Backbone) -> None:
    """All runs that are lacking, seed by seed, so that a table can be made early."""
    ways = [*chosen.ways, *(["ppt"] if chosen.ppt else [])]
    for seed in chosen.seeds:
        for task in chosen.tasks:
            key = protocol(task, backbone)
            with tempfile.TemporaryDirectory() as folder:
                given = files(task, Path(folder))
                if not known(chosen.log, key | {"method": FIXED[0], "seed": seed}):
                    for name, run in baselines(task, seed, given, backbone).items():
                        note(chosen.log, key | {"method": name, "seed": seed} | run | facts(backbone))
                for way in ways:
                    own = key | {"method": way, "seed": seed}
                    if not known(chosen.log, own):
                        run = trained(task, way, seed, given, backbone, chosen.ppt)
                        note(chosen.log, own | run | facts(backbone))


def cell(group: list[Run]) -> str:
    """Mean ± and, in brackets, the standard deviation over samples and their range, on a scale of 100."""
    if not group:
        return "-"
    values = [100 * run["score"]["value"] for run in group]
    if len(values) < 2 or max(values) == min(values):
        return mean(group)
    return f"{mean(group)} ({statistics.stdev(values):.1f}; {min(values):.1f} to {max(values):.1f})"


def table(runs: Iterable[Run], tasks: list[str]) -> str:
    """A line a way, a column a task."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run["method"], run["task"]].append(run)
    lines = [f"| | numbers | {' | '.join(tasks)} | CPU s | samples |", f"|{' --- |' * (len(tasks) + 4)}"]
    titles = {name: f"*{name}*" for name in FIXED} | {name: title for name, (title, _) in WAYS.items()}
    for name, title in (titles | {"ppt": "hybrid, started from PPT"}).items():
        mine = [groups.get((name, task), []) for task in tasks]
        if not any(mine):
            continue
        flat = [run for group in mine for run in group]
        sizes = sorted({run["parameters"] for run in flat if "parameters" in run})
        spent = sum(run.get("cpu_s", 0) for run in flat) / len(flat)
        size = "-" if not sizes else f"{sizes[0]:,}" + (f" to {sizes[-1]:,}" if len(sizes) > 1 else "")
        counts = "/".join(dict.fromkeys(str(len(group)) for group in mine))
        cells = " | ".join(cell(group) for group in mine)
        lines.append(f"| {title} | {size} | {cells} | {f'{spent:.0f}' if spent else '-'} | {counts} |")
    return "\n".join(lines)


def page(chosen: argparse.Namespace, backbone: Backbone) -> str:
    """The table of the protocol and the weights at hand, with what it was made with."""
    keys = [protocol(task, backbone) for task in chosen.tasks]
    runs = [run for run in done(chosen.log) if any(all(run.get(k) == v for k, v in key.items()) for key in keys)]
    if not runs:
        raise SystemExit(f"no runs of these weights and this protocol in {chosen.log}")
    spent = sum(run.get("cpu_s", 0) for run in runs) / 60
    return (
        f"{SHOTS} examples a class and as many for dev, {TEST} test rows, {STEPS} steps ({2 * STEPS} for the distilled "
        f"prompt, on {TEXTS} texts), 20 vectors. Weights {backbone.fingerprint[:12]}, {versions(runs)}, "
        f"{runs[0]['machine']}; {len(runs)} runs, {spent:.0f} core-minutes.\n\n{table(runs, chosen.tasks)}"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--tasks", type=split, default=list(TASKS))
    arguments.add_argument("--ways", type=split, default=list(WAYS))
    arguments.add_argument("--seeds", type=numbers, default=list(SEEDS))
    arguments.add_argument("--ppt", help="a prompt that was trained on raw text")
    arguments.add_argument("--log", type=Path, default=LOG)
    arguments.add_argument("--page", action="store_true")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    backbone = load_backbone(TINY)
    if not chosen.page:
        everything(chosen, backbone)
    else:
        put(PAGE, "few-shot", page(chosen, backbone))


if __name__ == "__main__":
    main()
