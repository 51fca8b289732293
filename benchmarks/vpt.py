"""Visual prompt tuning on MNIST: deep against shallow against the head alone, each at the rate that suits it best.

    python -m scripts.pretrain_vit.train VIT && python benchmarks/vpt.py VIT [--kinds deep,shallow] [--seeds 0,1,2]
    python benchmarks/vpt.py --page

The backbone has seen drawn letters, shapes and textures, no digit and no handwriting. Of the 10,000 images in
../shared/data/mnist_t10k, 2,000 are the test, 500 are dev, and 4,000 of the rest are trained on; the parts are drawn
once. As in the paper the rate is chosen for each kind: every rate runs with seed 0, and the one with the best dev
accuracy runs with the others. The epoch is chosen on dev too. Does the runs that benchmarks/results/vpt.jsonl does not
have yet for these weights and this protocol, so it can be stopped and repeated. `--page` writes the tables of
docs/methods/vpt.md, one for each protocol.
"""

import argparse
import json
import random
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from results import ROOT
from runs import Run, done, facts, known, mean, note, numbers, put, split, versions
from verdicts import chain

from softprompt import baselines, load_backbone
from softprompt.backbones import Backbone
from softprompt.comparators import RATES, fine_tune
from softprompt.data import read
from softprompt.evaluate import score
from softprompt.example import Raster
from softprompt.plan import Plan, make_plan
from softprompt.recipe import make_recipe
from softprompt.run import restore
from softprompt.training import fit
from softprompt.untrained import build

SOURCE = ROOT.parent / "shared" / "data" / "mnist_t10k" / "t10k-images-idx3-ubyte.gz"
LOG = ROOT / "benchmarks" / "results" / "vpt.jsonl"
PAGE = ROOT / "docs" / "methods" / "vpt.md"
ROWS, EPOCHS, LENGTH = 4000, 2, 10
KEPT = {"test": 2000, "dev": 500}
PROMPTS: dict[str, dict[str, Any]] = {"deep": {"deep": True, "dropout": 0.1}, "shallow": {"deep": False}}
LEVELS = (0.1, 0.3, 0.03, 1.0)  # in units of the vectors' own initial scale; `lr: auto` would take 0.24
ORDER = ["deep", "shallow", "head"]
NAMES = {"deep": "`vpt`, P = {}", "shallow": "`vpt`, `deep: false`, P = {}", "head": "head alone (CLS)"}
NAMES |= {"full": "full fine-tuning", "probe": "linear probe (logistic regression, mean state)", "majority": "majority"}


def write_parts(folder: Path, rows: int) -> dict[str, str]:
    """Train, dev and test as idx files; the last two are the same for every number of training rows."""
    examples = read(SOURCE).examples
    random.Random(0).shuffle(examples)
    found, at = {}, 0
    for part, size in (KEPT | {"train": rows}).items():
        chosen = examples[at : at + size]
        at += size
        rasters = [example.image for example in chosen if isinstance(example.image, Raster)]
        side = (rasters[0].height, rasters[0].width)
        images = struct.pack(">4B3I", 0, 0, 8, 3, size, *side) + b"".join(raster.pixels for raster in rasters)
        labels = struct.pack(">4BI", 0, 0, 8, 1, size) + bytes(int(str(example.label)) for example in chosen)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)
        found[part] = str(folder / f"{part}-images-idx3-ubyte")
    return found


def planned(backbone: Backbone, files: dict[str, str], key: Run) -> Plan:
    """The plan of a run; a comparator takes rows, epochs and schedule from it, and its own rate."""
    recipe = {
        "backbone": {"name": backbone.name},
        "data": files,
        "method": {"name": "vpt", "length": key["length"] or LENGTH, "options": PROMPTS.get(key["kind"], {})},
        "optim": {"schedule": "cosine", "warmup": 0.1} | ({"lr": key["lr"]} if key["kind"] in PROMPTS else {}),
        "train": {"epochs": key["epochs"], "seed": key["seed"], "threads": 1, "patience": None},
    }
    return make_plan(make_recipe(recipe), backbone)


