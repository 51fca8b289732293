"""Data parallel training: one process a rank, as `accelerate launch -m softprompt train ...` or `torchrun` start them.

Every rank holds the whole frozen backbone and computes its share of the rows of a step; what travels is the gradient of
the prompt and a few numbers. With `backbone.shard`, a rank holds a part of every layer, and these travel too. All ranks
hold the same prompt, bit for bit, and so decide alike. The first rank alone writes into the folder of a run; the others
keep the same run in a folder that is thrown away when they end.
"""

import os
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from softprompt.backbones import Backbone
from softprompt.backbones.sharding import held as numbers
from softprompt.errors import RecipeError, TrainingError
from softprompt.recipe import Recipe

T = TypeVar("T")
scratch: list["tempfile.TemporaryDirectory[str]"] = []  # kept until the process ends


def join() -> None:
    """Meet the other ranks, where a launcher has started several; raises `TrainingError` where accelerate is absent."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        return
    try:
        from accelerate import PartialState
    except ImportError as error:
        do = "pip install 'softprompt[accelerate]'"
        raise TrainingError("SP-E820", "several ranks, but no accelerate", "the accelerate package", do) from error
    PartialState(cpu=not torch.cuda.is_available())  # chooses gloo or nccl, and the device of this rank


def count() -> int:
    """How many ranks train one prompt."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def together() -> bool:
    """Whether several ranks train one prompt."""
    return count() > 1


def first() -> bool:
    """Whether this process writes and speaks: the only one, or rank 0."""
    return not together() or dist.get_rank() == 0


def share(rows: Sequence[T]) -> Sequence[T]:
    """The rows of a batch that this rank computes; all of them where it is alone, none where there are too few."""
    return rows[dist.get_rank() :: dist.get_world_size()] if together() else rows


def total(number: float) -> float:
    """The sum of a number over all ranks."""
    return summed(torch.tensor([float(number)], dtype=torch.float64)).item() if together() else number


def most(number: int) -> int:
    """The largest of a number over all ranks."""
    if not together():
        return number
    value = on_device(torch.tensor([number]))
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return int(value.item())


def check(recipe: Recipe) -> None:
    """Raise `RecipeError` for settings that need the whole backbone on every rank, or that ranks would do apart."""
    if recipe.backbone.shard == "none":
        return
    for clash, key, expected in (
        (recipe.lora.rank > 0, "lora.rank", "a prompt by itself"),
        (bool(recipe.train.compare), "train.compare", "no training of the backbone itself"),
        (recipe.train.cache == "file", "train.cache=file", "auto, memory or none: not every rank may have the file"),
    ):
        if clash:
            raise RecipeError("SP-E839", f"{key} beside backbone.shard", expected, "leave one of them out")


def held(backbone: Backbone) -> str:
    """What a rank holds of a backbone that is to be shared, for people."""
    if not backbone.sharded:
        return "the backbone is whole in this one process; `accelerate launch` starts several that share it"
    here, whole = numbers(backbone)
    return f"each of {count()} ranks holds at most {most(here):,} of the backbone's {whole:,} numbers"


def add_gradients(weights: Iterable[Tensor]) -> None:
    """Give every rank the sum of all gradients; a weight that has none anywhere still has none afterwards.

    The sum is made in float32 at least, in one message.
    """
    chosen = list(weights)
    if not (chosen and together()):
        return
    wide = torch.float64 if any(weight.dtype == torch.float64 for weight in chosen) else torch.float32
    parts = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in chosen]
    held = torch.tensor([weight.grad is not None for weight in chosen], dtype=wide, device=parts[0].device)
    flat = summed(torch.cat([held, *(part.detach().flatten().to(wide) for part in parts)]))
    at = len(chosen)
    for weight, anywhere in zip(chosen, flat[:at].tolist(), strict=True):
        made = flat[at : at + weight.numel()].view_as(weight)
        at += weight.numel()
        if anywhere:
            weight.grad = made.to(weight.dtype, copy=True)


def summed(values: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, the same bits on each."""
    moved = on_device(values)
    dist.all_reduce(moved)
    return moved.to(values.device)


def on_device(values: Tensor) -> Tensor:
    """A tensor where the backend of the ranks can read it."""
    return values.cuda() if dist.get_backend() == "nccl" else values


def folder(place: Path) -> Path:
    """Where this rank keeps a run: `place` on the first rank, elsewhere a copy of what the first rank has there.

    Only what a run resumes from is copied, so ranks need no common disk, and the number of ranks may change between
    one start of a run and the next.
    """
    if not together():
        return place
    found: list[dict[str, bytes] | None] = [contents(place) if first() else None]
    dist.broadcast_object_list(found)
    if first():
        return place
    scratch.append(tempfile.TemporaryDirectory(prefix="softprompt-rank-"))
    mine = Path(scratch[-1].name) / "run"
    for name, data in (found[0] or {}).items():
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_bytes(data)
    return mine


def contents(place: Path) -> dict[str, bytes]:
    """The files from which the run in a folder is resumed."""
    names = [
        name for pattern in ("recipe.yaml", "run.json", "log.jsonl", "states/*.sp") for name in place.glob(pattern)
    ]
    found = {}
    for name in names:
        with suppress(FileNotFoundError):  # a state that gave way to a newer one
            found[str(name.relative_to(place))] = name.read_bytes()
    return found


__all__ = ["add_gradients", "check", "count", "first", "folder", "held", "join", "most", "share", "together", "total"]
