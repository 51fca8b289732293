"""The metrics by name, each answering with a `Score`."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

from softprompt.errors import SoftpromptError, near
from softprompt.metrics.checks import check_lengths, check_some
from softprompt.metrics.classes import accuracy, f1, macro_f1, mcc
from softprompt.metrics.generation import bleu, chrf, exact_match, rouge_l
from softprompt.metrics.regression import pearson, rmse, spearman
from softprompt.metrics.resampling import Tally, bootstrap
from softprompt.metrics.score import Score
from softprompt.metrics.spans import span_f1, token_accuracy

TaskKind = Literal["classification", "tagging", "generation", "regression"]
Count = Callable[[Any, Any, Sequence[str] | None], Tally]
Z2 = 1.959964**2  # squared 97.5 % point of the normal distribution
ROUNDING = 1e-9


@dataclass(frozen=True)
class Metric:
    """A metric by its name, the kinds of task it applies to, and the ends of its scale."""

    name: str
    kinds: tuple[TaskKind, ...]
    worst: float
    best: float
    count: Count

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value is a better one."""
        return self.best > self.worst

    def __call__(
        self,
        predictions: Sequence[Any],
        references: Sequence[Any],
        labels: Sequence[str] | None = None,
        draws: int = 1000,
        seed: int = 0,
    ) -> Score:
        """The metric over all examples with its bootstrap half-width; independent of the order of the examples.

        `labels` are the labels (tags) that are allowed; None allows all. Raises SP-E601 for no examples, SP-E602 for
        different lengths, SP-E603 for a value of the wrong type, SP-E604 for a label outside `labels`.
        """
        check_lengths(predictions, references)
        check_some(references)
        tally = self.count(predictions, references, labels)
        value, error = tally.value(), self._error(tally, draws, seed)
        name = f"{self.name}:{tally.label}" if tally.label else self.name
        return Score(name, value, error, len(references))

    def _error(self, tally: Tally, draws: int, seed: int) -> float:
        """The bootstrap half-width; Wilson's for n of n where no resample differs from a perfect or worst value.

        20 of 20 right is no proof of 100 %, but every resample of it is right.
        """
        error, value = bootstrap(tally, draws, seed), tally.value()
        width = abs(self.best - self.worst)
        if not math.isfinite(width) or error > ROUNDING * width:
            return error
        if min(abs(value - self.best), abs(value - self.worst)) > ROUNDING * width:
            return 0.0
        return width * Z2 / (2 * (int(tally.counts.sum()) + Z2))


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("accuracy", ("classification",), 0, 1, accuracy),
            Metric("macro_f1", ("classification",), 0, 1, macro_f1),
            Metric("f1", ("classification",), 0, 1, f1),
            Metric("mcc", ("classification",), -1, 1, mcc),
            Metric("span_f1", ("tagging",), 0, 1, span_f1),
            Metric("token_accuracy", ("tagging",), 0, 1, token_accuracy),
            Metric("bleu", ("generation",), 0, 100, bleu),
            Metric("chrf", ("generation",), 0, 100, chrf),
            Metric("rouge_l", ("generation",), 0, 1, rouge_l),
            Metric("exact_match", ("generation",), 0, 1, exact_match),
            Metric("pearson", ("regression",), -1, 1, pearson),
            Metric("spearman", ("regression",), -1, 1, spearman),
            Metric("rmse", ("regression",), math.inf, 0, rmse),
        )
    }
)


def find_metric(name: str) -> Metric:
    """The metric of that name; `f1:CLASS` names the positive class. Raises SP-E605 where there is none."""
    base, colon, positive = name.partition(":")
    metric = METRICS.get(base)
    if metric is None or (colon and not (positive and base == "f1")):
        expected = f"one of {', '.join(METRICS)}, or f1:CLASS"
        raise SoftpromptError("SP-E605", f"metric {name!r}", expected, f"choose one{near(name, list(METRICS))}")
    return replace(metric, count=partial(f1, positive=positive)) if positive else metric
