"""What a run wrote about itself: the losses of its steps, its dev scores, how it ended. It needs no model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompt.files import read_regular
from softprompt.recipe import Recipe, load_recipe
from softprompt.training import run_in

LIMIT = 1 << 30  # bytes of a log


@dataclass(frozen=True)
class Trace:
    """A run, as its files tell it."""

    recipe: Recipe
    losses: list[float]  # of every optimiser step
    dev: list[dict[str, Any]]  # every evaluation on dev
    failure: dict[str, Any] | None  # the error that ended it
    report: dict[str, Any] | None  # None: it has not ended

    @property
    def ends(self) -> tuple[float, float]:
        """The mean loss of the first twentieth of the steps (3 at least), and of the last quarter."""
        first, last = max(3, len(self.losses) // 20), max(3, len(self.losses) // 4)
        return mean(self.losses[:first]), mean(self.losses[-last:])


def read(folder: str | Path) -> Trace:
    """The trace of a run; raises `TrainingError` SP-E511 where the folder holds none."""
    place = run_in(folder)
    events = []
    if (place / "log.jsonl").exists():
        for line in read_regular(place / "log.jsonl", LIMIT).decode("utf-8", "replace").splitlines():
            try:
                events.append(json.loads(line))
            except json.JSONDecodeError:  # the line that was being written when the run died
                continue
    report = place / "report.json"
    return Trace(
        recipe=load_recipe(place / "recipe.yaml"),
        losses=[event["loss"] for event in events if event["event"] == "step"],
        dev=[event for event in events if event["event"] == "dev"],
        failure=next((event for event in reversed(events) if event["event"] == "failed"), None),
        report=json.loads(report.read_text(encoding="utf-8")) if report.exists() else None,
    )


def mean(values: list[float]) -> float:
    """The mean of some numbers."""
    return sum(values) / len(values)
