"""What a request costs in operations and bytes, and a replica that answers requests step by step (for scale.py).

Operations are counted by softprompt.sizes, which also works out what training will cost. A machine is two numbers: the
operations it does in a second, and the bytes it reads in a second; a step takes both, one after the other.
"""

import math
import random
from bisect import bisect
from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from typing import Any

import torch
import transformers as tf

from softprompt.serve.engine.writing import blocks
from softprompt.sizes import FLASH, Load, Stack, outside, read_stack, trimmed


@dataclass(frozen=True)
class Model:
    """A frozen Llama: its sizes are read from its layers, which hold no numbers."""

    stack: Stack
    speaking: float  # weights between the last layer and the logits
    weights: float  # of all
    size: int  # bytes of a number

    @property
    def place(self) -> float:
        """Bytes of the keys and values of one token, or one prompt vector."""
        return 2 * self.stack.layers * self.stack.narrow * self.size

    def operations(self, tokens: float, pairs: float, answers: float) -> float:
        """Of a forward pass over so many tokens, pairs of queries and keys, and places with logits."""
        linear = self.stack.linear * tokens + self.speaking * answers
        return 2 * linear + 4 * self.stack.wide * self.stack.layers * pairs

    def training(self, lengths: Sequence[int], m: int, labels: int) -> float:
        """Of one step: texts as one row behind `m` vectors that they share, forward and back to the vectors."""
        pairs = m * m + sum(n * n + n * m for n in lengths)
        load = Load(m + sum(lengths), pairs)
        forward = self.operations(load.tokens, pairs, labels)
        back = 2 * (self.stack.linear * load.tokens + self.speaking * labels)
        back += 4 * FLASH * self.stack.wide * self.stack.layers * pairs
        return forward + back - trimmed(self.stack, load, labels, self.size, back=True, again=False)[0]


@cache
def llama(size: int = 4, **sizes: int) -> Model:
    """A Llama of such sizes, with one table of words where `tied` is 1."""
    config: Any = tf.LlamaConfig(tie_word_embeddings=bool(sizes.pop("tied", 1)), **sizes)  # type: ignore[arg-type]
    with torch.device("meta"):
        made: Any = tf.LlamaForCausalLM(config)
    stack = read_stack(made.model, config, size)
    inside = {id(module) for module in made.model.modules()}
    speaking = sum(wide * out for wide, out in outside(made, inside, config))
    return Model(stack, speaking, sum(weight.numel() for weight in made.parameters()), size)


@dataclass(frozen=True)
class Machine:
    """What computes: one core, or several devices that hold one copy of the weights together."""

    operations: float  # a second, as they are reached
    bytes: float  # a second, as they are reached

    def seconds(self, operations: float, read: float) -> float:
        """How long a step takes."""
        return operations / self.operations + read / self.bytes


@dataclass(frozen=True)
class Asked:
    """One request: when it comes, whose prompt it wants, tokens of its text, tokens that are written (0: a label)."""

    at: float
    prompt: int
    text: int
    new: int


@dataclass
class Row:
    """A request under way."""

    asked: Asked
    left: int  # tokens that were not read yet: of the text, and of a prompt that the store does not have
    places: int = 0  # keys and values that stand behind it
    written: int = 0


