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
from softprompt.doctor import before
from softprompt.errors import TrainingError
from softprompt.files import write_atomically
from softprompt.lab.parts import Parts
from softprompt.lab.protocol import Protocol, Question, entrant
from softprompt.plan import build, make_plan
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
    """Train recipes in passes of `at_once`; go on where that was stopped, or read what is there.

    A recipe that is not worth training is an entry with its error; raises that error where none is left.
    """
    trained, refused = worth_training(recipes, place, backbone)
    for name, error in refused.items():
        listen({"event": "note", "text": f"{place.name}, {name}: not trained: {error['message']}"})
    if not trained:
        error = next(iter(refused.values()))
        raise TrainingError(error["code"], error["found"], error["expected"], error["do"], where=str(place))
    made = {one.name: one for one in shared_passes(trained, place, backbone, at_once, listen).entries}
    lacking = {name: Entry(name, place / name, None, error, {}, (), "") for name, error in refused.items()}
    return Swept(place, [(made | lacking)[name] for name in recipes])


def shared_passes(
    recipes: Mapping[str, Recipe], place: Path, backbone: Callable[[], Backbone], at_once: int, listen: Listener
) -> Swept:
    """Train all of some recipes, or read them; raises `TrainingError` where `place` holds others."""
    known = manifest(place)
    names = list(recipes)
    if known is not None and known["members"] != plain(recipes):
        found, do = "runs of another comparison", "use another folder, or remove this one"
        raise TrainingError("SP-E514", found, "an empty folder, or this comparison", do, where=str(place))
    if known is not None and all(ended(place / name) for name in names):
        return results(place, names)
    frozen = backbone()
    clock = Clock(place / "clock.json", listen)
    swept = train_all(recipes, place, backbone=frozen, at_once=at_once, listen=clock)
    clock.keep()
    return swept


def worth_training(
    recipes: Mapping[str, Recipe], place: Path, backbone: Callable[[], Backbone]
) -> tuple[dict[str, Recipe], dict[str, Any]]:
    """The recipes that are trained, and by name why the others are not: a drawn rate may be too low to move anything.

    Training would stop all of a pass for one of them (`SP-E530`). What was decided once stays, in `refused.json`.
    """
    path = place / "refused.json"
    if path.exists():
        refused = json.loads(path.read_text(encoding="utf-8"))
    else:
        refused = {name: why for name, recipe in recipes.items() if (why := lost(recipe, backbone)) is not None}
        place.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(refused, indent=1).encode())
    return {name: recipe for name, recipe in recipes.items() if name not in refused}, refused


def lost(recipe: Recipe, backbone: Callable[[], Backbone]) -> dict[str, Any] | None:
    """The error of a recipe whose rate is so low that it would be stopped before its first step."""
    if recipe.optim.lr == "auto":
        return None
    plan = make_plan(recipe, backbone())
    for finding in before.rates(build(plan, backbone()), plan):
        if finding.severity == "error":
            found, do = f"{finding.rule}: {finding.seen}", finding.command()
            return TrainingError("SP-E530", found, finding.threshold, do).as_dict()
    return None


def cpu_seconds(place: Path) -> float:
    """What training a group took so far."""
    path = place / "clock.json"
    return float(json.loads(path.read_text())["cpu_seconds"]) if path.exists() else 0.0
