"""From a recipe with gaps to a run without any: data read and split, template, head, metric and rate chosen.

Everything chosen here ends up in the resolved recipe, which is printed, saved, and repeats the run.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.backbones.precision import check_precision
from softprompt.choices import (
    check_scoring,
    choose_head,
    choose_init,
    choose_rate,
    default_template,
    spoken,
)
from softprompt.core import Example, Start
from softprompt.data import Columns, Dataset, TaskKind, k_shot, leakage, read, split
from softprompt.data.checks import by_class, content
from softprompt.errors import DataError, RecipeError
from softprompt.fewshot.calibrate import calibrated
from softprompt.fewshot.demonstrations import demonstrated, set_apart
from softprompt.fewshot.sample import few_shot
from softprompt.images import ImageTemplate
from softprompt.init import from_prompt, from_sources, make_start
from softprompt.methods import check_options, find
from softprompt.metrics import default_metric, find_metric
from softprompt.prompt import Prompt, Task
from softprompt.readout import make_head
from softprompt.recipe import Recipe
from softprompt.template import Template, wrong

__all__ = ["Plan", "build", "check_options", "default_template", "fill", "make_plan", "spoken", "without_lora"]


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


def read_part(recipe: Recipe, path: str, first: Dataset | None) -> Dataset:
    """One file; after the first, columns, kind and labels are those of the first."""
    section = recipe.data
    columns = first.columns if first else Columns(section.text, section.label, section.image)
    kind = first.kind if first else (None if recipe.task.kind == "auto" else recipe.task.kind)
    labels = (first.labels if first else recipe.task.labels) or None
    return read(
        path,
        columns=columns,
        kind=kind,
        labels=labels,
        on_bad_row=section.on_bad_row,
        format=section.format,
        encoding=section.encoding,
    )


def divide(
    recipe: Recipe, data: Dataset, parts: dict[str, Dataset]
) -> tuple[list[Example], list[Example], list[Example]]:
    """Train, dev and test examples; what has no file of its own is set aside from train, by class."""
    if recipe.data.few_shot:
        return few_shot(recipe.data, data, parts)
    shares = dict(zip(("train", "dev", "test"), recipe.data.split, strict=True))
    wanted = {name: share for name, share in shares.items() if name not in parts}
    total = sum(wanted.values())
    if len(wanted) == 1:
        made = {"train": data.examples}
    else:
        made = dict(
            zip(wanted, split(data, [share / total for share in wanted.values()], recipe.data.seed), strict=True)
        )
    made |= {name: part.examples for name, part in parts.items()}
    if recipe.data.shots:
        made["train"] = k_shot(made["train"], recipe.data.shots, recipe.data.seed)
        if "dev" not in parts and made["dev"]:  # a few-shot run that chooses on a large dev set is not a few-shot run
            fewest = min(len({content(e) for e in members}) for members in by_class(made["dev"]).values())
            made["dev"] = k_shot(made["dev"], min(recipe.data.shots, fewest), recipe.data.seed)
    return made["train"], made["dev"], made["test"]


def refuse_leaks(data: Dataset, seen: list[Example], part: list[Example], what: str, allow: bool) -> list[str]:
    """Raise `DataError` where examples of a part were seen before; with `allow`, say so instead."""
    found = leakage(replace(data, examples=seen), replace(data, examples=part))
    errors = [problem for problem in found if problem.severity == "error"]
    if errors and not allow:
        first = errors[0]
        raise DataError(
            first.code,
            f"{len(errors)} {what}, the first: {first.found}",
            "different examples",
            "remove them, or set data.allow_leakage=true",
            where=first.where,
        )
    return [f"{len(errors)} {what} (data.allow_leakage)"] if errors else []


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


def build(plan: Plan, backbone: Backbone) -> Prompt:
    """The untrained prompt of a plan. The same plan and backbone give the same bits.

    Raises `RecipeError` SP-E830 for a LoRA beside it, which `softprompt.joint.build` builds.
    """
    recipe = plan.recipe
    without_lora(recipe)
    torch.manual_seed(recipe.train.seed)
    kind = find(recipe.method.name)
    slots, length = kind.stands_in_text(recipe.method.options), recipe.method.length
    limit, cut = recipe.task.max_tokens, recipe.task.truncate
    most = kind.most_tokens(recipe.method.options)
    if most is not None:
        limit = min(limit or 10**9, most + (length if slots else 0))
    template: Any
    if backbone.spec.kind == "vision":
        template = ImageTemplate(recipe.task.template, backbone, length=length)
    else:
        template = Template(plan.template, backbone, length=length, prefix=0 if slots else length, limit=limit, cut=cut)
    if template.vectors != (length if slots else 0):
        place = f"write {{soft:{length}}}" if slots else "take {soft} out: its vectors enter at every layer"
        found = f"{template.vectors or 'no'} slots for method {recipe.method.name}"
        raise wrong(recipe.task.template, found, place)
    head = make_head(plan, backbone, template)
    # A head that reads hidden states of an encoder-decoder never runs its decoder, so the method sees an encoder.
    spec = replace(backbone.spec, decoder_layers=0) if head.reads == "hidden" else backbone.spec
    start = starting_point(plan, backbone, template, keys=kind.starts_from_keys(recipe.method.options))
    try:
        method = kind(spec, start, **recipe.method.options)
    except (ValueError, TypeError, RuntimeError, LookupError) as error:
        raise RecipeError(
            "SP-E212", f"{error}"[:200], f"options of {recipe.method.name}", "mend method.options"
        ) from error
    prompt = Prompt(backbone, method, head, template, Task(plan.kind, plan.labels, recipe.task.new_tokens))
    return calibrated(prompt, recipe.task.calibrate, plan.train)


def starting_point(plan: Plan, backbone: Backbone, template: Any, *, keys: bool) -> Start:
    """Where training begins, as `init` says."""
    recipe = plan.recipe
    kind, warm = recipe.init.kind, recipe.init.kind == "prompt"
    examples = list(islice((e for e in plan.train), recipe.method.length))
    pixels = None
    if backbone.spec.kind == "vision":
        rows = [template.encode(example) for example in examples[:4]]
        pixels = torch.stack([row.pixels for row in rows])
    text = recipe.init.text or " ".join(flat(example, template.fields) for example in examples)
    start = make_start(
        backbone,
        "vocabulary" if warm else kind,  # type: ignore[arg-type]
        recipe.method.length,
        keys=keys,
        seed=recipe.train.seed,
        text=text,
        labels=[recipe.task.words.get(label, spoken(label)) for label in plan.labels],
        pixels=pixels,
    )
    if warm:
        assert recipe.init.source is not None
        start = from_prompt(start, *stored(recipe.init.source, backbone))
    return from_sources(start, [stored(path, backbone) for path in recipe.init.sources])


def stored(path: str, backbone: Backbone) -> tuple[dict[str, torch.Tensor], str]:
    """The tensors of a prompt's method and its name; raises `ArtifactError` where it is of another backbone."""
    artifact = Artifact.load(path)
    artifact.check_backbone(backbone)
    return artifact.method_tensors(), Path(path).name


def flat(example: Example, fields: Sequence[str]) -> str:
    """The text of an example's columns."""
    values = [example.fields[name] for name in fields if name in example.fields]
    return " ".join(value if isinstance(value, str) else " ".join(value) for value in values)
