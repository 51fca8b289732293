"""Attention of the rows that write, one token each: all of them in one product, whatever their tasks.

A row's scores are those of its front and of its own tokens, side by side, and one softmax is taken over both. Fronts
lie in a table, one place a front, and rows of one task stand side by side before theirs. The products are bound by the
memory that keys and values are read from, so torch's kernels for attention, made for many queries a row, are slower.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softprompt.packed import merge
from softprompt.serve.engine.cache import Cache
from softprompt.serve.engine.parts import part
from softprompt.serve.engine.table import Front

WASTE = 4  # places of a product over those of them that are needed, above which parts run one by one
SPARE = 256  # places beyond those that are needed which cost less than another product


@dataclass(frozen=True)
class Writing:
    """The rows that write: row i is token i of the step and slot i of the cache."""

    fronts: Sequence[Front]
    lengths: Sequence[int]  # tokens that the cache holds of each


class Written:
    """What all layers of a step need to know of the rows that write; made once a step."""

    def __init__(self, writing: Writing, cache: Cache, like: Tensor) -> None:
        self.cache, self.fronts = cache, writing.fronts
        self.count = count = len(writing.lengths)
        self.lengths = torch.tensor(writing.lengths, device=like.device)
        self.rows = torch.arange(count, device=like.device)
        self.longest = max(writing.lengths) + 1
        self.padded = count * self.longest <= WASTE * (sum(writing.lengths) + count)
        self.blocks = blocks([length + 1 for length in writing.lengths])
        self.own = hidden(self.lengths + 1, self.longest, like)
        self.biases: dict[tuple[int, ...], list[Tensor | None]] = {}
        self.spots: dict[int, Tensor] = {}
        self.grouped(like)

    def grouped(self, like: Tensor) -> None:
        """Which rows stand behind which front."""
        empty = next((front for front in self.fronts if not front.places), None)
        keys = [front if front.places or empty is None else empty for front in self.fronts]
        fronts = list(dict.fromkeys(keys))
        members = {front: [i for i, key in enumerate(keys) if key is front] for front in fronts}
        room, most = len(fronts) * max(front.places for front in fronts), max(map(len, members.values()))
        needed = sum(front.places for front in fronts)
        self.even = self.padded and room <= WASTE * needed and len(fronts) * most <= WASTE * self.count
        if self.even:
            self.table = self.cache.table.settle(fronts, like.dtype) if needed else fronts
            self.stand([members[front] for front in self.table], most, like.device)
        else:
            self.groups = [(front, rows) for front, rows in members.items() if front.places]

    def stand(self, groups: list[list[int]], most: int, device: torch.device) -> None:
        """Which row stands at which place before its front, as many places a front as the largest group has rows."""
        places, back = [0] * (len(groups) * most), [0] * self.count
        for number, rows in enumerate(groups):
            for i, row in enumerate(rows):
                places[number * most + i] = row
                back[row] = number * most + i
        still = places == list(range(self.count))
        self.most, self.behind = most, [place // most for place in back]
        self.places = None if still else torch.tensor(places, device=device)
        self.back = None if still else torch.tensor(back, device=device)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """[R, heads, D] of `query` [R, heads, D] and `key`, `value` [R, K, D], which go to the cache."""
        keys, values = self.cache.layer(layer, key[None].transpose(1, 2), value[None].transpose(1, 2))
        for store, new in ((keys, key), (values, value)):
            store.view(-1, store.shape[3]).index_copy_(0, self.spot(new.shape[1]), new.flatten(0, 1))
        if self.even:
            return self.side_by_side(layer, query, keys, values, scale)
        return self.one_by_one(layer, query[None].transpose(1, 2), keys, values, scale)[0].transpose(0, 1)

    def spot(self, heads: int) -> Tensor:
        """Where in a layer of the cache, seen as [slots * K * capacity, D], the rows' new keys go: [R * K]."""
        if heads not in self.spots:
            each = torch.arange(heads, device=self.rows.device)
            spots = (self.rows[:, None] * heads + each) * self.cache.capacity + self.lengths[:, None]
            self.spots[heads] = spots.flatten()
        return self.spots[heads]

    def side_by_side(self, layer: int, query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """The same over a table of fronts and the cache, in one product each (of the cache: one a block of rows)."""
        heads = keys.shape[1]
        asked = (query * scale).reshape(self.count, heads, -1, query.shape[2])  # [R, K, heads / K, D]
        lengths = tuple(front.length(layer) for front in self.table)
        length = max(lengths, default=0)
        front = self.cache.table.first(layer, len(lengths), length) if length else None
        before = None if front is None else self.beside(asked, front[0].transpose(1, 2))
        made, shares = [], []
        for (begin, end, longest), bias in zip(self.blocks, self.bias(lengths, length), strict=True):
            mine, its = (store[begin:end].flatten(0, 1)[:, :longest] for store in (keys, values))
            scores = torch.bmm(asked[begin:end].flatten(0, 1), mine.transpose(1, 2))
            scores = scores.view(end - begin, heads, -1, longest)
            if before is not None:
                scores = torch.cat([before[begin:end], scores], -1)
            share = (scores if bias is None else scores.add_(bias)).float().softmax(-1).to(query.dtype)
            shares.append(share[..., :length])
            made.append(torch.bmm(share[..., length:].flatten(0, 1), its))
        out = (torch.cat(made) if len(made) > 1 else made[0]).view(*asked.shape[:3], values.shape[3])
        if front is not None:
            out += self.beside(torch.cat(shares) if len(shares) > 1 else shares[0], front[1])
        return out.flatten(1, 2)

    def beside(self, asked: Tensor, front: Tensor) -> Tensor:
        """Rows [R, K, g, A] times what lies in the table for them [F * K, A, B]: [R, K, g, B]."""
        heads, groups = asked.shape[1:3]
        given = asked if self.places is None else asked[self.places]
        given = given.reshape(-1, self.most, heads, groups, asked.shape[3])
        given = given.transpose(1, 2).flatten(0, 1).flatten(1, 2)  # [F * K, most * g, A]
        made = torch.bmm(given, front).view(-1, heads, self.most, groups, front.shape[2]).transpose(1, 2).flatten(0, 1)
        return made if self.back is None else made[self.back]

    def bias(self, lengths: tuple[int, ...], length: int) -> list[Tensor | None]:
        """What hides the places [rows, 1, 1, S] behind the end of each row's front and of its own tokens, by block."""
        if lengths not in self.biases:
            ends = torch.tensor([lengths[number] for number in self.behind], device=self.own.device)
            front = hidden(ends, length, self.own)
            parts = [torch.cat([front[a:b], self.own[a:b, :longest]], 1) for a, b, longest in self.blocks]
            self.biases[lengths] = [made[:, None, None] if bool(made.any()) else None for made in parts]
        return self.biases[lengths]

    def one_by_one(self, layer: int, query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """Attention [1, heads, R, D] in parts, where rows or fronts are too unlike for one product."""
        asked = query[0].transpose(0, 1)[:, :, None]  # [R, heads, 1, D]
        if self.padded:
            mine = keys[: self.count, :, : self.longest], values[: self.count, :, : self.longest]
            out, norm = part(asked, *mine, scale, bias=self.own[:, None, None])
        else:
            ends = [length + 1 for length in self.lengths.tolist()]
            made = [
                part(asked[i : i + 1], keys[i : i + 1, :, :end], values[i : i + 1, :, :end], scale)
                for i, end in enumerate(ends)
            ]
            out, norm = (torch.cat([pieces[j] for pieces in made]) for j in (0, 1))
        return self.merged(layer, query, out.transpose(0, 2), norm.transpose(0, 2), scale)

    def merged(self, layer: int, query: Tensor, out: Tensor, norm: Tensor, scale: float) -> Tensor:
        """The same over each row's front too: one product a group of rows that share it."""
        made, places = [], list[int]()
        for front, rows in self.groups:
            pair = front.pairs[layer]
            if pair is not None:
                made.append(part(query[:, :, rows], pair[0], pair[1], scale))
                places += rows
        if not made:
            return out
        also, its_norm = (torch.cat([m[j] for m in made], 2) for j in (0, 1))
        mine, my_norm = out[:, :, places], norm[:, :, places]
        merge(mine, my_norm, also, its_norm)
        out = out.contiguous()
        out[:, :, places] = mine
        return out


def hidden(lengths: Tensor, longest: int, like: Tensor) -> Tensor:
    """[R, longest]: 0 within each length, minus infinity behind it."""
    beyond = torch.arange(longest, device=like.device)[None] >= lengths[:, None]
    return like.new_zeros(beyond.shape).masked_fill_(beyond, -torch.inf)


def blocks(lengths: Sequence[int]) -> list[tuple[int, int, int]]:
    """Rows next to each other that share a product, with the longest of them: (begin, end, longest)."""
    made, begin = [], 0
    for end in range(1, len(lengths) + 1):
        here = lengths[begin : end + 1]
        if end == len(lengths) or max(here) * len(here) - sum(here) > SPARE:
            made.append((begin, end, max(lengths[begin:end])))
            begin = end
    return made
