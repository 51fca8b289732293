"""A tiny real run: a random model on disk, a labelled CSV, and a recipe. What the tests of training share."""

import csv
import random
from pathlib import Path
from typing import Any

import families
import tokenizers_tiny

from softprompt.backbones import Backbone, load_backbone
from softprompt.recipe import Recipe, make_recipe, override


def save_model(folder: Path, name: str = "llama") -> Path:
    """A tiny random model with a word-level tokenizer, in the transformers layout."""
    path = folder / name
    families.model(name).save_pretrained(path)
    tokenizers_tiny.words(families.V).save_pretrained(path)
    return path


def write_rows(path: Path, count: int, seed: int = 0) -> Path:
    """Texts of random words in two classes, told apart by the words they use."""
    rng = random.Random(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(count):
            label = i % 2
            pool = range(10, 40) if label else range(50, 80)
            writer.writerow([" ".join(f"w{rng.choice(pool)}" for _ in range(rng.randint(3, 8))), ["w5", "w6"][label]])
    return path


def recipe(folder: Path, *settings: str, model: str = "llama") -> Recipe:
    """A run of a few seconds over files in `folder`."""
    path = folder / model
    data = {
        "train": str(write_rows(folder / "train.csv", 40)),
        "test": str(write_rows(folder / "test.csv", 20, seed=1)),
    }
    values: dict[str, Any] = {
        "backbone": {"name": str(path if path.exists() else save_model(folder, model))},
        "data": data,
        "method": {"length": 4},
        "train": {"epochs": 2, "batch_size": 8, "patience": None, "threads": 1, "save_seconds": 1e-6},
    }
    return make_recipe(override(values, list(settings)))


def open_model(folder: Path, name: str = "llama") -> Backbone:
    """The backbone that `recipe` names."""
    path = folder / name
    return load_backbone(path if path.exists() else save_model(folder, name))
