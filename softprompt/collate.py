"""Rows of different length become one padded batch, and a padded batch becomes one row."""

from dataclasses import replace
from typing import Literal, TypeVar

import torch
from torch import Tensor

from softprompt.core import IGNORE, TEXT, Batch, Below, Packing, Row

Part = TypeVar("Part")


def collate(rows: list[Row], filler: int = 0, side: Literal["left", "right"] = "right") -> Batch:
    """A batch [B, T] as long as its longest row; padding on the right, or on the left for generation.

    Raises `ValueError` where only some rows have a target, an image or a decoder.
    """
    longest = max(len(row.ids) for row in rows)

    def stack(values: list[list[int]], pad: int) -> Tensor:
        padded = [v + [pad] * (longest - len(v)) if side == "right" else [pad] * (longest - len(v)) + v for v in values]
        return torch.tensor(padded, dtype=torch.long)

    labelled = any(row.labels for row in rows)
    answers = [[0] * (len(row.ids) - row.answer) + [1] * row.answer for row in rows]
    decoders, pixels = every([row.decoder for row in rows]), every([row.pixels for row in rows])
    targets = every([row.target for row in rows])
    kind = torch.long if all(isinstance(target, int) for target in targets) else torch.float64
    return Batch(
        input_ids=stack([row.ids for row in rows], filler),
        mask=stack([[1] * len(row.ids) for row in rows], 0).bool(),
        slots=stack([row.slots for row in rows], TEXT),
        labels=stack([row.labels or [IGNORE] * len(row.ids) for row in rows], IGNORE) if labelled else None,
        target=torch.tensor(targets, dtype=kind) if targets else None,
        decoder=collate(decoders, filler) if decoders else None,
        pixels=torch.stack(pixels) if pixels else None,
        answer=stack(answers, 0).bool() if any(row.answer for row in rows) else None,
        vectors=max((max(row.slots, default=TEXT) for row in rows), default=TEXT) + 1,
        below=lined_up(every([row.below for row in rows]), longest, side),
    )


def lined_up(parts: list[Below], longest: int, side: Literal["left", "right"]) -> Below | None:
    """States [T, H] of rows as those of a batch [B, longest, H], zero at padding; None for no rows."""
    if not parts:
        return None
    states = parts[0].states.new_zeros(len(parts), longest, parts[0].states.shape[1])
    for row, part in zip(states, parts, strict=True):
        tokens = len(part.states)
        row[slice(tokens) if side == "right" else slice(longest - tokens, None)] = part.states
    return Below(states, parts[0].layer, parts[0].before)


def every(values: list[Part | None]) -> list[Part]:
    """The values of all rows, or none; raises `ValueError` where only some rows have one."""
    given = [value for value in values if value is not None]
    if len(given) not in (0, len(values)):
        raise ValueError(f"{len(given)} of {len(values)} rows have what all of them need")
    return given


def pack(batch: Batch, fewest: int = 2, *, shares: bool = True) -> Packing | None:
    """The same rows as one row, planned once a batch; None for less than `fewest` rows and for what is not plain text.

    The shared front ends before the first label of any row, because each row has to predict its labels by itself, and
    leaves every row a token of its own. Without `shares` there is none: where tokens see what comes after them, equal
    beginnings have different states.
    """
    if len(batch) < fewest or batch.pixels is not None or not bool(batch.mask[:, 0].all()):
        return None
    ids, slots, mask = batch.input_ids, batch.slots, batch.mask
    lengths = mask.sum(1)
    labelled = torch.zeros_like(mask) if batch.labels is None else batch.labels != IGNORE
    same = (ids == ids[:1]) & (slots == slots[:1]) & mask & ~labelled
    front = min(int(same.all(0).cumprod(0).sum()), int(lengths.min()) - 1) if shares and len(batch) > 1 else 0
    rows, columns = mask[:, front:].nonzero(as_tuple=True)
    columns = columns + front
    begins = front + (lengths - front).cumsum(0) - (lengths - front)
    rest = torch.arange(ids.shape[1] - front)
    chosen = labelled[rows, columns]
    below = batch.below
    if below is not None:
        below = replace(below, states=torch.cat([below.states[0, :front], below.states[rows, columns]])[None])
    return Packing(
        input_ids=torch.cat([ids[0, :front], ids[rows, columns]])[None],
        slots=torch.cat([slots[0, :front], slots[rows, columns]])[None],
        columns=torch.cat([torch.arange(front), columns])[None],
        front=front,
        spans=tuple(zip(begins.tolist(), (begins + lengths - front).tolist(), strict=True)),
        home=begins[:, None] + torch.minimum(rest, (lengths - front - 1)[:, None]),
        places=front + chosen.nonzero()[:, 0],
        labels=(ids if batch.labels is None else batch.labels)[rows, columns][chosen][:, None],
        below=below,
    )
