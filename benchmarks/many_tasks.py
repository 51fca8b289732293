"""Starts learned on many tasks, for a task with few examples; and prompts moved from a smaller backbone to a larger.

    python benchmarks/many_tasks.py [--shots 16,32] [--seeds 0,1,2,3,4] [--targets sst2,trec,cr] [--starts ...]
    python benchmarks/many_tasks.py --project [--seeds 0,1,2]
    python benchmarks/many_tasks.py --page

Reads ../shared/data. For every target, each way to learn a start (`transfer pretrain`, `meta` by both rules,
`multitask`) takes `--budget` steps on `--sources` without the target's own task; the start is kept in build/many_tasks.
Then the target, at every number of examples per class and every seed (which draws the examples), is trained from
scratch and from every start in one pass on one budget; the start of `multitask` by `mpt`, beside an `mpt` from scratch.
`--project` moves the prompt of a target from softprompt/nano to softprompt/tiny, by a map learned from prompts of other
tasks on both, and asks it about test examples without any training there. Runs go, seed by seed, to
benchmarks/results/many_tasks.jsonl; what is there is not run again, and several processes may work at once on different
seeds or targets. `--page` writes its part of docs/transfer.md. Dev chooses the state of a prompt; test chooses nothing.
`--steps`, `--epochs`, `--budget`, `--source-rows`, `--source-steps`, `--test` and `--log` are for trying it out.
"""

import argparse
import hashlib
import json
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from many_tasks_page import page
from results import DATA, ROOT
from runs import Run, done, facts, known, numbers, put, split
from transfer import alone, keep, outcome, recipe, together
from transfer_tasks import few, loose, rows

from softprompt import load_backbone
from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.backbones.embedded import NANO, TINY
from softprompt.files import write_atomically
from softprompt.plan import make_plan
from softprompt.recipe import Recipe
from softprompt.stages import stage
from softprompt.transfer.metainit import Rule, meta
from softprompt.transfer.mixture import pretrain
from softprompt.transfer.multitask import source_train
from softprompt.transfer.paired import losses, marks
from softprompt.transfer.project import project
from softprompt.transfer.sources import Source, placed, starting_from

LOG = ROOT / "benchmarks" / "results" / "many_tasks.jsonl"
PAGE = ROOT / "docs" / "transfer.md"
KEPT = ROOT / "build" / "many_tasks"  # starts, and prompts on both backbones
TARGETS = ("sst2", "trec", "cr")
SOURCES = ("sst2", "trec", "cola", "sick", "atis", "snips", "clinc")  # without MRPC, whose texts are the longest
PAIRS = (*SOURCES, "banking", "cr")
STARTS = ("pretrain", "reptile", "fomaml", "multitask")
ROUND = 4 * 5  # steps of a round of `meta`: tasks, and steps of each


def tasks(target: str, chosen: argparse.Namespace, folder: Path, steps: int) -> dict[str, Recipe]:
    """The source tasks of a target: all but its own. No text of dev or test of one is in train of another."""
    whole = {name: rows(name, 20) for name in chosen.sources if name != target}
    held = {text for parts in whole.values() for text, _ in (*parts["train"][:50], *parts["test"])}
    made = {}
    for name, parts in whole.items():
        train = [row for row in parts["train"][50:] if row[0] not in held][: chosen.source_rows]
        classes = {label for _, label in train}
        asked = {"dev": parts["train"][:50], "test": parts["test"]}
        asked = {part: [row for row in own if row[1] in classes] for part, own in asked.items()}
        made[name] = recipe(asked | {"train": train}, folder / name, 0, steps)
    return made


