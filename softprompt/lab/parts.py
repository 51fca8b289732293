"""The examples of a task in parts that share none, as files: what settings are chosen on is neither dev nor test.

`selection` is set aside from the training examples. Training sets of different size are nested, and a sample of its own
for every seed, so that ± over seeds holds the luck of the examples too; all methods get the same samples.
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompt.core import Example
from softprompt.data import Dataset, split
from softprompt.errors import DataError, TrainingError
from softprompt.example import Raster
from softprompt.files import write_atomically
from softprompt.lab.protocol import Protocol, Question
from softprompt.parts import divide, read_part, refuse_leaks
from softprompt.recipe import Recipe


@dataclass(frozen=True)
class Parts:
    """The files of one task, and what recipes have to say of them."""

    folder: Path
    section: dict[str, Any]  # keys of `data` that every run shares
    task: dict[str, Any]  # keys of `task` that the whole data decided
    counts: dict[str, int]

    def final(self, question: Question, seed: int) -> dict[str, Any]:
        """Sections of a reported run: its best state is chosen on dev, its numbers are those of test."""
        own = {"train": self.train(question, seed), "dev": self.file("dev"), "test": self.file("test")}
        return {"data": self.section | own, "task": self.task}

    def trial(self, question: Question, seed: int) -> dict[str, Any]:
        """Sections of a trial: it reads neither dev nor test; a run reports on some test, here the selection too."""
        chosen = self.file("selection")
        own = {"train": self.train(question, seed), "dev": chosen, "test": chosen, "allow_leakage": True}
        return {"data": self.section | own, "task": self.task}

    def train(self, question: Question, seed: int) -> str:
        """The training examples of a run."""
        return self.file("train" if question.size is None else f"train-{question.size}-seed-{seed}")

    def file(self, name: str) -> str:
        """The path of a part."""
        return str(self.folder / f"{name}.jsonl")


def part_out(protocol: Protocol, task: str, folder: Path) -> Parts:
    """Divide the examples of a task and write the parts; raises `DataError` where one would be empty or leak.

    Raises `TrainingError` where `folder` holds other parts.
    """
    recipe = protocol.tasks[task]
    data = read_part(recipe, recipe.data.train, None)
    given = {name: read_part(recipe, path, data) for name in ("dev", "test") if (path := getattr(recipe.data, name))}
    train, dev, test = divide(recipe, data, given)
    for name, part in (("dev", dev), ("test", test)):
        refuse_leaks(data, train, part, f"{name} examples of {task} that are in train", recipe.data.allow_leakage)
    pool, selection = split(
        Dataset(train, data.columns, data.kind, data.labels, [], "", data.source),
        [1 - protocol.selection, protocol.selection],
        protocol.seed,
    )
    made = {"train": pool, "selection": selection, "dev": dev, "test": test}
    counts = {name: len(part) for name, part in made.items()}
    for size in filter(None, protocol.sizes):
        if size > len(pool):
            found, expected = f"{len(pool)} examples of {task} to train on", f"at least {size}"
            raise DataError("SP-E132", found, expected, "leave the size out, or use a smaller --selection")
        made |= {f"train-{size}-seed-{seed}": sample(data, pool, size, seed) for seed in protocol.runs}
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in made.items():
        put(folder / f"{name}.jsonl", b"".join(line(example, data) for example in part))
    return Parts(folder.resolve(), section(recipe, data), {"kind": data.kind, "labels": list(data.labels)}, counts)


def section(recipe: Recipe, data: Dataset) -> dict[str, Any]:
    """What recipes say of the parts: JSON Lines, with the columns that were found in the whole data."""
    columns = {"text": list(data.columns.text), "label": data.columns.label or "label", "image": data.columns.image}
    return columns | {"format": "jsonl", "encoding": "utf-8", "allow_leakage": recipe.data.allow_leakage}


def sample(data: Dataset, pool: Sequence[Example], size: int, seed: int) -> list[Example]:
    """The first `size` of an order in which every beginning holds the classes in their proportion."""
    classes = [str(example.label) if data.kind == "classification" else "" for example in pool]
    chance = random.Random(seed)
    mixed = chance.sample(range(len(pool)), len(pool))
    seen: defaultdict[str, int] = defaultdict(int)
    counts, places = Counter(classes), []
    for at in mixed:
        name = classes[at]
        places.append(((seen[name] + 0.5) / counts[name], name, at))
        seen[name] += 1
    return [pool[at] for at in sorted(at for _, _, at in sorted(places)[:size])]


def line(example: Example, data: Dataset) -> bytes:
    """An example as a line; raises `DataError` for an image that has no file of its own."""
    if isinstance(example.image, Raster):
        found, do = "images that are no files", "write them as image files"
        raise DataError("SP-E129", found, "an image folder, or paths of images", do, where=data.source)
    values: dict[str, Any] = dict(example.fields)
    if example.image is not None and data.columns.image is not None:
        values[data.columns.image] = str(example.image.resolve())
    values[data.columns.label or "label"] = example.label
    return json.dumps(values, ensure_ascii=False).encode() + b"\n"


def put(path: Path, data: bytes) -> None:
    """Write a part, or find it as it was written; raises `TrainingError` where it is another."""
    if not path.exists():
        write_atomically(path, data)
    elif path.read_bytes() != data:
        found, do = "other examples", "put the data back, or use another folder"
        raise TrainingError("SP-E514", found, "the parts that the comparison began with", do, where=str(path))
