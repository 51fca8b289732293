"""A prompt run once: what its rows begin with, as the keys and values of every layer.

The front of a task is what all of its rows begin with: special tokens, prompt vectors, fixed words. A prefix stands
before it. Both are the same for every request, so they are computed once, kept in a store of bounded bytes, and read
in place. A method that looks at the text cannot be compiled; its rows are run whole.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from softprompt import canary
from softprompt.backbones.text import prefix_length, shared
from softprompt.core import Injection, Pair, Row
from softprompt.prompt import Prompt
from softprompt.serve.engine.ragged import Ragged, Segment
from softprompt.serve.engine.reader import Reader
from softprompt.serve.engine.table import Front


@dataclass(frozen=True, eq=False)
class Compiled:
    """The front of a task: its tokens, its keys and values, and its last states."""

    ids: list[int]
    slots: list[int]
    front: Front  # all of it
    prefix: int  # places of `front` that are no tokens of the row
    hidden: Tensor  # [F, states]
    parts: dict[int, Front] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        tensors = [self.hidden, *(tensor for pair in self.front.pairs if pair is not None for tensor in pair)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def match(self, row: Row) -> int:
        """How many tokens of a row this front stands for; one is always left, to be asked for an answer."""
        most = min(len(self.ids), len(row.ids) - 1)
        if row.ids[:most] == self.ids[:most] and row.slots[:most] == self.slots[:most]:
            return most
        mine, its = zip(self.ids, self.slots, strict=True), zip(row.ids, row.slots, strict=True)
        same = (one == other for one, other in zip(mine, its, strict=False))
        return next((i for i, equal in enumerate(same) if not equal or i == most), most)

    def first(self, count: int) -> Front:
        """The front of rows that share only the first `count` tokens: a view, and one object for all such rows."""
        if count == len(self.ids):
            return self.front
        if count not in self.parts:
            short = len(self.ids) - count
            pairs = tuple(pair and cut(pair, short) for pair in self.front.pairs)
            self.parts[count] = Front(pairs, self.prefix + count)
        return self.parts[count]


def cut(pair: Pair, count: int) -> Pair | None:
    """Keys and values without the last `count` places."""
    left = pair[0].shape[2] - count
    return (pair[0][:, :, :left], pair[1][:, :, :left]) if left else None


def common(rows: list[Row]) -> int:
    """How many tokens all rows begin with, and at least one less than the shortest has."""
    most = min(len(row.ids) for row in rows) - 1
    columns = zip(*(zip(row.ids[:most], row.slots[:most], strict=True) for row in rows), strict=True)
    return next((i for i, column in enumerate(columns) if len(set(column)) > 1), most)


@torch.inference_mode()
def injection_of(prompt: Prompt) -> Injection | None:
    """What a method adds to every text alike, or None where it depends on the text."""
    rows = canary.rows(prompt)
    made = prompt.inject(prompt.batch(rows))
    if made.offset is not None or not shared(made):
        return None
    other = prompt.inject(prompt.batch(rows[:1]))
    mine, its = tensors(made), tensors(other)
    if len(mine) != len(its) or any(a.shape != b.shape or not a.equal(b) for a, b in zip(mine, its, strict=True)):
        return None
    return replace(made, penalty=None)


def tensors(injection: Injection) -> list[Tensor]:
    """The tensors of a shared injection."""
    pairs = [tensor for pair in injection.prefix or () if pair is not None for tensor in pair]
    return pairs if injection.embeds is None else [injection.embeds, *pairs]


def private(injection: Injection, layers: int) -> Front:
    """The front that a prefix alone makes; of masked places nothing is left."""
    prefix = injection.prefix
    if prefix is None:
        return Front((None,) * layers, 0)
    if injection.prefix_mask is not None:
        seen = injection.prefix_mask[0]
        prefix = tuple(pair and (pair[0][:, :, seen], pair[1][:, :, seen]) for pair in prefix)
    return Front(prefix, prefix_length(prefix))


@torch.inference_mode()
def compile_front(prompt: Prompt, injection: Injection, reader: Reader | None = None) -> Compiled:
    """Run the front of a task once. `injection` is what the method adds to every text."""
    backbone: Any = prompt.backbone
    rows = canary.rows(prompt)
    count, before = common(rows), private(injection, len(backbone.attention_modules))
    ids, slots = rows[0].ids[:count], rows[0].slots[:count]
    if not count:
        return Compiled(ids, slots, before, before.places, torch.empty(0, backbone.spec.states))
    batch = prompt.batch([rows[0]])
    embedded = backbone.embed(batch, injection)[:, :count]
    places = torch.arange(count, device=backbone.device)[None] + before.places
    state = Ragged(backbone.attention_modules, [Segment(0, count, before)], keep=True)
    hidden = (reader or Reader(backbone)).run(embedded, places, state)
    pairs = tuple(joined(pair, state.kept[layer]) for layer, pair in enumerate(before.pairs))
    return Compiled(ids, slots, Front(pairs, before.places + count), before.places, hidden)


def joined(prefix: Pair | None, own: Pair) -> Pair:
    """Keys and values of a prefix and of the tokens after it, in memory of their own."""
    if prefix is None:
        return own[0].contiguous().clone(), own[1].contiguous().clone()
    return torch.cat([prefix[0].to(own[0]), own[0]], 2), torch.cat([prefix[1].to(own[1]), own[1]], 2)


class Store:
    """Compiled fronts by entry, the least recently used dropped first. Rows under way keep theirs until they end."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.bytes = most_bytes, 0
        self.held: OrderedDict[Hashable, Compiled] = OrderedDict()
        self.lock = Lock()
        self.hits = self.misses = self.evictions = 0

    def get(self, key: Hashable) -> Compiled | None:
        """The front of an entry, if it is held."""
        with self.lock:
            found = self.held.get(key)
            if found is None:
                self.misses += 1
                return None
            self.hits += 1
            self.held.move_to_end(key)
            return found

    def put(self, key: Hashable, compiled: Compiled) -> None:
        """Hold a front, and drop what no longer fits; one that is larger than the store is not held at all."""
        with self.lock:
            self._drop(key)
            if compiled.bytes > self.most_bytes:
                return
            self.held[key] = compiled
            self.bytes += compiled.bytes
            while self.bytes > self.most_bytes:
                self._drop(next(iter(self.held)))
                self.evictions += 1

    def drop(self, key: Hashable) -> None:
        """Forget the front of an entry that nobody can ask for any more."""
        with self.lock:
            self._drop(key)

    def _drop(self, key: Hashable) -> None:
        found = self.held.pop(key, None)
        self.bytes -= 0 if found is None else found.bytes
