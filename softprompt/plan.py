"""From a recipe with gaps to a run without any: data read and split, template, head, metric and rate chosen.

Everything chosen here ends up in the resolved recipe, which is printed, saved, and repeats the run.
"""

from collections import Counter
from dataclasses import dataclass, field

import torch

from softprompt.backbones import Backbone
from softprompt.backbones.precision import check_precision
from softprompt.choices import check_scoring, choose_head, choose_init, choose_rate, default_template, spoken
from softprompt.core import Example
from softprompt.data import Dataset, TaskKind
from softprompt.errors import DataError, RecipeError
from softprompt.fewshot.demonstrations import demonstrated, set_apart
from softprompt.methods import check_options, find
from softprompt.metrics import default_metric, find_metric
from softprompt.parts import divide, read_part, refuse_leaks
from softprompt.recipe import Recipe


@dataclass(frozen=True)
class Plan:
    """A resolved recipe and the examples it names."""

    recipe: Recipe
    train: list[Example]
    dev: list[Example]
    test: list[Example]
    labels: tuple[str, ...]
    sha256: dict[str, str]  # of every data file, so that a resumed run cannot go on with other data
    notes: list[str] = field(default_factory=list)
    shown: list[Example] = field(default_factory=list)  # demonstrations, in front of every text

    @property
    def kind(self) -> TaskKind:
        """The kind of answer."""
        kind = self.recipe.task.kind
        assert kind != "auto"
        return kind

    @property
    def template(self) -> str:
        """The template as it is used, demonstrations included."""
        task, length = self.recipe.task, self.recipe.method.length
        return demonstrated(task.template, length, self.shown, task.words) if self.shown else task.template

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.recipe.train.steps or self.recipe.train.epochs * self.steps_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps that see every training example once."""
        size = self.recipe.train.batch_size * self.recipe.train.accumulate
        return -(-len(self.train) // size)


def make_plan(recipe: Recipe, backbone: Backbone) -> Plan:
    """Read the data and fill in what the recipe left open.

    Raises `DataError` for wrong data, also where test or dev examples occur in train, and `RecipeError` for settings
    that do not fit together.
    """
    if not recipe.data.train:
        raise RecipeError("SP-E206", "no training data", "data.train", "name a file: `softprompt train DATA --model M`")
    data = read_part(recipe, recipe.data.train, None)
    parts = {name: read_part(recipe, path, data) for name in ("dev", "test") if (path := getattr(recipe.data, name))}
    train, dev, test = divide(recipe, data, parts)
    notes = [*data.notes, f"{len(train)} train, {len(dev)} dev, {len(test)} test examples"]
    for name, part in (("dev", dev), ("test", test)):
        if not part:
            raise DataError("SP-E132", f"no {name} example", f"some to score on, or data.{name}", "set data.split")
    for name, part, other, seen in (
        ("dev", dev, "train", train),
        ("test", test, "train", train),
        ("test", test, "dev", dev),
    ):
        notes += refuse_leaks(data, seen, part, f"{name} examples that are in {other}", recipe.data.allow_leakage)
    shown: list[Example] = []
    if recipe.task.demonstrations:
        shown, train = set_apart(train, recipe.data.seed)
        notes.append(f"{len(shown)} of the training examples are demonstrations")
    sources = {"train": data, **parts}
    return Plan(
        recipe=fill(recipe, backbone, data, train),
        train=train,
        dev=dev,
        test=test,
        labels=data.labels,
        sha256={name: part.sha256 for name, part in sources.items()},
        notes=notes,
        shown=shown,
    )


def fill(recipe: Recipe, backbone: Backbone, data: Dataset, train: list[Example]) -> Recipe:
    """The recipe with every `auto` decided."""
    if recipe.train.precision == "bfloat16":
        check_precision(torch.bfloat16, backbone.device, "train.precision")
    method = find(recipe.method.name)
    check_options(method, recipe.method.options)
    kind = data.kind if recipe.task.kind == "auto" else recipe.task.kind
    words = {label: recipe.task.words.get(label, spoken(label)) for label in data.labels}
    head = choose_head(recipe, method, backbone, kind, words)
    check_scoring(recipe.task, head, data.labels)
    texts = tuple(data.columns.text)
    template = (
        default_template(method, backbone, head, texts, recipe.method.options)
        if recipe.task.template == "auto"
        else recipe.task.template
    )
    counts = Counter(str(example.label) for example in train)
    metric = recipe.task.metric
    if metric == "auto":
        answers = data.labels or tuple(counts)
        metric = default_metric(kind, answers, [counts.get(label, 0) for label in answers])
    if kind not in find_metric(metric).kinds:
        raise RecipeError("SP-E214", f"metric {metric} for {kind}", "a metric of that kind of task", "set task.metric")
    init = choose_init(recipe, method)
    pool = {"causal": "last", "vision": "cls"}.get(backbone.spec.kind, "mean")
    task = recipe.task.model_copy(
        update={
            "kind": kind,
            "head": head,
            "labels": data.labels,
            "template": template,
            "metric": metric,
            "words": words if head == "verbalizer" else {},
            "pool": pool if recipe.task.pool == "auto" else recipe.task.pool,
        }
    )
    section = recipe.data.model_copy(update={"text": texts, "label": data.columns.label, "image": data.columns.image})
    filled = recipe.model_copy(
        update={"task": task, "data": section, "init": recipe.init.model_copy(update={"kind": init})}
    )
    return filled.model_copy(update={"optim": filled.optim.model_copy(update={"lr": choose_rate(filled, len(train))})})


def without_lora(recipe: Recipe) -> None:
    """Raise `RecipeError` SP-E830 for a LoRA where prompts are trained by themselves."""
    if recipe.lora.rank:
        found, do = f"lora.rank={recipe.lora.rank}, a LoRA that trains together with the prompt", "leave lora out here"
        expected = "`softprompt train`, `resume` or `transfer transprompt`, which alone train both"
        raise RecipeError("SP-E830", found, expected, do)