def learn(way: str, target: str, place: Path, chosen: argparse.Namespace, backbone: Backbone) -> Path:
    """Learn a start in one way, in about `--budget` steps of 16 examples in all; the file of its prompt."""
    half = chosen.budget // 2
    count = sum(name != target for name in chosen.sources)
    recipes = tasks(target, chosen, place / "data", half // count if way == "multitask" else chosen.budget)
    if way == "multitask":  # a half for the teachers, a half for the shared prompt
        return source_train(recipes, place / "run", steps=half, backbone=backbone).path
    if way == "pretrain":
        return pretrain(recipes, place / "run", like=next(iter(recipes.values())), backbone=backbone).artifact
    rules: dict[str, Rule] = {"reptile": "reptile", "fomaml": "fomaml"}
    return meta(recipes, place / "run", rule=rules[way], rounds=max(1, chosen.budget // ROUND), backbone=backbone).path


def learned(way: str, target: str, chosen: argparse.Namespace, protocol: Run, backbone: Backbone) -> Source:
    """A start, from build/many_tasks where it is there; its cost goes to the log."""
    digest = hashlib.sha256(json.dumps(protocol).encode()).hexdigest()[:12]
    place = KEPT / f"{target}-{way}-{digest}"
    with alone(place):
        told, path = place / "learned.json", place / "prompt.safetensors"
        if not told.exists():
            shutil.rmtree(place, ignore_errors=True)  # what a killed process left; the cost is that of the whole
            began = time.process_time()
            shutil.copyfile(learn(way, target, place, chosen, backbone), path)
            write_atomically(told, json.dumps({"cpu_s": round(time.process_time() - began, 1)}).encode())
        key = protocol | {"kind": "start", "task": target, "start": way, "seed": 0}
        if not known(chosen.log, key):
            keep(chosen.log, key | json.loads(told.read_text()) | facts(backbone))
    return Source(way, Artifact.load(path))


def cell(task: str, shots: int, seed: int, starts: list[Source], chosen: argparse.Namespace, backbone: Backbone) -> Run:
    """A target from scratch and from every start: on dev, on test, and which answers on test are right."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        parts = few(task, shots, seed, chosen.test)
        steps = max(chosen.steps, chosen.epochs * -(-len(parts["train"]) // 16))
        base = recipe(parts, place / "data", seed, steps)
        mpt = base.model_copy(update={"method": base.method.model_copy(update={"name": "mpt"})})
        made = {"scratch": base} | ({"mpt scratch": mpt} if "multitask" in chosen.starts else {})
        made |= {one.name: starting_from(mpt if one.name == "multitask" else base, one.path) for one in starts}
        found = {member.name: outcome(member) for member in together(made, place, backbone)}
    return {"prompts": found, "n": len(parts["test"]), "cpu_s": round(time.process_time() - began, 1)}


def home(task: str, seed: int, model: str, chosen: argparse.Namespace, backbone: Backbone) -> Source:
    """A prompt of a task on one of the two backbones, trained on rows that the seed draws; no test row is looked at."""
    name = f"{task}-{model.rpartition('/')[2]}"
    place = KEPT / f"{name}-{seed}-{chosen.source_rows}-{chosen.source_steps}-{backbone.fingerprint[:12]}"
    with alone(place):
        made = recipe(divided(task, seed, chosen), place / "data", seed, chosen.source_steps, backbone={"name": model})
        return Source(name, Artifact.load(stage(made, place / "run", backbone=backbone).artifact))


def divided(task: str, seed: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """Rows that a seed draws from train, 200 to choose the state by, and test."""
    whole = rows(task, chosen.test)
    train = whole["train"][200:]
    drawn = random.Random(seed).sample(train, min(chosen.source_rows, len(train)))
    asked = {loose(text) for text, _ in whole["test"]}
    kept = [row for row in drawn if loose(row[0]) not in asked]
    return {"train": kept, "dev": whole["train"][: min(200, chosen.source_rows)], "test": whole["test"]}


def moved(task: str, seed: int, chosen: argparse.Namespace, small: Backbone, large: Backbone) -> Run:
    """A prompt on the larger backbone without any training there, beside its controls and beside training there."""
    began = time.process_time()
    models = {NANO: small, TINY: large}
    both = {
        name: [home(name, seed, model, chosen, one) for model, one in models.items()]
        for name in dict.fromkeys((task, *chosen.sources))
    }
    own = both.pop(task)
    parts = divided(task, seed, chosen)
    asked = parts | {"dev": parts["test"], "test": parts["dev"]}  # what is measured has chosen nothing, at home neither
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        made = recipe(asked, place / "data", seed, chosen.source_steps)
        pairs = [(first, second) for first, second in both.values()]
        found = project(made, own[0], pairs, place / "moved", backbone=large).as_dict()
        beside = {"at home": bound(made, own[0], small), "trained": bound(made, own[1], large)}
    del found["prompt"]  # a file that is gone
    return {"moved": found, "beside": beside, "n": len(asked["dev"]), "cpu_s": round(time.process_time() - began, 1)}


def bound(made: Recipe, source: Source, backbone: Backbone) -> Run:
    """Loss and accuracy of a prompt on the backbone that it was trained on."""
    plan = make_plan(made, backbone)
    prompt = placed(plan, source.path, backbone)
    values, right = losses(prompt, plan.dev, 32), marks(prompt, plan, plan.dev)
    return {"loss": sum(values) / len(values), "accuracy": sum(right) / len(right)}


def everything(chosen: argparse.Namespace, backbone: Backbone) -> None:
    """All cells that are lacking, seed by seed."""
    protocol = {"backbone": backbone.fingerprint, "sources": chosen.sources, "source_rows": chosen.source_rows}
    protocol["budget"] = chosen.budget
    found: dict[str, list[Source]] = {}
    for seed in chosen.seeds:
        for shots in chosen.shots:
            for task in chosen.targets:
                own = {"kind": "cell", "task": task, "shots": shots, "seed": seed, "starts": chosen.starts}
                key = protocol | own | {"steps": chosen.steps, "epochs": chosen.epochs, "test": chosen.test}
                if known(chosen.log, key):
                    continue
                if task not in found:
                    found[task] = [learned(way, task, chosen, protocol, backbone) for way in chosen.starts]
                keep(chosen.log, key | cell(task, shots, seed, found[task], chosen, backbone) | facts(backbone))


def projections(chosen: argparse.Namespace, small: Backbone, large: Backbone) -> None:
    """All moved prompts that are lacking, seed by seed."""
    base = {"backbone": large.fingerprint, "small": small.fingerprint, "sources": chosen.sources, "test": chosen.test}
    base |= {"source_rows": chosen.source_rows, "source_steps": chosen.source_steps}
    for seed in chosen.seeds:
        for task in chosen.targets:
            key = base | {"kind": "project", "task": task, "seed": seed}
            if not known(chosen.log, key):
                keep(chosen.log, key | moved(task, seed, chosen, small, large) | facts(large))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--targets", type=split, default=list(TARGETS))
    arguments.add_argument("--sources", type=split, help=f"[default: {','.join(SOURCES)}; of pairs {','.join(PAIRS)}]")
    arguments.add_argument("--starts", type=split, default=list(STARTS))
    arguments.add_argument("--shots", type=numbers, default=[16, 32])
    arguments.add_argument("--seeds", type=numbers, help="[default: 0,1,2,3,4; with --project 0,1,2]")
    arguments.add_argument("--steps", type=int, default=30, help="of a target, or more, for --epochs over its examples")
    arguments.add_argument("--epochs", type=int, default=4)
    arguments.add_argument("--budget", type=int, default=480, help="steps of 16 examples that learn a start")
    arguments.add_argument("--source-rows", type=int, help="[default: 400; with --project 1000]")
    arguments.add_argument("--source-steps", type=int, default=120, help="of a prompt of a pair")
    arguments.add_argument("--test", type=int, default=300)
    arguments.add_argument("--project", action="store_true", help="move prompts between backbones")
    arguments.add_argument("--log", type=Path, default=LOG)
    arguments.add_argument("--page", action="store_true", help="write docs/transfer.md from what was measured")
    chosen = arguments.parse_args()
    if chosen.page:
        put(PAGE, "starts", page(done(chosen.log)))
        return
    if not DATA.exists():
        raise SystemExit(f"no real data: {DATA.relative_to(ROOT.parent)} is absent beside the repository")
    chosen.sources = chosen.sources or list(PAIRS if chosen.project else SOURCES)
    chosen.seeds = chosen.seeds or ([0, 1, 2] if chosen.project else [0, 1, 2, 3, 4])
    chosen.source_rows = chosen.source_rows or (1000 if chosen.project else 400)
    torch.set_num_threads(1)
    if chosen.project:
        projections(chosen, load_backbone(NANO), load_backbone(TINY))
    else:
        everything(chosen, load_backbone(TINY))


if __name__ == "__main__":
    main()
