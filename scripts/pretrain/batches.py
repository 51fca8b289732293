"""Which samples every step sees: a function of seed and step, so that a resumed run sees what an unbroken one would.

Samples of like length stand in one batch, padded to one of a few lengths; every batch has about the same tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scripts.pretrain.corpus import Corpus

LENGTHS = (32, 48, 64, 96, 160, 512)  # few, because every length is compiled for itself
ANSWER, QUESTION = 3.0, 0.3  # weight of a token of a skill; of running text: 1


@dataclass(frozen=True)
class Rows:
    """A batch: what is read, what is to be predicted, and how much each prediction weighs."""

    ids: Tensor  # [B, T] int64
    labels: Tensor  # [B, T] int64, -100 at padding
    weights: Tensor  # [B, T] float32, 0 at padding

    def __len__(self) -> int:
        return len(self.ids)


def buckets(corpus: Corpus, tokens: int) -> list[tuple[int, int, NDArray[np.int64]]]:
    """For every length T: (T, rows of a batch, indices of its samples)."""
    reading = corpus.lengths - 1  # the last token is predicted, but not read
    place = np.searchsorted(LENGTHS, reading)
    return [(length, max(1, tokens // length), np.flatnonzero(place == i)) for i, length in enumerate(LENGTHS)]


def epoch(corpus: Corpus, tokens: int, seed: int, number: int) -> list[tuple[int, NDArray[np.int64]]]:
    """All batches of an epoch as (T, indices), in the order in which they are seen.

    A batch that is not full is filled with samples of its length from the front of the same epoch.
    """
    random = np.random.default_rng([seed, number])
    made: list[tuple[int, NDArray[np.int64]]] = []
    for length, rows, members in buckets(corpus, tokens):
        if not len(members):
            continue
        order = random.permutation(members)
        full = np.resize(order, -(-len(order) // rows) * rows)
        made += [(length, full[at : at + rows]) for at in range(0, len(full), rows)]
    return [made[i] for i in random.permutation(len(made))]


def steps(corpus: Corpus, tokens: int, seed: int, first: int) -> Iterator[Rows]:
    """Batches from step `first` on, for ever."""
    size = len(epoch(corpus, tokens, seed, 0))
    number, at = divmod(first, size)
    while True:
        for length, chosen in epoch(corpus, tokens, seed, number)[at:]:
            yield rows(corpus, chosen, length)
        number, at = number + 1, 0


def rows(corpus: Corpus, chosen: NDArray[np.int64], length: int) -> Rows:
    """Samples as a batch [B, T], padded on the right with token 0."""
    ids = np.zeros((len(chosen), length + 1), dtype=np.int64)
    weights = np.zeros((len(chosen), length), dtype=np.float32)
    for i, sample in enumerate(chosen):
        begin, end = corpus.starts[sample], corpus.starts[sample + 1]
        ids[i, : end - begin] = corpus.ids[begin:end]
        predicted, answer = end - begin - 1, corpus.answers[sample] - 1
        skill = answer < predicted
        weights[i, :predicted] = QUESTION if skill else 1.0
        weights[i, answer:predicted] = ANSWER
    labels = np.where(weights > 0, ids[:, 1:], -100)
    return Rows(torch.from_numpy(ids[:, :-1]), torch.from_numpy(labels), torch.from_numpy(weights))
