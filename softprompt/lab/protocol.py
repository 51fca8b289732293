"""What is compared: methods x tasks x seeds x sizes under one protocol, and the settings that a search may draw.

Every method answers the same *question* (a task with a number of training examples) with the same number of trials,
the same draws and the same seeds. Dodge et al. 2019, "Show Your Work" (arXiv:1909.03004), section 2: what a method
reaches depends on how much it was tuned, so budgets are equal and reported.
"""

import json
import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from softprompt.errors import RecipeError
from softprompt.methods import find
from softprompt.plain import read_yaml
from softprompt.recipe import Recipe, make_recipe, override
from softprompt.sweep import AT_ONCE, agree
from softprompt.sweep.grid import parse

OVER = ("lr=0.005..0.3",)  # the bounds of `lr: auto` (softprompt.choices.RATES)
SEARCHED = ("method", "init", "optim", "train")  # sections that a search may draw from
SLOTS = re.compile(r"\{soft(:\d+)?\}")
SETTING = re.compile(r"\+(?=[a-z_.]+=)")  # begins what a method fixes, as in prompt_tuning+init.kind=random
FIXED = ("method.name", "train.seed", "train.threads", "train.compare", "train.track")


@dataclass(frozen=True)
class Question:
    """A task with so many training examples; None: all that there are."""

    task: str
    size: int | None

    @property
    def amount(self) -> str:
        """The size as a name."""
        return "all" if self.size is None else str(self.size)


@dataclass(frozen=True)
class Protocol:
    """A comparison in full; raises `RecipeError` for one that cannot be made or would not be fair."""

    tasks: Mapping[str, Recipe]  # by name: the data, and everything that is not searched
    methods: tuple[str, ...]  # each with what it fixes, if anything: prompt_tuning+init.kind=random+length=5
    seeds: int = 5
    trials: int = 4  # of every method and question; the first is the recipe as it stands
    sizes: tuple[int | None, ...] = (None,)
    seed: int = 0  # of the split, of the draws, and the first of the seeds
    selection: float = 0.2  # share of the training examples that settings are chosen on
    over: tuple[str, ...] = OVER
    at_once: int = AT_ONCE

    def __post_init__(self) -> None:
        for text in self.methods:
            find(contender(text)[0])
        wrong = problem(self)
        if wrong:
            do = "see `softprompt compare --help`"
            raise RecipeError("SP-E280", wrong[0], wrong[1], do)
        agree(self.tasks)
        self.draws(0)
        drawn = parse(self.over).keys() if self.trials > 1 else set()
        for text in self.methods:
            both = ", ".join(sorted(drawn & contender(text)[1].keys()))
            if both:
                do = "leave it out of one of them"
                raise RecipeError("SP-E280", f"{both} in {text} and in what is drawn", "one of them", do)

    @property
    def questions(self) -> list[Question]:
        """Every task at every size."""
        return [Question(task, size) for task in self.tasks for size in self.sizes]

    @property
    def runs(self) -> list[int]:
        """The seeds of the reported runs."""
        return [self.seed + i for i in range(self.seeds)]

    def draws(self, trial: int) -> dict[str, Any]:
        """The setting of a trial, by dotted key: the same for every method, so that none has the luckier draws.

        Trial 0 changes nothing; a range `A..B` is drawn evenly on the scale of logarithms.
        """
        found = parse(self.over)
        for key in found:
            if key.partition(".")[0] not in SEARCHED or key in FIXED:
                raise RecipeError("SP-E280", f"a search over {key}", "a setting of how a prompt is trained", "leave it")
        drawn = {key: draw(values, f"{self.seed}/{trial}/{key}") for key, values in found.items()}
        return drawn if trial else {}

    def facts(self) -> dict[str, Any]:
        """The protocol as plain values, without the recipes."""
        return {
            "tasks": list(self.tasks),
            "methods": list(self.methods),
            "seeds": self.runs,
            "trials": self.trials,
            "sizes": [Question("", size).amount for size in self.sizes],
            "seed": self.seed,
            "selection": self.selection,
            "over": list(self.over),
            "at_once": self.at_once,
        }


