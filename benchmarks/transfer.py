"""What a source prompt is worth to a task with few examples: nine sources, six targets, and a control for each.

    python benchmarks/transfer.py [--shots 16,32,128] [--seeds 0,1,2,3,4] [--targets sst2,cr] [--sources ...] [--page]
    python benchmarks/transfer.py --distill [--teacher full] [--seeds 0,1,2]

Reads ../shared/data. A source prompt is trained once on `--source-rows` examples and kept in build/transfer. Then every
target, at every number of examples per class and every seed (which draws the examples), is trained from scratch and
from every source of another task, in one pass on one budget. `--distill` teaches five vectors what fifty answer (or the
model itself, tuned), beside five that learn alone. Runs go to benchmarks/results/transfer.jsonl, one line a target,
size and seed; what is there is not run again, so it can be stopped and repeated. `--page` writes docs/transfer.md from
that file. All prompts begin at one text, so that they can be compared; dev, as large as train, chooses the state and
the source; test chooses nothing. `--steps`, `--epochs`, `--source-rows`, `--source-steps`, `--test` and `--log` are for
trying the script out. A first part of about 25 minutes on one core: --shots 16 --seeds 0,1,2
"""

import argparse
import fcntl
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from results import DATA, ROOT, Rows
from runs import Run, done, facts, known, numbers, put, split
from tasks import write
from transfer_page import page
from transfer_tasks import SOURCES, TARGETS, few, rows

from softprompt import load_backbone
from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.backbones.embedded import TINY
from softprompt.plan import make_plan
from softprompt.recipe import Recipe, make_recipe
from softprompt.run import restore
from softprompt.stages import stage
from softprompt.sweep.lockstep import Member, go_together
from softprompt.transfer.distill import distill
from softprompt.transfer.paired import marks
from softprompt.transfer.similarity import similarity
from softprompt.transfer.sources import Source, starting_from
from softprompt.transfer.teachers import Teacher, tuned_here

LOG = ROOT / "benchmarks" / "results" / "transfer.jsonl"
PAGE = ROOT / "docs" / "transfer.md"
KEPT = ROOT / "build" / "transfer"  # source prompts
TEXT = "Read the text, think about what it says, and answer the question that follows in one or two words, please."


