"""Data, recipes and runs that the doctor's cases are made of: three small backbones in one folder."""

import csv
import random
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import tiny_runs

from softprompt.backbones import Backbone, load_backbone
from softprompt.doctor import Finding, recipe
from softprompt.doctor.after import examine_run
from softprompt.errors import SoftpromptError
from softprompt.plan import Plan, make_plan
from softprompt.prompt import Prompt
from softprompt.recipe import Recipe, make_recipe, override
from softprompt.training import train
from softprompt.untrained import build

POOLS = {
    "mood": (["great", "wonderful", "lovely", "happy", "nice"], ["terrible", "awful", "boring", "sad", "nasty"]),
    "kind": (["dog", "cat", "horse", "bird", "fish"], ["red", "blue", "green", "yellow", "white"]),
    "random": ([f"w{i}" for i in range(10, 14)], [f"w{i}" for i in range(50, 54)]),
}
PARTS = ("train", "dev", "test")


class Ward:
    """What the cases share. `spawn` is the seed of everything."""

    def __init__(self, folder: Path, spawn: int = 0) -> None:
        self.folder, self.spawn, self.count = folder, spawn, 0
        self.looks = [0.0]  # seconds of computing that the doctor took, for each recipe and run

    @cached_property
    def backbones(self) -> dict[str, Backbone]:
        """`nano` has learnt something, `llama` and `bert` have random weights."""
        made = {name: load_backbone(tiny_runs.save_model(self.folder, name)) for name in ("llama", "bert")}
        return made | {"nano": load_backbone("softprompt/nano")}

    def data(
        self, task: str, sizes: tuple[int, ...], *, noise: float = 0.0, share: float = 0.5, behind: int = 0
    ) -> dict[str, str]:
        """A CSV for each part, no text twice.

        `noise` of the training labels are thrown anew, `share` of all are "yes", and `behind` words that say nothing
        stand in front of the ones that do.
        """
        self.count += 1
        rng, seen, files = random.Random(self.spawn * 10_000 + self.count), {""}, {}
        for part, rows in zip(PARTS, sizes, strict=True):
            path = self.folder / f"{part}-{self.count}.csv"
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(["text", "label"])
                for at in range(rows):
                    yes, text = (at * 7 % 20) < 20 * share, ""
                    while text in seen:
                        text = self.text(rng, POOLS[task][0 if yes else 1], behind)
                    seen.add(text)
                    thrown = part == "train" and rng.random() < noise
                    writer.writerow([text, ("yes" if yes else "no") if not thrown else rng.choice(["yes", "no"])])
            files[part] = str(path)
        return files

    def text(self, rng: random.Random, pool: list[str], behind: int) -> str:
        """Words of a pool, behind words of no meaning."""
        empty = [f"w{i}" for i in range(70, 90)] if pool[0][1:].isdigit() else ["this", "and", "then", "it", "was"]
        return " ".join(
            [rng.choice(empty) for _ in range(behind)] + [rng.choice(pool) for _ in range(rng.randint(4, 7))]
        )

    def recipe(
        self, base: str, *settings: str, task: str = "", sizes: tuple[int, ...] = (160, 60, 160), **shape: Any
    ) -> Recipe:
        """A recipe over data of its own, sound unless the settings or the shape of the data make it sick."""
        data = self.data(task or ("mood" if base == "nano" else "random"), sizes, **shape)
        values: dict[str, Any] = {
            "backbone": {"name": self.backbones[base].name},
            "data": data,
            "method": {"length": 4},
            "train": {
                "epochs": 5,
                "patience": None,
                "threads": 1,
                "save_seconds": 100.0,
                "seed": self.spawn + self.count,
            },
        }
        if base == "bert":
            values["task"] = {"head": "classifier"}
        if base == "llama" and "task.head=classifier" not in settings:
            values["task"] = {"words": {"yes": "w5", "no": "w6"}}
        return make_recipe(override(values, list(settings)))

    def backbone(self, made: Recipe) -> Backbone:
        """The backbone that a recipe names."""
        return next(one for one in self.backbones.values() if one.name == made.backbone.name)

    def train(self, made: Recipe) -> Path:
        """The folder of a run; also of one that failed."""
        self.count += 1
        place = self.folder / f"run-{self.count}"
        try:
            train(made, place, backbone=self.backbone(made))
        except SoftpromptError as error:
            if error.code != "SP-E520":
                raise
        return place

    def run(self, made: Recipe) -> list[Finding]:
        """Train, and look at the run."""
        place, began = self.train(made), time.process_time()
        found = examine_run(place, self.backbone(made))
        self.looks.append(time.process_time() - began)
        return found

    def look(self, made: Recipe) -> list[Finding]:
        """Look at a recipe."""
        began = time.process_time()
        found = recipe.examine(made, self.backbone(made))
        self.looks.append(time.process_time() - began)
        return found

    def prompt(self, made: Recipe) -> tuple[Prompt, Plan]:
        """The untrained prompt of a recipe."""
        plan = make_plan(made, self.backbone(made))
        return build(plan, self.backbone(made)), plan
