"""Accuracy, F1, macro F1 and Matthews correlation from the cells of a confusion matrix.

Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient", equation 8, for `mcc`.
Letters: C classes that occur, U cells of the confusion matrix that occur, D draws.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from softprompt.errors import SoftpromptError
from softprompt.metrics.checks import check_known, check_texts
from softprompt.metrics.resampling import Numbers, Tally, mean_tally, ratio, sum_tally

Names = Sequence[str]
Confusion = Callable[[Numbers, Numbers, Numbers], Numbers]  # hit, predicted, true, each [D, C] -> [D]


def _check(predictions: Names, references: Names, labels: Names | None) -> None:
    for values, what in ((predictions, "prediction"), (references, "reference")):
        check_texts(values, what)
        check_known(values, labels, what)


def accuracy(predictions: Names, references: Names, labels: Names | None = None) -> Tally:
    """The share of equal labels."""
    _check(predictions, references, labels)
    return mean_tally([p == r for p, r in zip(predictions, references, strict=True)])


def macro_f1(predictions: Names, references: Names, labels: Names | None = None) -> Tally:
    """The mean F1 of the classes that occur in predictions or references; others are left out."""
    return _confusion_tally(predictions, references, labels, _macro_f1)


def mcc(predictions: Names, references: Names, labels: Names | None = None) -> Tally:
    """Matthews correlation, for any number of classes; undefined where either side has one class only."""
    return _confusion_tally(predictions, references, labels, _mcc)


def f1(predictions: Names, references: Names, labels: Names | None = None, positive: str | None = None) -> Tally:
    """F1 of one class: `positive`, or the rarer of two in the references (the later in sorted order where equal).

    Raises SP-E603 where no class is named and there are more than two, SP-E604 where the named one does not exist.
    """
    _check(predictions, references, labels)
    classes = sorted({*predictions, *references, *(labels or ())})
    if positive is None:
        if len(classes) > 2:
            do = f"use macro_f1, or name the class, for instance f1:{classes[0]}"
            raise SoftpromptError("SP-E603", f"{len(classes)} classes for f1", "two", do)
        positive = min(sorted(Counter(references).items(), reverse=True), key=lambda item: item[1])[0]
    check_known([positive], classes, "positive class")
    said = np.array([p == positive for p in predictions], dtype=np.float64)
    true = np.array([r == positive for r in references], dtype=np.float64)
    rows = np.stack([said * true, said + true], axis=1)
    return sum_tally(rows, lambda sums: ratio(2 * sums[:, 0], sums[:, 1]), label=positive)


def _confusion_tally(predictions: Names, references: Names, labels: Names | None, value: Confusion) -> Tally:
    """Cells that occur, each as one-hot rows hit, predicted and true [U, 3, C]; `value` sees their sums [D, C]."""
    _check(predictions, references, labels)
    index = {name: i for i, name in enumerate(sorted({*predictions, *references}))}
    pairs = [(index[p], index[r]) for p, r in zip(predictions, references, strict=True)]
    cells, counts = np.unique(np.array(pairs), axis=0, return_counts=True)
    said, true = np.eye(len(index))[cells[:, 0]], np.eye(len(index))[cells[:, 1]]
    return Tally(counts, lambda weights: value(weights @ (said * true), weights @ said, weights @ true))


def _macro_f1(hit: Numbers, said: Numbers, true: Numbers) -> Numbers:
    mean: Numbers = np.nanmean(ratio(2 * hit, said + true), axis=1)
    return mean


def _mcc(hit: Numbers, said: Numbers, true: Numbers) -> Numbers:
    n = said.sum(axis=1)
    covariance = hit.sum(axis=1) * n - (said * true).sum(axis=1)
    spread = (n**2 - (said**2).sum(axis=1)) * (n**2 - (true**2).sum(axis=1))
    return ratio(covariance, np.sqrt(spread))