def learned(backbone: Backbone, plan: Plan, key: Run) -> tuple[list[Any], Run]:
    """Answers on the test examples, and what the run is known by."""
    if key["kind"] not in PROMPTS:
        made = fine_tune(plan, backbone, kind=key["kind"], lr=key["lr"])
        return made.answers, {"dev": made.dev, "parameters": made.parameters}
    prompt = build(plan, backbone)
    with tempfile.TemporaryDirectory() as folder:
        best, history = fit(prompt, plan, Path(folder), None, lambda event: None)
    restore(prompt, best)
    answers = [prediction.answer for prediction in prompt.predict(plan.test)]
    parameters = sum(weight.numel() for weight in prompt.parameters())
    return answers, {"dev": max(event["accuracy"] for event in history), "parameters": parameters}


def measured(plan: Plan, answers: list[Any]) -> Run:
    """The score, and which answers are right, so that differences between runs can be tested in pairs."""
    right = "".join(str(int(a == example.label)) for a, example in zip(answers, plan.test, strict=True))
    return {"score": score(plan.kind, "accuracy", answers, plan.test).as_dict(), "right": right}


def one(backbone: Backbone, files: dict[str, str], key: Run, more: Run) -> None:
    """Do a run unless the log has it."""
    if known(LOG, key):
        return
    plan, cpu = planned(backbone, files, key), time.process_time()
    answers, found = learned(backbone, plan, key)
    run = key | {"variant": f"{key['kind']} at {key['lr']}"} | found | measured(plan, answers)
    note(LOG, run | {"cpu_s": round(time.process_time() - cpu, 1)} | more)


def beside(backbone: Backbone, files: dict[str, str], key: Run, more: Run) -> None:
    """What needs no training loop: the majority, and logistic regression on the states of the bare backbone."""
    plan = planned(backbone, files, key | {"kind": "deep", "lr": 0.1})
    prompt = build(plan, backbone)
    for kind, answer in (("majority", baselines.majority), ("probe", lambda *all: baselines.probe(prompt, *all))):
        if not known(LOG, key | {"kind": kind}):
            found: list[Any] = answer(plan, plan.test) or []
            parameters = 0 if kind == "majority" else (backbone.spec.hidden + 1) * len(plan.labels)
            own = {"kind": kind, "variant": kind, "parameters": parameters}
            note(LOG, key | own | measured(plan, found) | more)


def rates(kind: str) -> tuple[float, ...]:
    more = (0.2,) if kind == "head" else ()  # the best of the others was the highest
    return LEVELS if kind in PROMPTS else (*RATES[kind], *more)  # type: ignore[index]


def best(runs: list[Run], kind: str, length: int) -> float:
    """The rate with the best dev accuracy at the first seed."""
    tried = [run for run in runs if (run["kind"], run["length"], run["seed"]) == (kind, length, 0)]
    return float(max(tried, key=lambda run: run["dev"])["lr"])


