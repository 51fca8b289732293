"""What every method is and, on a backbone, whether it works and what it trains. Imports torch: for use in commands."""

import inspect
from dataclasses import fields
from typing import Any, get_args

import torch

from softprompt.backbones import Backbone, load_backbone
from softprompt.core import TEXT, Batch, Injection, Kind, Spec, Start
from softprompt.errors import SoftpromptError, Unsupported
from softprompt.init import make_start
from softprompt.methods import Method, find, names, option_names

Facts = dict[str, Any]
ENTRANCES = ("embeds", "offset", "prefix", "cross", "deep")  # where something enters a model, as in docs/backbones.md


def survey(model: str | None, length: int) -> list[Facts]:
    """The facts of every method; with a model, also `supported`, `parameters` and `reason`."""
    found = [describe(name) for name in names()]
    if not model:
        return found
    backbone = load_backbone(model)
    return [facts | try_out(facts["id"], backbone, length) for facts in found]


def describe(name: str) -> Facts:
    """What a method says of itself; options with their defaults."""
    method = find(name)
    signature = inspect.signature(method.__init__).parameters
    return {
        "id": name,
        "summary": method.summary,
        "paper": method.paper,
        "kinds": list(found := by_kind(method)),
        "enters": list(dict.fromkeys(field for entered in found.values() for field in entered)),
        "options": {option: signature[option].default for option in option_names(method)},
    }


def by_kind(method: type[Method], length: int = 20, hidden: int = 128) -> dict[str, list[str]]:
    """The kinds of models that a method takes, each with the fields it fills; asked of it, on sizes made up."""
    found = {}
    slots = torch.tensor([[*range(length if method.slots else 0), TEXT]])
    batch = Batch(torch.zeros_like(slots), torch.ones_like(slots, dtype=torch.bool), slots)
    for kind in get_args(Kind):
        decoder = 2 if kind == "seq2seq" else 0
        spec = Spec(kind, hidden, hidden, layers=2, kv_heads=2, head_dim=64, decoder_layers=decoder)
        try:
            with torch.inference_mode():
                made = method(spec, Start(torch.randn(length, hidden)))(batch, torch.randn(*slots.shape, hidden))
        except Unsupported:
            continue
        found[kind] = [field for part in (made, made.decoder) if part for field in used(part) if field in ENTRANCES]
    return found


def try_out(name: str, backbone: Backbone, length: int) -> Facts:
    """Build a method for a backbone and look at what it would inject."""
    kind = find(name)
    pixels, vision = None, backbone.spec.kind == "vision"
    if vision:
        config = backbone.model.config
        images = -(-length // (config.image_size // config.patch_size) ** 2)
        pixels = torch.zeros(images, config.num_channels, config.image_size, config.image_size)
    try:
        start = make_start(backbone, "vocabulary", length, keys=kind.starts_from_keys({}), seed=0, pixels=pixels)
        method = kind(backbone.spec, start)
        with torch.inference_mode():
            made = method(*sample(backbone, length if kind.slots else 0))
    except SoftpromptError as error:
        return {"supported": False, "parameters": None, "reason": str(error)}
    refused = [backbone.unsupported[field] for field in used(made) if field in backbone.unsupported]
    count = sum(weight.numel() for weight in method.parameters())
    return {"supported": not refused, "parameters": count, "reason": refused[0] if refused else None}


def sample(backbone: Backbone, vectors: int) -> tuple[Batch, torch.Tensor]:
    """A row of slots and one token, and its frozen embeddings [1, T, H]."""
    slots = torch.tensor([[*range(vectors), TEXT]], device=backbone.device)
    ids = torch.zeros_like(slots)
    batch = Batch(ids, torch.ones_like(ids, dtype=torch.bool), slots)
    if backbone.spec.kind == "vision":
        return batch, torch.zeros(*ids.shape, backbone.spec.hidden, device=backbone.device)
    return batch, backbone.tokens(ids)


def used(injection: Injection) -> list[str]:
    """The fields of an injection that hold something."""
    return [field.name for field in fields(injection) if getattr(injection, field.name) is not None]
