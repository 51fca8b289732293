"""Percentile bootstrap over examples, through the sufficient statistics of a metric.

Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13. A resample is a vector of weights: how often
each example was drawn. Equal examples are one entry with a count, so accuracy over any number of examples has two.
Letters: D draws, U distinct examples, n examples, F statistics of an example.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softprompt.errors import SoftpromptError

Numbers = NDArray[np.float64]
Statistic = Callable[[Numbers], Numbers]  # weights [D, U] -> values [D]; NaN where the metric is undefined
CHUNK = 2_000_000  # weights held at once, 16 MB each array


@dataclass(frozen=True)
class Tally:
    """A data set reduced to what a metric needs: how often each distinct example occurs, and the metric of weights."""

    counts: NDArray[np.int64]  # [U]
    statistic: Statistic
    label: str = ""  # what the metric singled out by itself, such as the positive class

    def value(self) -> float:
        """The metric over all examples; 0.0 where it is undefined, as scikit-learn and conlleval answer."""
        value = float(self.statistic(self.counts[None].astype(np.float64))[0])
        return 0.0 if np.isnan(value) else value


def sum_tally(rows: ArrayLike, value: Statistic, label: str = "") -> Tally:
    """A metric that is a function of sums: `rows` [n, F] are added, `value` maps sums [D, F] to values [D]."""
    unique, counts = np.unique(np.asarray(rows, dtype=np.float64), axis=0, return_counts=True)
    return Tally(counts, lambda weights: value(weights @ unique), label)


def mean_tally(values: ArrayLike) -> Tally:
    """The mean of one number an example, `values` [n]."""
    column = np.asarray(values, dtype=np.float64)
    return sum_tally(np.stack([column, np.ones_like(column)], axis=1), lambda sums: ratio(sums[:, 0], sums[:, 1]))


def ratio(above: Numbers, below: Numbers) -> Numbers:
    """`above / below`, NaN where `below` is 0."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)


def bootstrap(tally: Tally, draws: int = 1000, seed: int = 0) -> float:
    """Half the width between the 2.5 and 97.5 percentiles of the metric over `draws` resamples.

    Draws in which the metric is undefined (no positive example among them, say) are left out. Raises SP-E603 for fewer
    than two draws.
    """
    if draws < 2:
        raise SoftpromptError("SP-E603", f"{draws} bootstrap draws", "at least 2", "leave draws at its default of 1000")
    values = np.concatenate([tally.statistic(weights) for weights in _resamples(tally.counts, draws, seed)])
    values = values[~np.isnan(values)]
    if not len(values):
        return 0.0
    low, high = np.quantile(values, [0.025, 0.975])
    return float(high - low) / 2


def _resamples(counts: NDArray[np.int64], draws: int, seed: int) -> Iterator[Numbers]:
    """Weights [<=D, U] of `draws` resamples, in pieces small enough for memory."""
    rng = np.random.default_rng(seed)
    n, distinct = int(counts.sum()), len(counts)
    by_cell = distinct * 8 < n  # the same distribution twice: a multinomial costs D*U, indices D*n; they cross near 8
    owner = np.repeat(np.arange(distinct), counts)
    step = max(1, CHUNK // (distinct if by_cell else n))
    for start in range(0, draws, step):
        size = min(step, draws - start)
        if by_cell:
            yield rng.multinomial(n, counts / n, size=size).astype(np.float64)
        else:
            picked = owner[rng.integers(n, size=(size, n))] + np.arange(size)[:, None] * distinct
            yield np.bincount(picked.ravel(), minlength=size * distinct).reshape(size, distinct).astype(np.float64)
