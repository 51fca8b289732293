"""Layers in parts on all ranks (torch's FSDP2), for a frozen model that is larger than one device.

Every rank keeps a part of each layer and of each table of words. A layer is whole while tokens pass it, forward and
back; its parts are all that travels, because frozen weights have no gradients. So a forward is a meeting of all ranks:
each has to run as many, through the same layers (`softprompt.engine.idle`).
"""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from softprompt.backbones.base import Backbone, close, gap
from softprompt.backbones.packing import OneStack
from softprompt.backbones.probe import probe_ids
from softprompt.errors import RecipeError, TrainingError

T = TypeVar("T")


def several() -> bool:
    """Whether there are ranks to share a model among."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def check_shard(shard: str, quantize: str) -> None:
    """Raise `RecipeError` for another way than by layers, and for rounded weights, which FSDP2 cannot put together."""
    if shard != "layers" or quantize != "none":
        found = f"shard={shard}" if shard != "layers" else f"backbone.quantize={quantize} beside backbone.shard"
        raise RecipeError("SP-E840", found, "shard=layers, or none, and whole weights", "leave one of them out")


def shard_over_ranks(load: Callable[[], Backbone], place: torch.device) -> Backbone:
    """The backbone that `load` reads into main memory, in parts on the ranks' own `place`s.

    Its fingerprint is that of the whole. Small weights (norms, positions), and a table of words that is also the layer
    that speaks, stay whole on every rank. Raises what `load` does, `RecipeError` where layers cannot be told apart, and
    `TrainingError` where the parts answer otherwise than the whole.
    """
    from torch.distributed.device_mesh import init_device_mesh  # not in every build of torch, and slow to import

    mesh = init_device_mesh(place.type, (dist.get_world_size(),))

    def part() -> tuple[Backbone, Tensor, tuple[Tensor, Tensor]]:
        backbone = load()
        layers = listed(backbone)
        with torch.no_grad():
            words = backbone.tokens(probe_ids(backbone))
        before = said(backbone.model, words)
        backbone.__dict__["fingerprint"] = backbone.fingerprint  # the place of a cached property
        divide(backbone.model, layers, mesh, place)
        backbone.sharded = True
        return backbone, words.to(place), before

    backbone, words, before = by_turns(part)
    # It warns of what is computed in place on a view, which would lose a hook; the next line would show that.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view", category=UserWarning)
    check_same(said(backbone.model, words), before)  # the model itself first: what runs first is the root to torch
    return backbone


def by_turns(make: Callable[[], T]) -> T:
    """What `make` makes, on one rank of a machine after the other, so that its memory holds one whole model at a time.

    Raises what `make` raised once all have had their turn: the ranks fail alike, instead of waiting for each other.
    """
    turn = int(os.environ.get("LOCAL_RANK", dist.get_rank()))
    turns = [turn] * dist.get_world_size()
    dist.all_gather_object(turns, turn)  # a machine may have more ranks than another
    made: list[T] = []
    failed: Exception | None = None
    for now in range(max(turns) + 1):
        if now == turn:
            try:
                made.append(make())
            except Exception as error:
                failed = error
        dist.barrier()
    if failed is not None:
        raise failed
    return made[0]


def divide(model: Any, layers: Sequence[nn.Module], mesh: Any, place: torch.device) -> None:
    """Leave a part of each layer and of the tables of words on this rank; what is left is whole, on `place`."""
    from torch.distributed.fsdp import fully_shard

    units = [*layers, *tables(model)]
    apart = {id(weight) for unit in units for weight in unit.parameters()}
    rest = {weight for weight in model.parameters() if id(weight) not in apart}
    # The last two hold nothing: where one of them is entered, layers are fetched while others compute.
    for module in dict.fromkeys([*units, model.base_model, model]):
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=rest)
    for weight in rest:
        weight.data = weight.data.to(place)


def listed(backbone: Backbone) -> Sequence[nn.Module]:
    """The layers of a language model of one stack, as transformers marks them; raises `RecipeError` for any other."""
    config = backbone.model.config.get_text_config()
    layers = [part for part in backbone.model.modules() if isinstance(part, GradientCheckpointingLayer)]
    if not isinstance(backbone, OneStack) or len(layers) != config.num_hidden_layers:
        found = f"backbone.shard for {backbone.model.config.model_type}"
        raise RecipeError("SP-E840", found, "a causal model or an encoder with layers of its own", "leave it out")
    return layers


def tables(model: Any) -> list[nn.Module]:
    """The modules that read words and that speak, where their weights are no other module's too."""
    owners = Counter(id(weight) for part in model.modules() for weight in part.parameters(recurse=False))
    found = [part for part in (model.get_input_embeddings(), model.get_output_embeddings()) if part is not None]
    return [part for part in found if all(owners[id(weight)] == 1 for weight in part.parameters())]


def said(model: Any, words: Tensor) -> tuple[Tensor, Tensor]:
    """What a model answers by itself to embeddings [1, T, H], logits or states, and a gradient back to them."""
    words = words.detach().requires_grad_()
    answer = model(inputs_embeds=words)[0]
    (gradient,) = torch.autograd.grad(answer.float().square().mean(), words)
    return answer.detach().cpu(), gradient.cpu()


def check_same(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> None:
    """Raise `TrainingError` where answer or gradient of a model in parts are not those of the whole."""
    off = max(gap(ours, right) for ours, right in zip(found, wanted, strict=True))
    if not all(close(ours, right) for ours, right in zip(found, wanted, strict=True)):
        expected = "those of the whole model"
        do = "leave backbone.shard out, and report this family"
        raise TrainingError("SP-E841", f"answers of a model in parts that are off by {off:.1e}", expected, do)


def held(backbone: Backbone) -> tuple[int, int]:
    """Numbers of a sharded model that lie on this rank, and all of them."""
    from torch.distributed.tensor import DTensor

    weights = list(backbone.model.parameters())
    here = sum(weight.to_local().numel() if isinstance(weight, DTensor) else weight.numel() for weight in weights)
    return here, sum(weight.numel() for weight in weights)
