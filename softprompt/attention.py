"""Learned keys and values for any transformers model, through its public attention registry.

transformers hands every keyword of `model(...)` down to the registered attention function, so one function serves
causal, bidirectional, encoder-decoder and vision models and survives activation checkpointing. `past_key_values` does
not: T5 encoders ignore it, BERT drops it under checkpointing, and vision models have no such argument.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from softprompt.core import Pair, Prefix
from softprompt.errors import Unsupported
from softprompt.packed import Packed, Several

NAME = "softprompt"
Bias = Callable[[int, int, int], Tensor]  # (P, queries, keys) -> [1, heads, queries, P]: T5's relative positions


@dataclass(frozen=True)
class Stack:
    """The attention modules of one stack, first layer first, and what enters in front of each."""

    modules: list[nn.Module]
    prefix: Prefix
    causal: bool
    bias: Bias | None = None
    keep: Tensor | None = None  # [B, P] bool, where rows have prefixes of different length


class Prefixes:
    """One forward's prefixes, looked up by the attention module that asks; optionally a record of keys and values."""

    def __init__(self, stacks: Iterable[Stack] = (), record: bool = False) -> None:
        self.entries: dict[int, tuple[Stack, Pair]] = {}
        for stack in stacks:
            pairs = zip(stack.modules, stack.prefix, strict=True)
            self.entries |= {id(module): (stack, pair) for module, pair in pairs if pair is not None}
        self.asked: set[int] = set()
        self.recording = record
        self.record: list[tuple[nn.Module, Pair]] = []  # in the order in which layers ran

    def pairs(self, modules: list[nn.Module]) -> Prefix:
        """The recorded keys and values [B, K, T, D] of `modules`, in their order."""
        by_module = {id(module): pair for module, pair in self.record}
        return tuple(by_module[id(module)] for module in modules)

    def check(self) -> None:
        """Raise `Unsupported` if a layer never asked for its prefix: what is given must not be ignored."""
        silent = len(self.entries.keys() - self.asked)
        if silent:
            raise Unsupported(
                "SP-E411",
                f"{silent} of {len(self.entries)} layers that ignored their prefix",
                "every attention layer to read it through the attention registry of transformers",
                "use method prompt_tuning, or a backbone family listed in docs/backbones.md",
            )


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    prefixes: Prefixes | None = None,
    packed: Packed | Several | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention over [prefix; keys], or over one row that holds a whole batch (`packed`).

    `query` is [B, heads, Q, D], `key` and `value` are [B, K, S, D], the result [B, Q, heads, D].
    """
    if packed is not None:
        return packed.attend(module, query, key, value, attention_mask, **kwargs), None
    if prefixes is not None and prefixes.recording:
        prefixes.record.append((module, (key, value)))
    entry = prefixes.entries.get(id(module)) if prefixes is not None else None
    if prefixes is not None and entry is not None:
        prefixes.asked.add(id(module))
        key, value, attention_mask, kwargs = prepend(*entry, query, key, value, attention_mask, kwargs)
    result: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return result


def prepend(
    stack: Stack, pair: Pair, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor | None, dict[str, Any]]:
    """Keys, values, mask and bias with P more places in front. Shapes as in `attend`."""
    batch, queries, keys = query.shape[0], query.shape[2], key.shape[2]
    front_key, front_value = (x.to(key.dtype).expand(batch, -1, -1, -1) for x in pair)
    length = front_key.shape[2]
    if mask is None and stack.causal and queries > 1:  # the fast causal path knows nothing of P extra keys
        mask = query.new_ones(1, 1, queries, keys, dtype=torch.bool).tril(keys - queries)
    if mask is None and stack.keep is not None:
        mask = query.new_ones(batch, 1, queries, keys, dtype=torch.bool)
    if mask is not None:
        mask = widen(mask, length, stack.keep)
    if kwargs.get("position_bias") is not None:
        text = kwargs["position_bias"]
        front = stack.bias(length, queries, keys).to(text.dtype) if stack.bias else text.new_zeros(1, 1, 1, 1)
        front = front.expand(text.shape[0], text.shape[1], queries, length)
        kwargs = kwargs | {"position_bias": torch.cat([front, text], -1)}
    return torch.cat([front_key, key], 2), torch.cat([front_value, value], 2), mask, kwargs


def widen(mask: Tensor, length: int, keep: Tensor | None) -> Tensor:
    """A mask [1|B, 1, Q, S] with `length` visible places in front, except where `keep` [B, length] is False."""
    is_bool = mask.dtype == torch.bool
    mask = F.pad(mask, (length, 0), value=True if is_bool else 0.0)
    if keep is None:
        return mask
    mask = mask.expand(len(keep), -1, -1, -1).clone()
    hidden = False if is_bool else torch.finfo(mask.dtype).min
    mask[..., :length].masked_fill_(~keep[:, None, None, :], hidden)
    return mask


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
