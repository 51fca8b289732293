"""Pearson and Spearman correlation and the root mean squared error.

Letters: D draws, U distinct (prediction, reference) pairs.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from softprompt.metrics.checks import finite
from softprompt.metrics.resampling import Numbers, Tally, ratio, sum_tally

FLAT = 1e-12  # a spread below this part of the largest value is rounding, not variation


def pearson(predictions: Sequence[float], references: Sequence[float], labels: Sequence[str] | None = None) -> Tally:
    """Linear correlation, -1 to 1; undefined where either side is constant."""
    pairs, counts = _pairs(predictions, references)
    x, y = pairs.T / np.maximum(np.abs(pairs).max(axis=0), np.finfo(np.float64).tiny)[:, None]
    return Tally(counts, lambda weights: _correlation(weights, x[None], y[None]))


def spearman(predictions: Sequence[float], references: Sequence[float], labels: Sequence[str] | None = None) -> Tally:
    """Rank correlation with mean ranks for ties, -1 to 1; ranks are made anew in every resample."""
    pairs, counts = _pairs(predictions, references)
    x, y = (np.unique(column, return_inverse=True)[1] for column in pairs.T)
    return Tally(counts, lambda weights: _correlation(weights, _ranks(weights, x), _ranks(weights, y)))


def rmse(predictions: Sequence[float], references: Sequence[float], labels: Sequence[str] | None = None) -> Tally:
    """Root mean squared error, in the unit of the references; lower is better."""
    errors = np.subtract(finite(predictions, "prediction"), finite(references, "reference"))
    scale = max(float(np.abs(errors).max()), np.finfo(np.float64).tiny)  # squares of large errors would overflow
    rows = np.stack([(errors / scale) ** 2, np.ones_like(errors)], axis=1)
    return sum_tally(rows, lambda sums: scale * np.sqrt(ratio(sums[:, 0], sums[:, 1])))


def _pairs(predictions: Sequence[float], references: Sequence[float]) -> tuple[Numbers, NDArray[np.int64]]:
    """Distinct pairs [U, 2] and how often each occurs [U]."""
    pairs = np.stack([finite(predictions, "prediction"), finite(references, "reference")], axis=1)
    return np.unique(pairs, axis=0, return_counts=True)


def _ranks(weights: Numbers, place: NDArray[np.int64]) -> Numbers:
    """Mean rank [D, U] of each pair, whose value is the `place`-th [U] in sorted order, under weights [D, U]."""
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    repeats = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks: Numbers = (np.cumsum(repeats, axis=1) - (repeats - 1) / 2)[:, place]
    return ranks


def _correlation(weights: Numbers, x: Numbers, y: Numbers) -> Numbers:
    """Weighted correlation [D] of x and y, each [1|D, U]; NaN where one of them does not vary."""
    n = weights.sum(axis=1, keepdims=True)
    dx, dy = (side - (weights * side).sum(axis=1, keepdims=True) / n for side in (x, y))
    vx, vy = ((weights * d * d).sum(axis=1) for d in (dx, dy))
    flat = [v <= n[:, 0] * (FLAT * np.abs(side).max(axis=1)) ** 2 for v, side in ((vx, x), (vy, y))]
    spread = np.where(flat[0] | flat[1], 0.0, np.sqrt(vx) * np.sqrt(vy))
    return np.clip(ratio((weights * dx * dy).sum(axis=1), spread), -1.0, 1.0)
