"""The three tasks that methods are compared on: SST-2, TREC and E2E, as files and recipes for the embedded backbone."""

import csv
import random
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from results import DATA, Rows, parts

from softprompt.backbones.embedded import TINY
from softprompt.recipe import Recipe, make_recipe

DEV = 50  # restaurants of E2E; 200 rows of the others
TREC = {"DESC": "description", "ENTY": "thing", "ABBR": "abbreviation", "HUM": "person", "LOC": "place"}
TREC |= {"NUM": "number"}


@dataclass(frozen=True)
class Task:
    """How much is trained and tested, and what the recipe says of the task."""

    rows: int
    epochs: int
    test: int
    recipe: dict[str, Any]


TASKS = {
    "sst2": Task(500, 3, 600, {"head": "verbalizer"}),
    "trec": Task(500, 3, 500, {"head": "verbalizer", "words": TREC}),
    "e2e": Task(400, 2, 100, {"kind": "generation"}),
}


@cache
def e2e() -> dict[str, list[str]]:
    """The restaurants of E2E's test file with all their descriptions; its devset was in the pretraining mixture."""
    with (DATA / "e2e_nlg" / "testset_w_refs.csv").open(encoding="utf-8", newline="") as file:
        found: dict[str, list[str]] = defaultdict(list)
        for line in csv.DictReader(file):
            found[line["mr"]].append(line["ref"])
    return dict(found)


def divided(task: str, rows: int, test: int) -> dict[str, Rows]:
    """Train, dev and test rows. E2E: no meaning representation is in two parts; dev and test have one row for each."""
    if task != "e2e":
        return parts(task, rows, test)
    known = e2e()
    order = sorted(known)
    random.Random(1).shuffle(order)
    pairs = [(asked, text) for asked in order[test + DEV :] for text in known[asked]]
    random.Random(1).shuffle(pairs)
    alone = [(asked, known[asked][0]) for asked in order[: test + DEV]]
    return {"train": pairs[:rows], "dev": alone[test:], "test": alone[:test]}


def write(rows: Rows, header: tuple[str, str], path: Path) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def files(name: str, task: Task, folder: Path) -> dict[str, str]:
    header = ("input", "output") if name == "e2e" else ("text", "label")
    made = divided(name, task.rows, task.test)
    folder.mkdir(parents=True, exist_ok=True)
    return {part: write(rows, header, folder / f"{part}.csv") for part, rows in made.items()}


def recipe(name: str, task: Task, seed: int, folder: Path, **sections: Any) -> Recipe:
    """The recipe of a run; `sections` are those that differ from the defaults."""
    values = {
        "backbone": {"name": TINY},
        "data": files(name, task, folder),
        "task": task.recipe,
        "train": {"epochs": task.epochs, "seed": seed, "threads": 1},
    }
    return make_recipe(values | sections)
