"""Groups of runs that share passes: the trials of a method, of which the selection split chooses one, and its seeds.

The runs of a pass are of one method: then its seconds are that method's own, and a number does not depend on which
other methods are compared. A group that is done is read, never run again.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompt.backbones import Backbone
from softprompt.doctor import before
from softprompt.errors import TrainingError
from softprompt.files import write_atomically
from softprompt.lab.parts import Parts
from softprompt.lab.protocol import Protocol, Question, entrant
from softprompt.plan import make_plan
from softprompt.recipe import Recipe
from softprompt.run import Listener
from softprompt.sweep import Swept, Unit, lay_out, manifest, plain, train_all
from softprompt.sweep.results import Entry, ended, results
from softprompt.untrained import build


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


@dataclass(frozen=True)
class Group:
    """Runs of one method on one question that are trained together: its trials, or its seeds."""

    recipes: dict[str, Recipe]
    place: Path


def trials(protocol: Protocol, question: Question, method: str, parts: Parts) -> dict[str, Recipe]:
    """Random search: every trial at the first seed, on the training examples, judged on the selection split."""
    seed, recipe, changes = protocol.runs[0], protocol.tasks[question.task], parts.trial(question, protocol.runs[0])
    draws = [protocol.draws(i) for i in range(protocol.trials)]
    return {f"trial-{i}": entrant(recipe, method, seed, drawn, changes) for i, drawn in enumerate(draws)}


def seeds(
    protocol: Protocol, question: Question, method: str, setting: Mapping[str, Any], parts: Parts
) -> dict[str, Recipe]:
    """The chosen setting at every seed, judged on test."""
    recipe = protocol.tasks[question.task]
    return {
        f"seed-{seed}": entrant(recipe, method, seed, setting, parts.final(question, seed)) for seed in protocol.runs
    }


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
    if over(recipes, place):
        return results(place, list(recipes))
    return train_all(recipes, place, backbone=backbone(), at_once=at_once, listen=listen)


def over(recipes: Mapping[str, Recipe], place: Path) -> bool:
    """Whether all of some recipes were trained in `place`; raises `TrainingError` where it holds others."""
    known = manifest(place)
    if known is not None and known["members"] != plain(recipes):
        found, do = "runs of another comparison", "use another folder, or remove this one"
        raise TrainingError("SP-E514", found, "an empty folder, or this comparison", do, where=str(place))
    return known is not None and all(ended(place / name) for name in recipes)


def units(recipes: Mapping[str, Recipe], place: Path, backbone: Callable[[], Backbone], at_once: int) -> list[Unit]:
    """What `group` would still have to train, with its folder laid out for who trains it; nothing where all is done."""
    trained, _ = worth_training(recipes, place, backbone)
    if not trained or over(trained, place):
        return []
    return lay_out(trained, place, backbone=backbone(), at_once=at_once).units


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
