"""Whether a claim holds: differences between runs with 95 % half-widths, in points of a scale of 100."""

import statistics
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from runs import Run, mean
from scipy.stats import t

from softprompt.metrics import METRICS, Score, over_seeds, paired

Found = dict[str, list[Run]]  # by variant, in the order of seeds


@dataclass(frozen=True)
class Verdict:
    """A line of the table."""

    numbers: str
    holds: str


def points(run: Run, what: str = "value") -> float:
    """A score, or its `error`, on a scale of 100."""
    score = run["score"]
    return float(100 * score[what] / METRICS[score["name"]].best)


def gap(first: list[Run], second: list[Run]) -> tuple[float, float]:
    """How much the first is above the second, in points, and the 95 % half-width; runs of one seed are paired."""
    pairs = [(a, b) for a in first for b in second if a["seed"] == b["seed"]]
    between = over_seeds([Score("points", points(a) - points(b), 0.0, 1) for a, b in pairs])
    return between.value, max(between.error if len(pairs) > 2 else 0.0, over_examples(pairs))


def over_examples(pairs: list[tuple[Run, Run]]) -> float:
    """The half-width over test examples: of answers in pairs; where only scores are known, as of two sets."""
    if all("right" in run for pair in pairs for run in pair):
        sides = zip(*pairs, strict=True)
        shares = [np.mean([[int(bit) for bit in run["right"]] for run in side], axis=0) for side in sides]
        return 100 * paired(*(share.tolist() for share in shares)).error
    errors = np.array([[points(run, "error") for run in pair] for pair in pairs])
    return float(np.hypot(*errors.mean(0)))


def verdict(value: float, error: float) -> str:
    return "holds" if value > error else "the reverse" if value < -error else "within the ±"


def overall(found: list[str]) -> str:
    """One verdict of several: "holds" only where all do, "in part" where some do and none is the other way round."""
    if set(found) == {"holds"}:
        return "**holds**"
    word = "holds in part" if "holds" in found and "the reverse" not in found else "does not hold"
    return f"{word} ({', '.join(found)})"


def chain(found: Found, best_first: list[str], names: list[str] | None = None) -> Verdict:
    """Whether every variant is above the next, and their means."""
    groups = [found.get(variant, []) for variant in best_first]
    shown = ", ".join(f"{name} {mean(runs)}" for name, runs in zip(names or best_first, groups, strict=True) if runs)
    if not all(groups):
        return Verdict(shown or "-", "not measured")
    gaps = [gap(a, b) for a, b in pairwise(groups)]
    told = ", ".join(f"{value:+.1f} ±{error:.1f}" for value, error in gaps)
    return Verdict(f"{shown} ({told})", overall([verdict(*one) for one in gaps]))


def welch(first: list[float], second: list[float]) -> tuple[float, float]:
    """The difference of two means and its 95 % half-width, without equal variances."""
    parts = [statistics.variance(side) / len(side) for side in (first, second)]
    value = statistics.mean(first) - statistics.mean(second)
    if not sum(parts):
        return value, 0.0
    freedom = sum(parts) ** 2 / sum(p**2 / (len(s) - 1) for p, s in zip(parts, (first, second), strict=True))
    return value, float(t.ppf(0.975, freedom) * sum(parts) ** 0.5)


def median(values: list[float]) -> tuple[float, float]:
    """The median and half of its 95 % bootstrap interval."""
    draws = np.random.default_rng(0).choice(values, (2000, len(values)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return statistics.median(values), float(high - low) / 2
