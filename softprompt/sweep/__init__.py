"""Several prompts trained at once: one forward and one backward a step for all of them, all else each by itself.

Every member has its own folder, which is that of a single run: recipe, log, states, prompt, report. Rounding depends on
who is in a forward, so members go in step: states of all are saved at the same step, a sweep that was killed goes on
from the newest step that all of them have, and so it ends with the same bits as one that was not. Who is done, by
steps, by patience or by a loss that is not finite, leaves the batch.
"""

import json
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from softprompt.backbones import Backbone
from softprompt.errors import RecipeError, TrainingError
from softprompt.files import write_atomically
from softprompt.methods import check_options, find
from softprompt.plan import Plan, make_plan, without_lora
from softprompt.recipe import Recipe, make_recipe
from softprompt.run import Listener
from softprompt.stages import claim
from softprompt.sweep.clock import NAME, Clock
from softprompt.sweep.lockstep import Member, go_together
from softprompt.sweep.results import Swept, ended, results
from softprompt.training import open_backbone, set_threads


class Unit(NamedTuple):
    """Members of a sweep that share their passes, and the folder of the sweep."""

    place: Path
    names: list[str]


Then = Callable[[Unit], list[Unit]]  # what a unit that is done makes room for
Away = Callable[[list[Unit], Listener, Then], None]
elsewhere: ContextVar[Away | None] = ContextVar("elsewhere", default=None)  # who trains units, where not this process
AT_ONCE = 8  # prompts of one forward: what is kept for the backward pass grows with them
COMMON = ("checkpointing", "precision", "threads")  # settings of `train` that concern the one backbone or the machine


def train_all(
    recipes: Mapping[str, Recipe],
    folder: str | Path,
    *,
    backbone: Backbone | None = None,
    at_once: int = AT_ONCE,
    listen: Listener = lambda event: None,
) -> Swept:
    """Train a prompt for every recipe, `at_once` of them in one pass, into `folder/<name>`.

    A sweep that was stopped goes on, to the same bits; one that is done is read. Events of a member carry its name
    (`member`); beside them, `pass` is an event of all. Raises `RecipeError` for recipes that cannot share a pass,
    `TrainingError` where the folder holds something else, or where no member could be trained.
    """
    made = lay_out(recipes, folder, backbone=backbone, at_once=at_once)
    away = elsewhere.get()
    if away is not None and made.units:
        away(made.units, listen, lambda unit: [])
    for unit in made.units if away is None else ():
        run_unit(unit, made.plans, made.backbone, listen)
    return results(Path(folder), list(recipes))


@dataclass(frozen=True)
class LaidOut:
    """A sweep whose folder is there: the units that still have something to do, and what they need."""

    backbone: Backbone
    plans: dict[str, Plan]
    units: list[Unit]


def lay_out(
    recipes: Mapping[str, Recipe], folder: str | Path, *, backbone: Backbone | None = None, at_once: int = AT_ONCE
) -> LaidOut:
    """Make the folder of a sweep, or find it as it was left; raises as `train_all` does, and trains nothing."""
    place, facts = Path(folder), {"at_once": at_once, "members": plain(recipes)}
    agree(recipes)
    before = manifest(place)
    if before is not None and {name: before[name] for name in facts} != facts:
        found, do = "another sweep", "use another folder, or remove this one"
        raise TrainingError("SP-E514", found, "an empty folder, or this sweep", do, where=str(place))
    if (place / "recipe.yaml").exists():
        raise TrainingError("SP-E510", f"a run in {place}", "a new folder", "use another folder, with --run")
    for recipe in recipes.values():
        without_lora(recipe)
        check_options(find(recipe.method.name), recipe.method.options)  # before seconds go into loading a model
    first = next(iter(recipes.values()))
    backbone = backbone or open_backbone(first)
    set_threads(first)
    if before is not None:
        torch.set_num_threads(before["threads"])  # sums over other blocks give other last bits
    plans = {name: make_plan(recipe, backbone) for name, recipe in recipes.items()}
    place.mkdir(parents=True, exist_ok=True)
    whole = facts | {"threads": torch.get_num_threads()}
    write_atomically(place / "sweep.json", json.dumps(whole, indent=1).encode())
    for name, plan in plans.items():
        claim(plan, backbone, place / name)
    names = list(plans)
    units = [Unit(place, names[at : at + at_once]) for at in range(0, len(names), at_once)]
    units = [unit for unit in units if not all(ended(place / name) for name in unit.names)]
    return LaidOut(backbone, plans, units)


def run_unit(unit: Unit, plans: Mapping[str, Plan], backbone: Backbone, listen: Listener) -> None:
    """Train the members of a unit in one pass, from where they are, and note what that took."""
    clock = Clock(unit.place / unit.names[0] / NAME, listen)
    try:
        go_together([Member(name, plans[name], unit.place / name, clock) for name in unit.names], backbone, clock)
    finally:
        clock.keep()


def train_unit(unit: Unit, listen: Listener) -> None:
    """Train a unit of a sweep whose folder is there, in a process that knows nothing but that folder.

    Raises `TrainingError` where backbone or data are not those that the folder was made with.
    """
    facts = manifest(unit.place) or {}
    recipes = {name: make_recipe(facts["members"][name], where=str(unit.place)) for name in unit.names}
    backbone = open_backbone(recipes[unit.names[0]])
    torch.set_num_threads(facts["threads"])
    plans = {name: make_plan(recipe, backbone) for name, recipe in recipes.items()}
    for name, plan in plans.items():
        claim(plan, backbone, unit.place / name)
    run_unit(unit, plans, backbone, listen)


def resume_all(folder: str | Path, *, backbone: Backbone | None = None, listen: Listener = lambda event: None) -> Swept:
    """Go on with a sweep that stopped; raises `TrainingError` where the folder holds none."""
    facts = manifest(Path(folder))
    if facts is None:
        do = "check the path"
        raise TrainingError("SP-E511", f"no sweep in {folder}", "a folder made by `softprompt sweep`", do)
    recipes = {name: make_recipe(values, where=str(folder)) for name, values in facts["members"].items()}
    return train_all(recipes, folder, backbone=backbone, at_once=facts["at_once"], listen=listen)


def manifest(place: Path) -> dict[str, Any] | None:
    """What a sweep says of itself in its folder; None where there is none."""
    path = place / "sweep.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def plain(recipes: Mapping[str, Recipe]) -> dict[str, Any]:
    """Recipes as plain values that mean the same from every folder."""
    return {name: recipe.rooted().model_dump(mode="json") for name, recipe in recipes.items()}


def agree(recipes: Mapping[str, Recipe]) -> None:
    """Raise `RecipeError` for recipes that cannot run over one backbone in one process."""
    if not recipes:
        raise RecipeError("SP-E218", "no recipe", "one or more", "name a recipe")
    first, *others = recipes.items()
    for name, recipe in others:
        differing = ["backbone"] if recipe.backbone != first[1].backbone else []
        differing += [f"train.{key}" for key in COMMON if getattr(recipe.train, key) != getattr(first[1].train, key)]
        if differing:
            found = f"{', '.join(differing)} of {name} other than of {first[0]}"
            raise RecipeError("SP-E219", found, "members over one backbone, run alike", "make sweeps of those alike")
    if any("trackio" in recipe.train.track for recipe in recipes.values()):
        found = "train.track=trackio, which follows one run at a time"
        raise RecipeError("SP-E219", found, "tensorboard, or none", "set train.track")


__all__ = ["Swept", "Unit", "elsewhere", "lay_out", "manifest", "plain", "resume_all", "train_all", "train_unit"]
