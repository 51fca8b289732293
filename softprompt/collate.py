"""Rows of different length become one padded batch."""

from typing import Literal

import torch
from torch import Tensor

from softprompt.core import IGNORE, TEXT, Batch, Row


def collate(rows: list[Row], filler: int = 0, side: Literal["left", "right"] = "right") -> Batch:
    """A batch [B, T] as long as its longest row; padding on the right, or on the left for generation."""
    longest = max(len(row.ids) for row in rows)

    def stack(values: list[list[int]], pad: int) -> Tensor:
        padded = [v + [pad] * (longest - len(v)) if side == "right" else [pad] * (longest - len(v)) + v for v in values]
        return torch.tensor(padded, dtype=torch.long)

    labelled = any(row.labels for row in rows)
    decoders = [row.decoder for row in rows if row.decoder is not None]
    pixels = [row.pixels for row in rows if row.pixels is not None]
    targets = [row.target for row in rows if row.target is not None]
    return Batch(
        input_ids=stack([row.ids for row in rows], filler),
        mask=stack([[1] * len(row.ids) for row in rows], 0).bool(),
        slots=stack([row.slots for row in rows], TEXT),
        labels=stack([row.labels or [IGNORE] * len(row.ids) for row in rows], IGNORE) if labelled else None,
        target=torch.tensor(targets) if targets else None,
        decoder=collate(decoders, filler) if decoders else None,
        pixels=torch.stack(pixels) if pixels else None,
        vectors=max((max(row.slots, default=TEXT) for row in rows), default=TEXT) + 1,
    )
