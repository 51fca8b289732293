"""Rows that are being written: tokens so far, the cache of their keys and values, and the logits of what comes next.

Prompt vectors and offsets enter with the text; keys and values enter at every step, because the cache holds those of
tokens only.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from softprompt.backbones.text import prefix_length, tokens_only
from softprompt.core import Batch, Injection, Prefix, Row
from softprompt.errors import DataError


class Stream:
    """R rows being written by a causal backbone: its cache, and `logits` [R, V] of the tokens to come."""

    def __init__(self, backbone: Any, batch: Batch, injection: Injection) -> None:
        self.backbone, self.cache = backbone, backbone.new_cache()
        self.start(batch, injection)

    def start(self, batch: Batch, injection: Injection) -> None:
        """Read the text of a batch that is padded on the left."""
        self.mask = batch.mask  # [R, T], of all tokens so far
        self.logits = self.read(batch, injection)
        self.injection = replace(injection, embeds=None, offset=None)

    def read(self, batch: Batch, injection: Injection) -> Tensor:
        """Logits [R, V] after the last of the batch's new tokens."""
        last = torch.tensor([batch.input_ids.shape[1] - 1], device=batch.input_ids.device)
        logits: Tensor = self.backbone(batch, injection, columns=last, cache=self.cache).logits
        return logits[:, 0]

    def feed(self, tokens: Tensor) -> None:
        """Append one token [R] to every row."""
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], 1)
        self.logits = self.read(tokens_only(tokens[:, None], self.mask), self.injection)

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows alone, in this order; a row may come more than once."""
        index = torch.tensor(rows, device=self.mask.device)
        self.cache.reorder_cache(index)
        self.mask, self.injection = self.mask[index], select(self.injection, index)


class DecoderStream(Stream):
    """The same for an encoder-decoder: the text is read once, by the encoder; every row starts with its start token."""

    @override
    def start(self, batch: Batch, injection: Injection) -> None:
        assert batch.decoder is not None
        self.memory = self.backbone(batch, replace(injection, decoder=None)).hidden  # [R, T, H]
        self.source = tokens_only(batch.input_ids, batch.mask)  # its vectors are in the memory
        first = tokens_only(batch.decoder.input_ids[:, :1])
        super().start(first, Injection(decoder=injection.decoder))

    @override
    def read(self, batch: Batch, injection: Injection) -> Tensor:
        last = torch.tensor([batch.input_ids.shape[1] - 1], device=batch.input_ids.device)
        whole = replace(self.source, decoder=batch)
        logits: Tensor = self.backbone(whole, injection, columns=last, memory=self.memory, cache=self.cache).logits
        return logits[:, 0]

    @override
    def keep(self, rows: list[int]) -> None:
        super().keep(rows)
        self.memory = self.memory[rows]
        self.source = tokens_only(self.source.input_ids[rows], self.source.mask[rows])


def select(injection: Injection, index: Tensor) -> Injection:
    """The injection of rows `index` [R]; what is the same for all rows stays as it is."""

    def rows(x: Tensor) -> Tensor:
        return x if x.shape[0] == 1 else x[index]

    def pairs(prefix: Prefix | None) -> Prefix | None:
        return prefix and tuple(pair and (rows(pair[0]), rows(pair[1])) for pair in prefix)

    return replace(
        injection,
        prefix=pairs(injection.prefix),
        cross=pairs(injection.cross),
        prefix_mask=None if injection.prefix_mask is None else injection.prefix_mask[index],
        decoder=injection.decoder and select(injection.decoder, index),
    )


def fronts(injection: Injection, rows: int) -> list[int]:
    """How many positions the prefix of every row takes."""
    if injection.prefix_mask is not None:
        counts: list[int] = injection.prefix_mask.sum(1).tolist()
        return counts
    return [prefix_length(injection.prefix or ())] * rows


def room_after(backbone: Any, rows: Sequence[Row], injection: Injection) -> list[int]:
    """Tokens that may follow each row: one more than can be read, because the last is not read again.

    Raises `DataError` where a row does not fit.
    """
    limit = backbone.spec.positions or 10**9
    taken = read = [len(row.ids) + front for row, front in zip(rows, fronts(injection, len(rows)), strict=True)]
    if backbone.spec.kind == "seq2seq":  # the decoder counts its own positions; its first token is the start token
        taken = [1 + front for front in fronts(injection.decoder or Injection(), len(rows))]
    if max(read + taken) > limit:
        found = f"{max(read + taken)} tokens, prompt included"
        raise DataError("SP-E104", found, f"at most {limit}", "use a shorter text or prompt")
    return [limit - count + 1 for count in taken]
