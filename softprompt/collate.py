"""Rows of different length become one padded batch."""

from typing import Literal, TypeVar

import torch
from torch import Tensor

from softprompt.core import IGNORE, TEXT, Batch, Row

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
        vectors=max((max(row.slots, default=TEXT) for row in rows), default=TEXT) + 1,
    )


def every(values: list[Part | None]) -> list[Part]:
    """The values of all rows, or none; raises `ValueError` where only some rows have one."""
    given = [value for value in values if value is not None]
    if len(given) not in (0, len(values)):
        raise ValueError(f"{len(given)} of {len(values)} rows have what all of them need")
    return given
