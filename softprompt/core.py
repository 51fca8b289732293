"""The values every floor speaks: an example, a batch, what a method adds to it, and what the backbone answers.

Shape letters, used in every docstring of the package:
B batch, T tokens, P prompt vectors, H hidden size, L layers, K key/value heads, D head size, V vocabulary, C classes.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from softprompt.example import Example, Label

__all__ = [
    "IGNORE",
    "TEXT",
    "Batch",
    "Below",
    "Example",
    "Injection",
    "Kind",
    "Label",
    "Lesson",
    "Output",
    "Packing",
    "Pair",
    "Prefix",
    "Row",
    "Spec",
    "Start",
    "entry",
    "move",
]

IGNORE = -100  # a label that carries no loss
TEXT = -1  # a slot value: this position holds a token, not a prompt vector

Kind = Literal["causal", "encoder", "seq2seq", "vision"]
Pair = tuple[Tensor, Tensor]  # keys and values, each [1|B, K, P, D]
Prefix = tuple[Pair | None, ...]  # one entry a layer; None: nothing enters there
Lesson = tuple[Tensor, Tensor]  # [P] tokens that vectors stand for, or [B, T] that places predict; how much each counts
Moved = TypeVar("Moved", "Batch", "Below", "Injection", "Packing")


@dataclass(frozen=True)
class Below:
    """What a layer reads where nothing trained enters below it: computed once, and given instead of those layers."""

    states: Tensor  # [T, H] of a row, [B, T, H] of a batch, [1, N, H] of a packed one
    layer: int  # the first layer that is still to run
    before: int  # P: how many places of a prefix the positions of the tokens count


@dataclass(frozen=True)
class Batch:
    """Tokenised examples. Prompt positions are ordinary positions: the template reserved them.

    `labels` are already aligned: `labels[b, t]` is what position t of row b must predict, so no loss ever shifts.
    """

    input_ids: Tensor  # [B, T] int64; any valid id at prompt positions
    mask: Tensor  # [B, T] bool; False at padding
    slots: Tensor  # [B, T] int64; TEXT, or j: prompt vector j goes here
    labels: Tensor | None = None  # [B, T] int64 with IGNORE: token ids or tags
    target: Tensor | None = None  # [B] class indices, or numbers, for heads that answer once a row
    decoder: "Batch | None" = None  # encoder-decoder only
    pixels: Tensor | None = None  # [B, channels, height, width], vision only
    tasks: Tensor | None = None  # [B] int64, multi-task methods only
    answer: Tensor | None = None  # [B, T] bool; True at tokens of an answer that the row holds; None: no row holds one
    vectors: int = -1  # prompt vectors that the slots ask for; counted when not given
    packing: "Packing | None" = None  # the same rows as one row, where they are to be run as one
    below: Below | None = None  # states to start from instead of the tokens; padding is zero

    def __post_init__(self) -> None:
        if self.vectors < 0:  # counted once, on the CPU, so that checks cost no device synchronisation later
            object.__setattr__(self, "vectors", int(self.slots.max()) + 1 if self.slots.numel() else 0)

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def question(self) -> Tensor:
        """[B, T] bool: tokens of the text that is asked; no padding, no slots, and no answer that is being taught."""
        text = self.mask & (self.slots == TEXT)
        return text if self.answer is None else text & ~self.answer


@dataclass(frozen=True)
class Packing:
    """A batch as one row of N tokens, [front][rest of row 1][rest of row 2]..., with no padding.

    The front is what all rows begin with, prompt vectors included: it stands there once.
    """

    input_ids: Tensor  # [1, N]
    slots: Tensor  # [1, N]
    columns: Tensor  # [1, N], where each token stood in its own row
    front: int  # tokens that all rows share
    spans: tuple[tuple[int, int], ...]  # where the rest of each row begins and ends, B times
    home: Tensor  # [B, T - front], which token of the row stands there; at padding, the last of its row
    places: Tensor  # [J], the tokens that have a label, row by row
    labels: Tensor  # [J, 1], their labels
    below: Below | None = None  # as of the batch
    fronted: bool = False  # True: only the front stands once, and the rest of every row is padded (`Backbone.behind`)

    @property
    def computed(self) -> int:
        """How many tokens run through the model."""
        return self.front + self.home.numel() if self.fronted else self.input_ids.numel()

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return self.front + max(end - begin for begin, end in self.spans)


@dataclass(frozen=True)
class Injection:
    """Everything a method may add to a frozen backbone. 1 in the batch place broadcasts."""

    embeds: Tensor | None = None  # [1|B, P, H], written into the batch's slots
    offset: Tensor | None = None  # [1|B, T, H], added to token embeddings (not to slots)
    prefix: Prefix | None = None  # L pairs of [1|B, K, P, D], in front of the keys and values of self-attention
    cross: Prefix | None = None  # the same for the decoder's attention to the encoder
    deep: tuple[Tensor, ...] | None = None  # L of [1|B, P, H]: layer inputs the backbone turns into a prefix
    prefix_mask: Tensor | None = None  # [B, P] bool, only where rows have prefixes of different length
    penalty: Tensor | None = None  # [], added to the loss
    lesson: Lesson | None = None  # tokens of the prompt that a causal model is to predict too, in training
    decoder: "Injection | None" = None  # the same for the decoder of an encoder-decoder


@dataclass(frozen=True)
class Output:
    """What a backbone answers: either hidden states, or logits at the columns that were asked for."""

    hidden: Tensor | None = None  # [B, T, H] after the last layer (encoder side of an encoder-decoder)
    logits: Tensor | None = None  # [B, J, V] at `columns`
    columns: Tensor | None = None  # [J] int64, positions of T (of the decoder, where there is one)


@dataclass(frozen=True)
class Spec:
    """The sizes a method needs to build its parameters."""

    kind: Kind
    hidden: int  # H, the width of input embeddings
    states: int  # the width of hidden states (H but for a few families, ELECTRA among them)
    layers: int  # L (of the encoder, where there are two stacks); 0 where keys and values cannot enter
    kv_heads: int  # K
    head_dim: int  # D
    decoder_layers: int = 0  # 0 without a decoder stack of its own
    rms: float = 1.0  # root mean square of the input embedding table, per coordinate
    positions: int | None = None  # most tokens the model can take, prompt included; None: no limit


@dataclass(frozen=True)
class Start:
    """Where training begins: initial prompt vectors and, for prefixes, keys and values of a real text."""

    embeds: Tensor  # [P, H] float32
    prefix: Prefix | None = None  # L pairs of [1, K, P, D] float32
    decoder: Prefix | None = None
    cross: Prefix | None = None
    note: str = ""  # how it was made, for the log and the card
    ids: Tensor | None = None  # [P] int64, where `embeds` are the embeddings of these tokens
    sources: Tensor | None = None  # [N, P, H] float32, prompts of other tasks, for methods that borrow
    stored: tuple[str, ...] = ()  # encoder, decoder, cross: whose keys and values are those of a stored prompt


@dataclass(frozen=True)
class Row:
    """One encoded example, before padding."""

    ids: list[int]
    slots: list[int]
    labels: list[int] = field(default_factory=list)  # aligned with ids; empty: none
    target: float | None = None  # class index or number
    words: tuple[int, ...] = ()  # for tagging: index of each word's first token; -1 where the word was cut off
    decoder: "Row | None" = None
    pixels: Tensor | None = None  # [channels, height, width]
    cut: int = 0  # tokens that did not fit and were left out
    answer: int = 0  # how many of the last ids belong to the answer: those that training reads and generation writes
    below: Below | None = None  # states that training starts from instead of `ids`


def entry(injection: Injection) -> int:
    """The first layer that something injected enters; 0 also for what enters with the tokens, or in another way."""
    others = {f.name for f in fields(Injection)} - {"prefix", "penalty", "lesson"}
    if injection.prefix is None or any(getattr(injection, name) is not None for name in others):
        return 0
    return next((i for i, pair in enumerate(injection.prefix) if pair is not None), 0)


def move(value: Moved, device: torch.device) -> Moved:
    """The same value with every tensor on `device`."""

    def send(x: Any) -> Any:
        if isinstance(x, Tensor):
            return x.to(device)
        if isinstance(x, Batch):
            return move(x, device)
        if isinstance(x, Injection):
            return move(x, device)
        if isinstance(x, Packing):
            return move(x, device)
        if isinstance(x, Below):
            return move(x, device)
        if isinstance(x, tuple):
            return tuple(send(y) for y in x)
        return x

    return replace(value, **{f.name: send(getattr(value, f.name)) for f in fields(value)})
