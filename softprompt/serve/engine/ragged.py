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

from softprompt.core import Pair, Prefix
from softprompt.packed import check_asked, flash, merge, unpackable
from softprompt.serve.engine.cache import Cache

WASTE = 4  # padded keys over real ones, above which rows of a step attend one by one


@dataclass(frozen=True, eq=False)
class Front:
    """Keys and values that rows stand behind, a pair [1, K, S, D] or nothing for every layer. One object, one group."""

    pairs: Prefix
    places: int  # positions that it takes; a layer may have fewer, as where a prefix enters some layers only


@dataclass(frozen=True)
class Segment:
    """Tokens `begin` to `end` of a step: the next ones that one row reads."""

    begin: int
    end: int
    front: Front
    slot: int = -1  # where the cache keeps the row; -1: nobody will ask for its keys again
    done: int = 0  # tokens of the row that the cache holds


@dataclass(frozen=True)
class Writing:
    """The rows that write: row i is token i of the step and slot i of the cache."""

    fronts: Sequence[Front]
    lengths: Sequence[int]  # tokens that the cache holds of each


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
        self.device: torch.device | None = None

    def plan(self, device: torch.device) -> None:
        """Index tensors of the step, made once for all layers."""
        self.device = device
        if self.writing is None:
            return
        lengths = torch.tensor(self.writing.lengths, device=device)
        self.rows, self.lengths = torch.arange(len(lengths), device=device), lengths
        self.longest = max(self.writing.lengths) + 1
        self.padded = len(lengths) * self.longest <= WASTE * (sum(self.writing.lengths) + len(lengths))
        seen = torch.arange(self.longest, device=device)[None] <= lengths[:, None]
        self.seen = None if bool(seen.all()) else seen[:, None, None]
        fronts = self.writing.fronts
        order = sorted((i for i, front in enumerate(fronts) if front.places), key=lambda i: id(fronts[i]))
        self.order = torch.tensor(order, device=device, dtype=torch.long)
        sizes = [(front, len(list(group))) for front, group in groupby([fronts[i] for i in order])]
        ends = torch.tensor([0, *(size for _, size in sizes)]).cumsum(0).tolist()
        self.groups = [(front, a, b) for (front, _), a, b in zip(sizes, ends, ends[1:], strict=False)]

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
        if self.device is None:
            self.plan(query.device)
        layer = self.layers[id(module)]
        self.windows[layer] = sliding_window
        if self.keep:
            self.kept[layer] = key, value
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        out = query.new_empty(1, query.shape[2], query.shape[1], value.shape[3]).transpose(1, 2)
        if self.writing is not None:
            out[:, :, : len(self.rows)] = self.written(layer, query, key, value, scale)
        if self.segments:
            self.read(layer, query, key, value, scale, out)
        return out.transpose(1, 2)

    def check(self) -> None:
        """Raise `Unsupported` if a layer attended in another way."""
        silent = len(self.layers) - len(self.windows)
        if silent:
            raise unpackable(f"{silent} layers that do not attend through the attention registry of transformers")

    def written(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention [1, heads, R, D] of the rows that write, whose new keys and values go to the cache."""
        assert self.cache is not None
        count = len(self.rows)
        keys, values = self.cache.layer(layer, key, value)
        keys[self.rows, :, self.lengths] = key[0, :, :count].transpose(0, 1)
        values[self.rows, :, self.lengths] = value[0, :, :count].transpose(0, 1)
        asked = query[0, :, :count].transpose(0, 1)[:, :, None]  # [R, heads, 1, D]
        if self.padded:
            out, norm = part(
                asked, keys[:count, :, : self.longest], values[:count, :, : self.longest], scale, mask=self.seen
            )
        else:
            ends = [length + 1 for length in self.lengths.tolist()]
            made = [
                part(asked[i : i + 1], keys[i : i + 1, :, :end], values[i : i + 1, :, :end], scale)
                for i, end in enumerate(ends)
            ]
            out, norm = (torch.cat([pieces[j] for pieces in made]) for j in (0, 1))
        out, norm = out.transpose(0, 2), norm.transpose(0, 2)  # [1, heads, R, D], [1, heads, R]
        return self.behind_fronts(layer, query, out, norm, scale)

    def behind_fronts(self, layer: int, query: Tensor, out: Tensor, norm: Tensor, scale: float) -> Tensor:
        """The same over each row's front too: one product a group of rows that share it."""
        made, places = [], []
        asked = query[:, :, self.order] if self.groups else query
        for front, begin, end in self.groups:
            pair = front.pairs[layer]
            if pair is not None:
                made.append(part(asked[:, :, begin:end], pair[0], pair[1], scale))
                places.append((begin, end))
        if not made:
            return out
        also, its_norm = torch.cat([m[0] for m in made], 2), torch.cat([m[1] for m in made], 2)
        rows = self.order if len(places) == len(self.groups) else torch.cat([self.order[a:b] for a, b in places])
        mine, my_norm = out[:, :, rows], norm[:, :, rows]
        merge(mine, my_norm, also, its_norm)
        return out.contiguous().index_copy_(2, rows, mine)

    def read(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, out: Tensor) -> None:
        """Attention of the rows that read, into `out` [1, heads, N, D]."""
        for front, group in groupby(self.segments, key=lambda segment: segment.front):
            segments = list(group)
            made = [self.own(layer, segment, query, key, value, scale) for segment in segments]
            whole, norm = (torch.cat([m[j] for m in made], 2) if len(made) > 1 else made[0][j] for j in (0, 1))
            begin, end = segments[0].begin, segments[-1].end
            pair = front.pairs[layer] if front.places else None
            if pair is not None:
                merge(whole, norm, *part(query[:, :, begin:end], pair[0], pair[1], scale))
            out[:, :, begin:end] = whole

    def own(
        self, layer: int, segment: Segment, query: Tensor, key: Tensor, value: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """One row's attention to its own tokens, and the normalisers."""
        begin, end, done = segment.begin, segment.end, segment.done
        asked, new = query[:, :, begin:end], (key[:, :, begin:end], value[:, :, begin:end])
        out, norm = part(asked, *new, scale, causal=True)
        if segment.slot >= 0:
            assert self.cache is not None
            slot, stores = segment.slot, self.cache.layer(layer, key, value)
            if done:
                earlier = [store[slot : slot + 1, :, :done] for store in stores]
                merge(out, norm, *part(asked, earlier[0], earlier[1], scale))
            for store, made in zip(stores, new, strict=True):
                store[slot, :, done : done + end - begin] = made[0]
        return out, norm


def part(
    query: Tensor, key: Tensor, value: Tensor, scale: float, *, causal: bool = False, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention [B, heads, Q, D] and its normalisers [B, heads, Q] over one part of the keys [B, K, S, D].

    `mask` [B, 1, 1, S] is True at what is seen; `causal` is for as many queries as keys.
    """
    key, value = key.to(query.dtype), value.to(query.dtype)
    if query.device.type == "cpu" and query.shape[-1] == value.shape[-1]:
        bias = None
        if mask is not None:
            bias = torch.zeros(mask.shape, dtype=query.dtype).masked_fill_(~mask, -torch.inf)
        made: tuple[Tensor, Tensor] = flash(query, key, value, 0.0, causal, attn_mask=bias, scale=scale)
        return made
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1).float(), value.repeat_interleave(groups, 1).float()
    scores = query.float() @ key.transpose(-1, -2) * scale
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    norm = scores.logsumexp(-1)
    return ((scores - norm[..., None]).exp() @ value).to(query.dtype), norm
