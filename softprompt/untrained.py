"""From a plan to its prompt before the first step: template, head, where training begins, and the method."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.choices import spoken
from softprompt.core import Example, Start
from softprompt.errors import RecipeError
from softprompt.fewshot.calibrate import calibrated
from softprompt.images import ImageTemplate
from softprompt.init import from_prompt, from_sources, make_start
from softprompt.methods import find
from softprompt.plan import Plan, without_lora
from softprompt.prompt import Prompt, Task
from softprompt.readout import make_head
from softprompt.template import Template, wrong


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
