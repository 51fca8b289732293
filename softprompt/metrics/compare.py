"""Is the difference real: a paired test over examples, and the spread over training seeds.

McNemar 1947, "Note on the sampling error of the difference between correlated proportions" (the exact, binomial form);
Dror et al. 2018, "The Hitchhiker's Guide to Testing Statistical Significance in NLP", section 3.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from softprompt.errors import SoftpromptError
from softprompt.metrics.checks import check_lengths, check_some, finite
from softprompt.metrics.resampling import CHUNK, Numbers, bootstrap, mean_tally
from softprompt.metrics.score import Score


class Difference(NamedTuple):
    """How much the first system is above the second, on the same examples."""

    difference: float  # mean of first minus second
    p: float  # two-sided
    error: float  # half-width of the 95 % interval of the difference


def paired(first: Sequence[float], second: Sequence[float], draws: int = 10_000, seed: int = 0) -> Difference:
    """Compares two systems by one number an example: right or wrong (0, 1), or a score.

    Right or wrong is tested with McNemar's exact test, anything else with a sign-flip permutation test of `draws`
    draws. Raises SP-E601 for no examples, SP-E602 for different lengths, SP-E603 for a value that is no finite number.
    """
    check_lengths(first, second)
    check_some(first)
    a, b = np.array(finite(first, "first")), np.array(finite(second, "second"))
    gaps = np.sort(a - b)  # sorted: the answer does not depend on the order of the examples
    binary = bool(np.isin(np.concatenate([a, b]), (0.0, 1.0)).all())
    p = _mcnemar(gaps) if binary else _sign_flip(gaps, draws, seed)
    return Difference(float(gaps.mean()), p, bootstrap(mean_tally(gaps), draws, seed))


def _mcnemar(gaps: Numbers) -> float:
    from scipy.stats import binomtest

    wins, losses = int((gaps > 0).sum()), int((gaps < 0).sum())
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def _sign_flip(gaps: Numbers, draws: int, seed: int) -> float:
    """Share of random sign patterns whose sum is at least as far from 0, the observed pattern counted among them."""
    sizes = np.sort(np.abs(gaps[gaps != 0]))
    limit = abs(gaps.sum()) - 1e-9 * sizes.sum()  # equal sums added in another order must count as equal
    extreme = sum(int((np.abs(signs @ sizes) >= limit).sum()) for signs in _signs(len(sizes), draws, seed))
    return (1 + extreme) / (1 + draws)


def _signs(n: int, draws: int, seed: int) -> Iterator[NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK // max(n, 1))
    for start in range(0, draws, step):
        flips = rng.integers(2, size=(min(step, draws - start), n), dtype=np.int8)
        yield (2 * flips - 1).astype(np.float32)


def over_seeds(scores: Sequence[Score]) -> Score:
    """Mean over runs that differ in the seed only, with Student's 95 % half-width over the runs (not over examples).

    One score is returned as it is. Raises SP-E601 for none, SP-E602 for different n, SP-E603 where the scores are of
    different metrics or already over seeds.
    """
    check_some(scores)
    if len(scores) == 1:
        return scores[0]
    first = scores[0]
    for i, score in enumerate(scores):
        if score.name != first.name or score.seeds != 1:
            found, expected = f"{score.name} over {score.seeds} seeds", f"{first.name} of one run"
            raise SoftpromptError("SP-E603", found, expected, "average one metric of single runs", where=f"score {i}")
        if score.n != first.n:
            expected = f"n={first.n} as in the first"
            raise SoftpromptError("SP-E602", f"n={score.n}", expected, "evaluate on one test set", where=f"score {i}")
    from scipy.stats import t

    values = np.array([score.value for score in scores])
    error = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return Score(first.name, float(values.mean()), float(error), first.n, len(values))
