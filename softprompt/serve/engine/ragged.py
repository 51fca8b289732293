"""Attention over one row that holds a step of many requests, each behind the shared keys and values of its prompt.

A step is laid out as [one token of every row that writes][some tokens of every row that reads]. A row attends to the
front that its prompt was compiled to, to its own earlier tokens, and to the step's. These are parts of one softmax,
merged by their normalisers (`softprompt.packed`), so the front is read where it lies and never copied for a request.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from softprompt.core import Pair
from softprompt.packed import check_asked, merge, unpackable
from softprompt.serve.engine.cache import Cache
from softprompt.serve.engine.parts import beside, part
from softprompt.serve.engine.table import Front
from softprompt.serve.engine.writing import Writing, Written

SHORT = 64  # tokens of a row that reads up to which front and row are one softmax, not two that are merged


@dataclass(frozen=True)
class Segment:
    """Tokens `begin` to `end` of a step: the next ones that one row reads."""

    begin: int
    end: int
    front: Front
    slot: int = -1  # where the cache keeps the row; -1: nobody will ask for its keys again
    done: int = 0  # tokens of the row that the cache holds


class Ragged:
    """What the attention layers of one step need to know; given to the model as `packed` (`softprompt.attention`)."""

    def __init__(
        self,
        modules: Sequence[nn.Module],
        segments: Sequence[Segment],
        writing: Writing | None = None,
        cache: Cache | None = None,
        *,
        keep: bool = False,
    ) -> None:
        self.layers = {id(module): i for i, module in enumerate(modules)}
        self.segments = sorted(segments, key=lambda segment: segment.begin)
        self.writing, self.cache = writing, cache
        self.keep, self.kept = keep, dict[int, Pair]()  # keys and values of the step by layer, where they are wanted
        self.windows: dict[int, int | None] = {}  # of every layer that asked
        self.written: Written | None = None  # once the first layer has asked

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        *,
        scaling: float | None = None,
        sliding_window: int | None = None,
        dropout: float = 0.0,
        **others: Any,
    ) -> Tensor:
        """`query` [1, heads, N, D], `key` and `value` [1, K, N, D]; the result is [1, N, heads, D].

        Raises `Unsupported` where a layer asks for anything that is not known to be harmless.
        """
        check_asked(mask, dropout, others, known=id(module) in self.layers)
        layer = self.layers[id(module)]
        self.windows[layer] = sliding_window
        return self.layer(layer, query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling)

    def layer(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """The same for the layer of a number."""
        if self.keep:
            self.kept[layer] = key, value
        if self.writing is None:
            return self.read(layer, query, key, value, scale)
        if self.written is None:
            assert self.cache is not None
            self.written = Written(self.writing, self.cache, query)
        count = self.written.count
        asked, new, its = (x[0, :, :count].transpose(0, 1) for x in (query, key, value))
        made = self.written.attend(layer, asked, new, its, scale)[None]
        return torch.cat([made, self.read(layer, query, key, value, scale)], 1) if self.segments else made

    def check(self) -> None:
        """Raise `Unsupported` if a layer attended in another way."""
        silent = len(self.layers) - len(self.windows)
        if silent:
            raise unpackable(f"{silent} layers that do not attend through the attention registry of transformers")

    def read(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention [1, N, heads, D] of the rows that read."""
        made = []
        for front, group in groupby(self.segments, key=lambda segment: segment.front):
            segments = list(group)
            pair = front.pairs[layer] if front.places else None
            if pair is not None and len(segments) == 1 and brief(segments[0]):
                made.append(self.short(layer, segments[0], query, key, value, scale, pair))
                continue
            parts = [self.own(layer, segment, query, key, value, scale) for segment in segments]
            whole, norm = (torch.cat([m[j] for m in parts], 2) if len(parts) > 1 else parts[0][j] for j in (0, 1))
            if pair is not None:
                asked = query[:, :, segments[0].begin : segments[-1].end]
                merge(whole, norm, *part(asked, pair[0], pair[1], scale))
            made.append(whole)
        return torch.cat([x.transpose(1, 2) for x in made], 1)

    def short(
        self, layer: int, segment: Segment, query: Tensor, key: Tensor, value: Tensor, scale: float, pair: Pair
    ) -> Tensor:
        """A short row and its front in one softmax, [1, heads, N, D]."""
        asked, *new = (x[0, :, segment.begin : segment.end] for x in (query, key, value))
        self.store(layer, segment, key, value)
        front = pair[0][0].to(asked.dtype), pair[1][0].to(asked.dtype)
        return beside(asked, front, (new[0], new[1]), scale)[None]

    def store(self, layer: int, segment: Segment, key: Tensor, value: Tensor) -> Pair | None:
        """Keep the keys and values of a row, if anybody will ask for them; the slot [1, K, S, D] that it has."""
        if segment.slot < 0:
            return None
        assert self.cache is not None
        slot, begin, end = segment.slot, segment.begin, segment.end
        stores = self.cache.layer(layer, key, value)
        for store, made in zip(stores, (key, value), strict=True):
            store[slot, :, segment.done : segment.done + end - begin] = made[0, :, begin:end]
        return stores[0][slot : slot + 1], stores[1][slot : slot + 1]

    def own(
        self, layer: int, segment: Segment, query: Tensor, key: Tensor, value: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """One row's attention to its own tokens, and the normalisers."""
        begin, end, done = segment.begin, segment.end, segment.done
        asked = query[:, :, begin:end]
        out, norm = part(asked, key[:, :, begin:end], value[:, :, begin:end], scale, causal=True)
        stored = self.store(layer, segment, key, value)
        if done and stored is not None:
            merge(out, norm, *part(asked, stored[0][:, :, :done], stored[1][:, :, :done], scale))
        return out, norm


def brief(segment: Segment) -> bool:
    """Whether a row is read at once and short."""
    return segment.done == 0 and segment.end - segment.begin <= SHORT