def recipe(parts: dict[str, Rows], folder: Path, seed: int, steps: int, **sections: Any) -> Recipe:
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: write(part, ("text", "label"), folder / f"{name}.csv") for name, part in parts.items()}
    every = max(1, steps // 4)
    values = {
        "backbone": {"name": TINY},
        "data": files | {"text": ["text"], "label": "label"},
        "task": {"head": "verbalizer", "metric": "accuracy"},
        "init": {"kind": "text", "text": TEXT},
        "train": {"steps": steps, "evaluate_every": every, "patience": None, "seed": seed, "threads": 1},
    }
    return make_recipe(values | sections)


def source(task: str, chosen: argparse.Namespace, backbone: Backbone) -> Source:
    """A prompt trained on many examples of a task; from build/transfer where it is there."""
    sizes = f"{chosen.source_rows}-{chosen.source_steps}-{backbone.fingerprint[:12]}"
    place = KEPT / f"{task}-{sizes}"
    whole = rows(task, 1)
    dev = min(200, chosen.source_rows)
    parts = {"train": whole["train"][200 : 200 + chosen.source_rows], "dev": whole["train"][:dev]}
    with alone(place):
        made = recipe(parts | {"test": whole["test"]}, place / "data", 0, chosen.source_steps)
        return Source(task, Artifact.load(stage(made, place / "run", backbone=backbone).artifact))


@contextmanager
def alone(place: Path) -> Iterator[None]:
    """Wait until no other process is at work in `place`: several run at once, and must not read half of a file."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_name(f"{place.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # let go when the file is closed, or its process dies
        yield


class Quick(Member):
    """A member of a pass that is not scored when it is done: test is asked once, and no baseline is repeated."""

    def finish(self) -> None:
        self.log.close()
        if self.error is None:
            restore(self.prompt, self.run.best)


def cell(
    task: str, shots: int, seed: int, sources: list[Source], chosen: argparse.Namespace, backbone: Backbone
) -> Run:
    """A target from scratch and from every source: accuracy on dev and test, right answers, and similarity."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        parts = few(task, shots, seed, chosen.test)
        steps = max(chosen.steps, chosen.epochs * -(-len(parts["train"]) // 16))
        base = recipe(parts, place / "data", seed, steps)
        starts = {"scratch": base} | {one.name: starting_from(base, one.path) for one in sources}
        members = together(starts, place, backbone)
        found = {member.name: outcome(member) for member in members}
        scratch = members[0]
        own = Artifact.of(scratch.prompt, {}, {})
        for one in sources:
            found[one.name] |= similarity(own, one.artifact)._asdict()
    return {"prompts": found, "n": len(scratch.plan.test), "cpu_s": round(time.process_time() - began, 1)}


def together(recipes: Mapping[str, Recipe], place: Path, backbone: Backbone) -> list[Quick]:
    """Recipes trained in one pass, a folder each."""
    members = [
        Quick(name, make_plan(made, backbone), place / name, lambda event: None) for name, made in recipes.items()
    ]
    for member in members:
        member.place.mkdir()
    go_together(members, backbone, lambda event: None)
    return members


def outcome(member: Member) -> Run:
    """The best on dev, and which answers on test are right."""
    if member.error is not None:
        return {"error": str(member.error)}
    right = marks(member.prompt, member.plan, member.plan.test)
    best = max(member.run.history, key=lambda event: tuple(event["key"]))
    return {"dev": best["key"], "test": sum(right) / len(right), "right": "".join(str(int(one)) for one in right)}


def shortened(task: str, seed: int, chosen: argparse.Namespace, backbone: Backbone) -> Run:
    """What fifty vectors answer, or the tuned model, into five vectors, beside five that learn alone."""
    began = time.process_time()
    whole = rows(task, chosen.test)
    train = whole["train"]
    held = train[: min(200, chosen.source_rows)]
    parts = {"train": train[200 : 200 + chosen.source_rows], "dev": held, "test": whole["test"]}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        long = {"method": {"length": 50}}
        made = recipe(parts, place / "data", seed, chosen.source_steps, **long)
        teacher: Source | Teacher = tuned_here("full")
        if chosen.teacher == "prompt":
            teacher = Source("teacher", Artifact.load(stage(made, place / "teacher", backbone=backbone).artifact))
        given = made.model_copy(update={"method": made.method.model_copy(update={"length": 5})})
        found = distill(given, teacher, place / "short", length=5, backbone=backbone)
    facts_ = {"teacher": found.teacher, "paired": found.test.as_dict(), "behind": found.against_teacher.as_dict()}
    scores = {"distilled": found.student.report, "alone": found.control.report}
    facts_ |= {which: report["scores"][0] for which, report in scores.items() if report is not None}
    return facts_ | {"cpu_s": round(time.process_time() - began, 1)}


def everything(chosen: argparse.Namespace, backbone: Backbone) -> None:
    """All cells that are lacking."""
    base = {"backbone": backbone.fingerprint, "source_rows": chosen.source_rows, "source_steps": chosen.source_steps}
    if chosen.distill:
        for seed in chosen.seeds:
            for task in chosen.targets:
                kind = "distill" if chosen.teacher == "prompt" else f"distill {chosen.teacher}"
                key = base | {"kind": kind, "task": task, "seed": seed, "test": chosen.test}
                if not known(chosen.log, key):
                    keep(chosen.log, key | shortened(task, seed, chosen, backbone) | facts(backbone))
        return
    prompts = {task: source(task, chosen, backbone) for task in chosen.sources}
    digest = hashlib.sha256(" ".join(chosen.sources).encode()).hexdigest()[:8]
    for shots in chosen.shots:
        for seed in chosen.seeds:
            for task in chosen.targets:
                own = {"kind": "cell", "task": task, "shots": shots, "seed": seed}
                key = (
                    base
                    | own
                    | {"steps": chosen.steps, "epochs": chosen.epochs, "test": chosen.test, "sources": digest}
                )
                if not known(chosen.log, key):
                    others = [one for name, one in prompts.items() if name != task]
                    keep(chosen.log, key | cell(task, shots, seed, others, chosen, backbone) | facts(backbone))


def keep(log: Path, run: Run) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        file.write(json.dumps(run) + "\n")
    print(run["kind"], run["task"], run.get("shots", ""), run["seed"], f"{run['cpu_s']} CPU s", flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--targets", type=split, default=list(TARGETS))
    arguments.add_argument("--sources", type=split, default=list(SOURCES))
    arguments.add_argument("--shots", type=numbers, default=[16, 32, 128])
    arguments.add_argument("--seeds", type=numbers, default=[0, 1, 2, 3, 4])
    arguments.add_argument("--steps", type=int, default=30, help="of a target, or more, for --epochs over its examples")
    arguments.add_argument("--epochs", type=int, default=4)
    arguments.add_argument("--source-rows", type=int, default=1000)
    arguments.add_argument("--source-steps", type=int, default=120)
    arguments.add_argument("--test", type=int, default=300)
    arguments.add_argument("--distill", action="store_true", help="fifty vectors into five, for --targets")
    arguments.add_argument("--teacher", choices=["prompt", "full"], default="prompt", help="fifty vectors, or tuned")
    arguments.add_argument("--log", type=Path, default=LOG)
    arguments.add_argument("--page", action="store_true", help="write docs/transfer.md from what was measured")
    chosen = arguments.parse_args()
    if chosen.page:
        put(PAGE, "transfer", page(done(chosen.log)))
        return
    if not DATA.exists():
        raise SystemExit(f"no real data: {DATA.relative_to(ROOT.parent)} is absent beside the repository")
    torch.set_num_threads(1)
    everything(chosen, load_backbone(TINY))


if __name__ == "__main__":
    main()
