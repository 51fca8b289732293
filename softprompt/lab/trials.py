"""Groups of runs that share passes: the trials of a method, of which the selection split chooses one, and its seeds.

The runs of a pass are of one method: then its seconds are that method's own, and a number does not depend on which
other methods are compared. A group that is done is read, never run again.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softprompt.backbones import Backbone
from softprompt.errors import TrainingError
from softprompt.files import write_atomically
from softprompt.lab.parts import Parts
from softprompt.lab.protocol import Protocol, Question, entrant
from softprompt.recipe import Recipe
from softprompt.run import Event, Listener
from softprompt.sweep import Swept, manifest, plain, train_all
from softprompt.sweep.results import Entry, ended, results

TIMED = ("step", "pass", "dev")  # events at the end of work that is training
EVERY = 1.0  # seconds between notes of the clock


@dataclass
class Clock:
    """A listener that adds up the CPU seconds of training, over every process that worked on a group."""

    path: Path
    listen: Listener
    seconds: float = 0.0
    mark: float = field(default_factory=time.process_time)
    kept: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.path.exists():
            self.seconds = json.loads(self.path.read_text())["cpu_seconds"]

    def __call__(self, event: Event) -> None:
        """Count the time since the last event where it was training, and pass the event on."""
        now = time.process_time()
        if event["event"] in TIMED:
            self.seconds += now - self.mark
        if event["event"] == "pass" and time.monotonic() - self.kept > EVERY:
            self.keep()
        self.listen(event)
        self.mark = time.process_time()

    def keep(self) -> None:
        """Write what was counted so far."""
        write_atomically(self.path, json.dumps({"cpu_seconds": self.seconds}).encode())
        self.kept = time.monotonic()


@dataclass(frozen=True)
class Tried:
    """The trials of a method on a question, and the one that the selection split chose."""

    entries: list[Entry]
    settings: list[dict[str, Any]]

    @property
    def chosen(self) -> int:
        """The best on the selection split, the first of equals; a trial that broke off cannot be chosen."""
        whole = [i for i, entry in enumerate(self.entries) if entry.report is not None]
        return max(whole, key=lambda i: (self.entries[i].key, -i))


def search(
    protocol: Protocol, question: Question, method: str, parts: Parts, train: Callable[[Mapping[str, Recipe]], Swept]
) -> Tried:
    """Random search: every trial at the first seed, on the training examples, judged on the selection split."""
    seed, settings = protocol.runs[0], [protocol.draws(i) for i in range(protocol.trials)]
    recipe, changes = protocol.tasks[question.task], parts.trial(question, seed)
    recipes = {f"trial-{i}": entrant(recipe, method, seed, drawn, changes) for i, drawn in enumerate(settings)}
    return Tried(train(recipes).entries, settings)


def repeat(
    protocol: Protocol,
    question: Question,
    method: str,
    setting: Mapping[str, Any],
    parts: Parts,
    train: Callable[[Mapping[str, Recipe]], Swept],
) -> list[Entry]:
    """The chosen setting at every seed, judged on test."""
    recipe = protocol.tasks[question.task]
    made = {
        f"seed-{seed}": entrant(recipe, method, seed, setting, parts.final(question, seed)) for seed in protocol.runs
    }
    return train(made).entries


def group(
    recipes: Mapping[str, Recipe], place: Path, backbone: Callable[[], Backbone], at_once: int, listen: Listener
) -> Swept:
    """Train recipes in passes of `at_once`; go on where that was stopped, or read what is there."""
    before = manifest(place)
    names = list(recipes)
    if before is not None and before["members"] != plain(recipes):
        found, do = "runs of another comparison", "use another folder, or remove this one"
        raise TrainingError("SP-E514", found, "an empty folder, or this comparison", do, where=str(place))
    if before is not None and all(ended(place / name) for name in names):
        return results(place, names)
    frozen = backbone()
    clock = Clock(place / "clock.json", listen)
    swept = train_all(recipes, place, backbone=frozen, at_once=at_once, listen=clock)
    clock.keep()
    return swept


def cpu_seconds(place: Path) -> float:
    """What training a group took so far."""
    path = place / "clock.json"
    return float(json.loads(path.read_text())["cpu_seconds"]) if path.exists() else 0.0