def measure(model: str, chosen: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    backbone = load_backbone(model)
    stored = Path(model) / "pretraining.json"
    how: Run = json.loads(stored.read_text()) if stored.exists() else {}
    more = facts(backbone) | {"pretraining": {name: how[name] for name in ("steps", "accuracy") if name in how}}
    base = {"backbone": backbone.fingerprint, "rows": chosen.rows, "epochs": chosen.epochs}
    with tempfile.TemporaryDirectory() as folder:
        files = write_parts(Path(folder), chosen.rows)
        beside(backbone, files, base | {"length": 0, "seed": 0, "lr": 0}, more)
        for seed in numbers(chosen.seeds):
            keys = [
                base | {"kind": kind, "length": chosen.length if kind in PROMPTS else 0, "seed": seed}
                for kind in split(chosen.kinds)
            ]
            for turn in range(1 if seed else len(LEVELS)):  # kinds in turn, so that a stopped search can be compared
                for key in keys:
                    same = [run for run in done(LOG) if all(run[name] == value for name, value in base.items())]
                    tried = (best(same, key["kind"], key["length"]),) if seed else rates(key["kind"])
                    for rate in tried[turn : turn + 1]:
                        one(backbone, files, key | {"lr": rate}, more)


def row(name: str, group: list[Run], tried: list[Run]) -> str:
    """A line of the table: the runs at the chosen rate, and the dev accuracies by which it was chosen."""
    by_rate = ", ".join(f"{run['lr']:g}: {100 * run['dev']:.1f}" for run in tried if "dev" in run)
    cpu = sum(run["cpu_s"] for run in group) / len(group) if "cpu_s" in group[0] else None
    cells = [name, mean(group), str(len(group)), f"{group[0]['parameters']:,}"]
    return "| " + " | ".join([*cells, by_rate, "" if cpu is None else f"{cpu:.0f}"]) + " |"


def table(runs: list[Run]) -> str:
    """A line for every kind and length, and what the order of kinds is, with its ±."""
    lines = ["| | accuracy | seeds | trained | dev accuracy by rate | CPU s |", f"|{' --- |' * 6}"]
    found: dict[tuple[str, int], list[Run]] = {}
    for kind in ("majority", "probe", "head", "shallow", "deep", "full"):
        for length in sorted({run["length"] for run in runs if run["kind"] == kind}):
            mine = [run for run in runs if (run["kind"], run["length"]) == (kind, length)]
            rate = 0 if "dev" not in mine[0] else best(mine, kind, length)
            found[kind, length] = sorted((r for r in mine if r["lr"] == rate), key=lambda run: run["seed"])
            tried = sorted((run for run in mine if run["seed"] == 0), key=lambda run: run["lr"])
            lines.append(row(NAMES[kind].format(length), found[kind, length], tried))
    told = [
        f"P = {length}: {told.numbers}: {told.holds}."
        for length in sorted({length for kind, length in found if kind == "deep"})
        for told in [chain({kind: found.get((kind, length if kind in PROMPTS else 0), []) for kind in ORDER}, ORDER)]
    ]
    return "\n".join([*lines, "", *told])


def tables(runs: list[Run]) -> Iterator[str]:
    """A heading and a table for every protocol."""
    for rows, epochs in sorted({(run["rows"], run["epochs"]) for run in runs}, reverse=True):
        mine = [run for run in runs if (run["rows"], run["epochs"]) == (rows, epochs)]
        yield f"{rows:,} training images, {epochs} epochs:\n\n{table(mine)}"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", nargs="?", help="a vision transformer, as scripts.pretrain_vit.train saves it")
    arguments.add_argument("--kinds", default="deep,shallow,head", help="of deep, shallow, head and full")
    arguments.add_argument("--seeds", default="0,1,2")
    arguments.add_argument("--rows", type=int, default=ROWS, help="training images")
    arguments.add_argument("--epochs", type=int, default=EPOCHS)
    arguments.add_argument("--length", type=int, default=LENGTH, help="P")
    arguments.add_argument("--page", action="store_true", help="only write the page")
    chosen = arguments.parse_args()
    if not chosen.page:
        if not chosen.model:
            raise SystemExit("no backbone: python -m scripts.pretrain_vit.train VIT, then name its folder")
        if not SOURCE.exists():
            raise SystemExit(f"no images: {SOURCE.relative_to(ROOT.parent)} is absent beside the repository")
        measure(chosen.model, chosen)
        return
    runs = done(LOG)
    runs = [run for run in runs if run["backbone"] == runs[-1]["backbone"]]
    put(PAGE, "vpt", "\n\n".join([*tables(runs), f"({versions(runs)}; one thread.)"]))


if __name__ == "__main__":
    main()