@dataclass
class Replica:
    """One copy of the weights that answers by steps, as softprompt.serve.engine does: rows of any tasks share them.

    A step reads some tokens of texts, and then every row that is read writes one. A prompt that is not in the store of
    compiled prompts is run with the text, and the least recently used one goes.
    """

    model: Model
    machine: Machine
    m: int  # vectors of every prompt
    rows: int = 32  # that write at once
    chunk: int = 256  # tokens read in a step beside rows that write; four times as many where none does
    held: int = 10**9  # compiled prompts that the store has room for
    store: OrderedDict[int, None] = field(default_factory=OrderedDict)
    missed: int = 0
    now: float = 0.0
    busy: float = 0.0
    taken: list[float] = field(default_factory=list)  # seconds of every answer

    def serve(self, requests: Sequence[Asked]) -> "Replica":
        """Answer requests, which come in the order of their times."""
        coming, rows = deque(requests), list[Row]()
        while coming or rows:
            while coming and coming[0].at <= self.now and self.room(rows, coming[0]):
                rows.append(self.row(coming.popleft()))
            if not rows:
                self.now = coming[0].at
                continue
            spent = self.machine.seconds(*self.step(rows))
            self.now, self.busy = self.now + spent, self.busy + spent
            done = [row for row in rows if not row.left and row.written >= row.asked.new]
            self.taken += [self.now - row.asked.at for row in done]
            rows = [row for row in rows if row.left or row.written < row.asked.new]
        return self

    def room(self, rows: list[Row], asked: Asked) -> bool:
        """Whether a request is let in: rows that write have places of their own, texts are read as fast as they can."""
        writing = sum(row.asked.new > 0 for row in rows)
        return writing < self.rows if asked.new else len(rows) - writing < 8 * self.rows

    def row(self, asked: Asked) -> Row:
        """A request that is let in; its prompt is at hand, or is run first."""
        known = self.touch(asked.prompt)
        self.missed += not known
        return Row(asked, asked.text + (0 if known else self.m), self.m if known else 0)

    def touch(self, prompt: int) -> bool:
        """Whether a prompt is in the store; it is there afterwards, as the one that was used last."""
        known = prompt in self.store
        self.store[prompt] = None
        self.store.move_to_end(prompt)
        if len(self.store) > self.held:
            self.store.popitem(last=False)
        return known

    def step(self, rows: list[Row]) -> tuple[float, float]:
        """Operations and bytes of a step, after which rows have gone on."""
        writing = [row for row in rows if not row.left]
        spare = self.chunk if writing else 4 * self.chunk
        tokens = pairs = answers = 0
        # Rows that write share products, in which the shorter ones are padded: what the engine reads of their own keys.
        own = blocks(sorted(row.places - self.m + 1 for row in writing)) if writing else []
        read = self.m * len(writing) + sum((end - begin) * longest for begin, end, longest in own)
        for row in rows:
            count = min(row.left, spare) if row.left else 1
            spare -= count if row.left else 0
            pairs += count * (row.places + count)
            tokens += count
            read += row.places if row.left and count else 0
            row.places += count
            if row.left:
                row.left -= count
            if not row.left and count:
                answers += 1
                row.written += 1
        weights = self.model.weights * self.model.size
        return self.model.operations(tokens, pairs, answers), weights + self.model.place * read


def traffic(rate: float, seconds: float, prompts: int, text: int, new: int, skew: float, seed: int = 0) -> list[Asked]:
    """Requests that come by chance (Poisson), for prompts by Zipf's law; lengths are lognormal (sigma 0.5)."""
    chance, at, made = random.Random(seed), 0.0, []
    weights = list(accumulate((i + 1) ** -skew for i in range(prompts)))
    while (at := at + chance.expovariate(rate)) < seconds:
        length = max(1, round(text * math.exp(0.5 * chance.gauss(0, 1))))
        prompt = bisect(weights, chance.random() * weights[-1])
        made.append(Asked(at, min(prompt, prompts - 1), length, new))
    return made


def shared(requests: Sequence[Asked], replicas: int, *, home: bool) -> list[list[Asked]]:
    """Requests by replica: by turns, or, `home`, each prompt's at a replica of its own.

    Prompts that would fill half of a replica by themselves are answered by all in turn.
    """
    parts: list[list[Asked]] = [[] for _ in range(replicas)]
    counts = Counter(asked.prompt for asked in requests)
    for i, asked in enumerate(requests):
        own = home and 2 * replicas * counts[asked.prompt] <= len(requests)
        parts[place(asked.prompt, replicas) if own else i % replicas].append(asked)
    return parts


def place(prompt: int, replicas: int) -> int:
    """The replica of a prompt, by a hash."""
    return (prompt * 2654435761 >> 8) % replicas
