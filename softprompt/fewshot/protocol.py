"""The same run on several fixed samples: mean, ± and spread, because one sample of 16 a class says little.

Gao, Fisch, Chen 2021, arXiv:2012.15723, section 3: five samples, the mean and the standard deviation over them.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompt.backbones import Backbone
from softprompt.errors import RecipeError
from softprompt.fewshot.sample import SEEDS
from softprompt.metrics import Score, over_seeds
from softprompt.recipe import Recipe
from softprompt.run import Listener
from softprompt.sweep import train_all
from softprompt.sweep.results import Entry, Swept


@dataclass(frozen=True)
class Repeated:
    """A run at every seed, and what they say together: the test examples are the same for all."""

    swept: Swept

    @property
    def entries(self) -> list[Entry]:
        """The runs that ended well, seed by seed."""
        return [entry for entry in self.swept.entries if entry.report is not None]

    @property
    def score(self) -> Score:
        """The mean test score with Student's 95 % half-width over the samples."""
        return over_seeds([one(entry.report["scores"][0]) for entry in self.entries if entry.report])

    @property
    def spread(self) -> dict[str, float]:
        """Standard deviation over the samples, which papers print, and the worst and the best of them."""
        values = [entry.report["scores"][0]["value"] for entry in self.entries if entry.report]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        return {"deviation": deviation, "lowest": min(values), "highest": max(values)}

    @property
    def baselines(self) -> dict[str, Score]:
        """The same mean for every baseline of the runs."""
        reports = [entry.report["baselines"] for entry in self.entries if entry.report]
        return {name: over_seeds([one(report[name]) for report in reports]) for name in reports[0]}

    def as_dict(self) -> dict[str, Any]:
        """The outcome as plain values."""
        beside = {name: score.as_dict() for name, score in self.baselines.items()}
        facts = {"test": self.score.as_dict(), "spread": self.spread, "baselines": beside}
        return self.swept.as_dict() | facts


def one(score: dict[str, Any]) -> Score:
    """The score of a single run out of its report."""
    return Score(score["name"], score["value"], score["error"], score["n"])


def repeat(
    recipe: Recipe,
    folder: str | Path,
    *,
    seeds: Sequence[int] = SEEDS,
    backbone: Backbone | None = None,
    listen: Listener = lambda event: None,
) -> Repeated:
    """Train a recipe with `data.few_shot` once a seed, in one pass; a seed draws the sample and the random numbers.

    Goes on where it was stopped, as a sweep does. Raises `RecipeError` SP-E754 for a recipe without `data.few_shot`.
    """
    if recipe.data.few_shot is None:
        do = "add --few-shot 16, or use `softprompt sweep DATA --over seed=0,1,2`"
        raise RecipeError("SP-E754", "several samples of all the data", "data.few_shot", do)
    recipes = {f"seed-{seed}": at(recipe, seed) for seed in seeds}
    return Repeated(train_all(recipes, folder, backbone=backbone, listen=listen))


def at(recipe: Recipe, seed: int) -> Recipe:
    """The recipe with one seed for its sample and its training."""
    data = recipe.data.model_copy(update={"seed": seed})
    return recipe.model_copy(update={"data": data, "train": recipe.train.model_copy(update={"seed": seed})})


__all__ = ["Repeated", "at", "repeat"]
