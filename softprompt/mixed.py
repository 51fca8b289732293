"""Rows of several prompts over one backbone as one batch, so that one forward answers all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from softprompt.collate import every
from softprompt.core import IGNORE, TEXT, Batch, Injection, Prefix

Part = tuple[Batch, Injection]  # the rows of one prompt, and what it adds to them
Places = tuple[bool, ...]  # where something enters


@dataclass(frozen=True)
class Layout:
    """The ways in that an injection takes. A row that takes none of them can stand beside any other."""

    vectors: int  # prompt vectors in front of an image's patches: every row of a batch has as many
    layers: tuple[Places, bool]  # which layers get keys and values; whether all of them get hidden states
    decoder: tuple[Places, Places]  # which layers of the decoder get keys and values, and which for cross-attention

    @classmethod
    def of(cls, part: Part) -> "Layout":
        """The layout of one prompt's rows."""
        batch, injection = part
        side = injection.decoder or Injection()
        return cls(
            0 if batch.pixels is None or injection.embeds is None else injection.embeds.shape[1],
            (taken(injection.prefix), injection.deep is not None),
            (taken(side.prefix), taken(side.cross)),
        )

    def fits(self, other: "Layout") -> bool:
        """Whether rows of both can stand in one batch.

        A row can be kept from the whole of a prefix (`prefix_mask`), but not from its share in some of the layers.
        """
        sides = ((self.layers, other.layers), (self.decoder, other.decoder))
        return self.vectors == other.vectors and all(a == b or not any(a) or not any(b) for a, b in sides)


def taken(prefix: Prefix | None) -> Places:
    """The layers in which keys and values enter; empty where there are none."""
    return tuple(pair is not None for pair in prefix or ())


def mix(parts: Sequence[Part], *, left: bool = False) -> Part:
    """The rows of all parts, in their order, as one batch and one injection; layouts must fit (`Layout.fits`).

    Rows are padded on the right, or on the `left` where their parts are. Short prefixes are filled up in front and
    masked there, so that every row keeps the positions that it has alone. What belongs to training (`target`,
    `penalty`, `lesson`) is left out.
    """
    sizes = [len(batch) for batch, _ in parts]
    batch = joined([batch for batch, _ in parts], left=left)
    return batch, injected([injection for _, injection in parts], sizes, batch.input_ids.shape[1], left=left)


def joined(batches: Sequence[Batch], *, left: bool = False) -> Batch:
    """All rows as one batch as long as its longest row; raises `ValueError` where only some have a decoder."""
    longest = max(batch.input_ids.shape[1] for batch in batches)

    def stack(values: Sequence[Tensor], pad: int) -> Tensor:
        missing = [longest - value.shape[1] for value in values]
        wide = [(count, 0) if left else (0, count) for count in missing]
        return torch.cat([F.pad(value, sides, value=pad) for value, sides in zip(values, wide, strict=True)])

    decoders, pixels = every([batch.decoder for batch in batches]), every([batch.pixels for batch in batches])
    labels = [torch.full_like(b.input_ids, IGNORE) if b.labels is None else b.labels for b in batches]
    return Batch(
        input_ids=stack([batch.input_ids for batch in batches], 0),
        mask=stack([batch.mask.long() for batch in batches], 0).bool(),
        slots=stack([batch.slots for batch in batches], TEXT),
        labels=None if all(batch.labels is None for batch in batches) else stack(labels, IGNORE),
        decoder=joined(decoders) if decoders else None,
        pixels=torch.cat(pixels) if pixels else None,
        vectors=max(batch.vectors for batch in batches),
    )


def injected(given: Sequence[Injection], sizes: Sequence[int], tokens: int = 0, *, left: bool = False) -> Injection:
    """One injection for all rows; `sizes` are the rows of each, `tokens` the length of the joined rows."""
    deep = next((one.deep for one in given if one.deep is not None), ())
    decoders = [one.decoder or Injection() for one in given]
    return Injection(
        embeds=stacked([one.embeds for one in given], sizes, front=False),
        offset=stacked([one.offset for one in given], sizes, front=left, length=tokens),
        prefix=paired([one.prefix for one in given], sizes),
        cross=paired([one.cross for one in given], sizes),
        deep=tuple(some(stacked([one.deep[i] if one.deep else None for one in given], sizes)) for i in range(len(deep)))
        or None,
        prefix_mask=visible(given, sizes),
        decoder=injected(decoders, sizes) if any(one.decoder is not None for one in given) else None,
    )


def stacked(
    values: Sequence[Tensor | None], sizes: Sequence[int], *, front: bool = True, length: int = 0
) -> Tensor | None:
    """Tensors [1|size, ..., P, D] of every part as one of all rows, filled up with zeros to the longest P.

    The zeros stand in front, or behind; None where no part has a tensor.
    """
    like = next((value for value in values if value is not None), None)
    if like is None:
        return None
    none = like.new_zeros(1, *like.shape[1:-2], 0, like.shape[-1])
    made = [none if value is None else value for value in values]
    longest = max(length, *(value.shape[-2] for value in made))
    rows = []
    for value, size in zip(made, sizes, strict=True):
        missing = longest - value.shape[-2]
        filled = F.pad(value, (0, 0, missing, 0) if front else (0, 0, 0, missing))
        rows.append(filled.expand(size, *filled.shape[1:]))
    return torch.cat(rows)


def paired(prefixes: Sequence[Prefix | None], sizes: Sequence[int]) -> Prefix | None:
    """Keys and values of all rows, layer by layer; None where no part has any."""
    layers = max(len(prefix or ()) for prefix in prefixes)
    made = []
    for i in range(layers):
        pairs = [prefix[i] if prefix else None for prefix in prefixes]
        keys, values = (stacked([pair and pair[side] for pair in pairs], sizes) for side in (0, 1))
        made.append(None if keys is None or values is None else (keys, values))
    return tuple(made) or None


def visible(given: Sequence[Injection], sizes: Sequence[int]) -> Tensor | None:
    """Which places of the joined prefix each row sees, [B, P]; None where all rows see all of it."""
    fronts = [front_of(one) for one in given]
    lengths = [0 if front is None else front.shape[-2] for front in fronts]
    device = next((front.device for front in fronts if front is not None), None)
    if len(set(lengths)) == 1 and all(one.prefix_mask is None for one in given):
        return None
    rows = []
    for one, size, length in zip(given, sizes, lengths, strict=True):
        own = torch.ones(size, length, dtype=torch.bool, device=device) if one.prefix_mask is None else one.prefix_mask
        rows.append(F.pad(own.long(), (max(lengths) - length, 0)).bool())
    return torch.cat(rows)


def front_of(injection: Injection) -> Tensor | None:
    """A tensor [..., P, D] of what enters in front of keys and values; None where nothing does."""
    pairs = [pair[0] for prefix in (injection.prefix, injection.cross) for pair in prefix or () if pair is not None]
    return next(iter([*pairs, *(injection.deep or ())]), None)


def some(value: Tensor | None) -> Tensor:
    """The tensor itself, which is there."""
    assert value is not None
    return value


def rows_of(batch: Batch, begin: int, end: int) -> Batch:
    """The rows from `begin` up to `end` of a joined batch."""
    side = batch.decoder
    return Batch(
        input_ids=batch.input_ids[begin:end],
        mask=batch.mask[begin:end],
        slots=batch.slots[begin:end],
        labels=None if batch.labels is None else batch.labels[begin:end],
        decoder=None if side is None else rows_of(side, begin, end),
        pixels=None if batch.pixels is None else batch.pixels[begin:end],
        vectors=batch.vectors,
    )
