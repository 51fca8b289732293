"""The fronts that rows are writing behind, side by side, so that one product reads all of them.

A front is laid here once for all of its rows, however many there are, and stays until its place is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import ReferenceType, ref

import torch
from torch import Tensor

from softprompt.core import Pair, Prefix


@dataclass(frozen=True, eq=False)
class Front:
    """Keys and values that rows stand behind, a pair [1, K, S, D] or nothing for every layer. One object, one group."""

    pairs: Prefix
    places: int  # positions that it takes; a layer may have fewer, as where a prefix enters some layers only

    def length(self, layer: int) -> int:
        """Keys of a layer."""
        pair = self.pairs[layer]
        return 0 if pair is None else pair[0].shape[2]


class Table:
    """Keys and values of fronts, [places, K, capacity, D] a layer; behind the end of a front they are zero."""

    def __init__(self, layers: int) -> None:
        self.pairs: list[Pair | None] = [None] * layers
        self.held: list[ReferenceType[Front] | None] = []  # a front that nobody uses may go
        self.capacity = 0

    def settle(self, fronts: Sequence[Front], dtype: torch.dtype) -> list[Front]:
        """Lay different fronts in the first places; returns what these hold, in their order."""
        self.reserve(len(fronts), max(front.places for front in fronts))
        first = [None if held is None else held() for held in self.held[: len(fronts)]]
        missing = [front for front in fronts if not any(front is held for held in first)]
        for place, held in enumerate(first):
            if not any(held is front for front in fronts):
                first[place] = missing[0]
                self.lay(place, missing.pop(0), dtype)
        return [front for front in first if front is not None]

    def reserve(self, count: int, longest: int) -> None:
        """Make room for so many fronts, or give back room that only one much longer has needed."""
        capacity = -(-longest // 16) * 16
        if count > len(self.held) or not capacity <= self.capacity <= 4 * capacity:
            self.held = [None] * (1 << (count - 1).bit_length())
            self.pairs, self.capacity = [None] * len(self.pairs), capacity

    def lay(self, place: int, front: Front, dtype: torch.dtype) -> None:
        """Put a front into a place."""
        self.held = [held if held and held() is not front else None for held in self.held]  # it may lie further back
        self.held[place] = ref(front)
        for layer, pair in enumerate(front.pairs):
            tables = self.pairs[layer]
            if tables is None and pair is not None:
                shape = (len(self.held), pair[0].shape[1], self.capacity)
                tables = tuple(x.new_zeros(*shape, x.shape[3], dtype=dtype) for x in pair)  # type: ignore[assignment]
                self.pairs[layer] = tables
            if tables is None:
                continue
            for i, table in enumerate(tables):
                length = front.length(layer)
                table[place, :, length:] = 0
                if pair is not None:
                    table[place, :, :length] = pair[i][0]

    def first(self, layer: int, count: int, length: int) -> Pair | None:
        """The first places of a layer as [count * K, length, D], keys and values; None where it has none."""
        found = self.pairs[layer]
        return found and (opened(found[0], count, length), opened(found[1], count, length))


def opened(tensor: Tensor, count: int, length: int) -> Tensor:
    """The first rows of [R, K, S, D] as [count * K, length, D], a view."""
    return tensor[:count].flatten(0, 1)[:, :length]
