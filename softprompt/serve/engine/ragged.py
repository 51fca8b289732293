"""Attention over one row that holds a step of many requests, each behind the shared keys and values of its prompt.

A step is laid out as [one token of every row that writes][some tokens of every row that reads]. A row attends to the
front that its prompt was compiled to, to its own earlier tokens, and to the step's. These are parts of one softmax,
merged by their normalisers (`softprompt.packed`), so the front is read where it lies; for a short row, a layer of it is
copied beside the row's own keys while they are read, because that takes less time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from softprompt.core import Pair
from softprompt.packed import check_asked, merge, unpackable
from softprompt.serve.engine.cache import Cache
from softprompt.serve.engine.parts import SHORT, beside, part
from softprompt.serve.engine.table import Front
from softprompt.serve.engine.writing import Writing, Written


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
        groups = groupby(range(len(self.segments)), key=lambda i: self.segments[i].front)
        self.fronts = [(front, list(members)) for front, members in groups]
        writes = self.segments[0].begin if self.segments else 0
        self.cuts = [writes] * (writes > 0) + [segment.end - segment.begin for segment in self.segments]
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
        asked, keys, values = (torch.split(x, self.cuts, 2)[-len(self.segments) :] for x in (query, key, value))
        rows = [Read(*row) for row in zip(self.segments, asked, keys, values, strict=True)]
        made = []
        for front, members in self.fronts:
            mine = [rows[i] for i in members]
            pair = front.pairs[layer] if front.places else None
            if pair is None:
                made += [self.own(layer, row, scale)[0] for row in mine]
            elif len(mine) == 1 and brief(mine[0].segment):
                self.store(layer, mine[0])
                made.append(beside(mine[0].asked, pair, (mine[0].key, mine[0].value), scale))
            else:
                begin, end = mine[0].segment.begin, mine[-1].segment.end
                made.append(self.behind(layer, mine, query[:, :, begin:end], pair, scale))
        return torch.cat([x.transpose(1, 2) for x in made], 1)

    def behind(self, layer: int, rows: Sequence["Read"], asked: Tensor, pair: Pair, scale: float) -> Tensor:
        """Rows [1, heads, N, D] that share a front: they read it in one product."""
        parts = [self.own(layer, row, scale) for row in rows]
        whole, norm = (torch.cat([m[j] for m in parts], 2) if len(parts) > 1 else parts[0][j] for j in (0, 1))
        merge(whole, norm, *part(asked, pair[0], pair[1], scale))
        return whole

    def store(self, layer: int, row: "Read") -> Pair | None:
        """Keep the keys and values of a row, if anybody will ask for them; the slot [1, K, S, D] that it has."""
        slot, done = row.segment.slot, row.segment.done
        if slot < 0:
            return None
        assert self.cache is not None
        stores = self.cache.layer(layer, row.key, row.value)
        for store, made in zip(stores, (row.key, row.value), strict=True):
            store[slot, :, done : done + made.shape[2]] = made[0]
        return stores[0][slot : slot + 1], stores[1][slot : slot + 1]

    def own(self, layer: int, row: "Read", scale: float) -> tuple[Tensor, Tensor]:
        """One row's attention to its own tokens, and the normalisers."""
        done = row.segment.done
        out, norm = part(row.asked, row.key, row.value, scale, causal=True)
        stored = self.store(layer, row)
        if done and stored is not None:
            merge(out, norm, *part(row.asked, stored[0][:, :, :done], stored[1][:, :, :done], scale))
        return out, norm


class Read(NamedTuple):
    """A row that reads, in one layer: queries [1, heads, n, D], keys and values [1, K, n, D] of the tokens it reads."""

    segment: Segment
    asked: Tensor
    key: Tensor
    value: Tensor


def brief(segment: Segment) -> bool:
    """Whether a row is read at once and short."""
    return segment.done == 0 and segment.end - segment.begin <= SHORT
