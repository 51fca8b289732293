"""Keys and values of the rows under way, by slot."""

from torch import Tensor

from softprompt.core import Pair
from softprompt.serve.engine.table import Table


class Cache:
    """Keys and values of rows under way, [slots, K, capacity, D] a layer; what is not in use is finite, never NaN."""

    def __init__(self, layers: int, slots: int) -> None:
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers
        self.slots, self.capacity = slots, 0
        self.table = Table(layers)

    def reserve(self, tokens: int) -> None:
        """Make room for rows of so many tokens."""
        if tokens <= self.capacity:
            return
        self.capacity = max(64, 1 << (tokens - 1).bit_length())
        for store in (self.keys, self.values):
            for layer, old in enumerate(store):
                if old is not None:
                    grown = old.new_zeros(old.shape[0], old.shape[1], self.capacity, old.shape[3])
                    grown[:, :, : old.shape[2]] = old
                    store[layer] = grown

    def layer(self, layer: int, key: Tensor, value: Tensor) -> Pair:
        """The tensors of a layer, made on first use in the shape and type of what it computes."""
        for store, like in ((self.keys, key), (self.values, value)):
            if store[layer] is None:
                store[layer] = like.new_zeros(self.slots, like.shape[1], self.capacity, like.shape[3])
        keys, values = self.keys[layer], self.values[layer]
        assert keys is not None
        assert values is not None
        return keys, values

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy the first tokens of a slot to a free one."""
        for tensor in (*self.keys, *self.values):
            if tensor is not None:
                tensor[target, :, :tokens] = tensor[source, :, :tokens]

    def swap(self, one: int, other: int, tokens: int) -> None:
        """Exchange the first tokens of two slots, which are all that either holds."""
        for tensor in (*self.keys, *self.values):
            if tensor is not None:
                tensor[[one, other], :, :tokens] = tensor[[other, one], :, :tokens]

    def clear(self, slot: int) -> None:
        """Zero a slot: NaN in keys that are masked out would still reach an answer, because 0 * NaN is NaN."""
        for tensor in (*self.keys, *self.values):
            if tensor is not None:
                tensor[slot] = 0
