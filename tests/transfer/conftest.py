"""Two source prompts of one start and a target, on one tiny model: what the tests of transfer share."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny_runs
import torch

from softprompt.backbones import Backbone
from softprompt.recipe import Recipe
from softprompt.training import train
from softprompt.transfer.sources import Source, named

QUICK = ("train.save_seconds=100", "optim.lr=0.3")


@dataclass(frozen=True)
class Bench:
    """A folder with a model, data, and two trained prompts."""

    folder: Path
    backbone: Backbone

    def recipe(self, *settings: str) -> Recipe:
        """A short run on the target: dev and test are files of their own."""
        made = tiny_runs.recipe(self.folder, *QUICK, "train.steps=4", "train.evaluate_every=2", *settings)
        dev = str(tiny_runs.write_rows(self.folder / "dev.csv", 80, seed=2))
        return made.model_copy(update={"data": made.data.model_copy(update={"dev": dev})})

    def sources(self, *names: str) -> list[Source]:
        return named([self.folder / name for name in names])


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """`near` was trained for the target's own task until it could do it, `far` for one step from the same start."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("transfer")
    made = Bench(folder, tiny_runs.open_model(folder))
    train(made.recipe("train.steps=150", "train.evaluate_every=50"), folder / "near", backbone=made.backbone)
    train(made.recipe("train.steps=1", "train.evaluate_every=1"), folder / "far", backbone=made.backbone)
    return made