def problem(protocol: Protocol) -> tuple[str, str] | None:
    """What is wrong with a comparison and what was expected; None where nothing is."""
    folders = [folder_of(text) for text in protocol.methods]
    counts = {"tasks": list(protocol.tasks), "methods": folders, "sizes": protocol.sizes}
    for name, values in counts.items():
        if not values or len(set(values)) != len(values):
            return f"{name} {', '.join(map(str, values)) or 'missing'}", "one or more, each once"
    if min(protocol.seeds, protocol.trials, *(1 if size is None else size for size in protocol.sizes)) < 1:
        return "seeds, trials or sizes below 1", "1 or more"
    if not 0 < protocol.selection < 1:
        return f"a selection split of {protocol.selection:g}", "a share of the training examples, such as 0.2"
    for name, recipe in protocol.tasks.items():
        if recipe.data.shots:
            return f"data.shots in {name}", "the number of training examples, with --sizes"
        if recipe.train.compare:
            return f"train.compare in {name}, which chooses its rates on dev", "methods alone, with equal budgets"
    return None


def contender(text: str) -> tuple[str, dict[str, Any]]:
    """The method of one side of a comparison, and what it fixes: `prompt_tuning+init.kind=random`.

    Raises `RecipeError` SP-E280 for a setting that is not of how a prompt is trained, or that has several values.
    """
    name, *settings = SETTING.split(text)
    fixed = parse(settings)
    for key, values in fixed.items():
        if key.partition(".")[0] not in SEARCHED or key in FIXED or len(values) != 1:
            expected = "one value of a setting of how a prompt is trained"
            raise RecipeError("SP-E280", f"{key}={'|'.join(values)} in {text}", expected, "leave it")
    return name, {key: read_yaml(values[0]) for key, values in fixed.items()}


def folder_of(text: str) -> str:
    """A method with what it fixes, as the name of a folder."""
    return re.sub(r"[^\w.+=-]+", "-", text)


def draw(values: list[str], seed: str) -> Any:
    """One of several values, or one of the range `A..B`; whole where both ends are."""
    chance = random.Random(seed)  # of a text, by SHA-512: the same in every process
    low, dots, high = values[0].partition("..")
    if len(values) > 1 or not dots:
        return read_yaml(chance.choice(values))
    ends = [read_yaml(low), read_yaml(high)]
    if not all(isinstance(end, int | float) and end > 0 for end in ends) or ends[0] >= ends[1]:
        do = "write it as lr=0.005..0.3, or name values: length=5|10|20"
        raise RecipeError("SP-E280", f"the range {values[0]}", "two numbers above 0, the smaller first", do)
    value = math.exp(chance.uniform(math.log(ends[0]), math.log(ends[1])))
    return round(value) if all(isinstance(end, int) for end in ends) else float(f"{value:.3g}")


def around(template: str, slots: bool) -> str:
    """A template as a method needs it: the text stays, slots come in front where it has none, or are taken out."""
    if not slots:
        return SLOTS.sub("", template)
    return template if SLOTS.search(template) else "{soft}" + template


def entrant(
    recipe: Recipe, method: str, seed: int, drawn: Mapping[str, Any], changes: Mapping[str, Mapping[str, Any]]
) -> Recipe:
    """The recipe of one run: a method on a task, with the drawn setting; `changes` are its data and the like.

    Options of the recipe's method are its own: another method begins with its defaults. What `method` fixes comes last.
    """
    method, fixed = contender(method)
    values = recipe.model_dump(mode="json", exclude_unset=True)
    own = values.get("method", {})
    values["method"] = own if recipe.method.name == method else {k: v for k, v in own.items() if k == "length"}
    values["method"] = values["method"] | {"name": method}
    for section, added in changes.items():
        values[section] = values.get(section, {}) | dict(added)
    values["train"] = values.get("train", {}) | {"seed": seed}
    given = (dict(drawn) | fixed).items()
    settings = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in given]
    values = override(values, settings)
    if recipe.task.template != "auto":
        slots = find(method).stands_in_text(values["method"].get("options", {}))
        values["task"] = values["task"] | {"template": around(recipe.task.template, slots)}
    return make_recipe(values, where=method)
