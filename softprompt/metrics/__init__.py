"""Metrics with a 95 % half-width and the number of examples, baselines beside them, and tests between two systems."""

from softprompt.metrics.compare import Difference, over_seeds, paired
from softprompt.metrics.defaults import default_metric, majority_predictions, reported_metrics
from softprompt.metrics.registry import METRICS, Metric, TaskKind, find_metric
from softprompt.metrics.resampling import Tally, bootstrap, mean_tally, sum_tally
from softprompt.metrics.score import Score
from softprompt.metrics.spans import Span, spans

__all__ = [
    "METRICS",
    "Difference",
    "Metric",
    "Score",
    "Span",
    "Tally",
    "TaskKind",
    "bootstrap",
    "default_metric",
    "find_metric",
    "majority_predictions",
    "mean_tally",
    "over_seeds",
    "paired",
    "reported_metrics",
    "spans",
    "sum_tally",
]
