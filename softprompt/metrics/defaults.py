"""Which metrics a task is judged by, and what always answering the same would score."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from softprompt.errors import SoftpromptError
from softprompt.metrics.checks import check_some, check_texts, finite
from softprompt.metrics.generation import rouge_l_f1
from softprompt.metrics.registry import TaskKind
from softprompt.metrics.spans import is_bio

SKEWED = 0.8  # share of the majority class above which accuracy mostly measures that class
SHORT = 4  # words: BLEU needs four in a row
MEDOID = 200  # distinct answers compared with each other, at most


def default_metric(kind: TaskKind, labels: Sequence[str] = (), counts: Sequence[int] = ()) -> str:
    """The metric a run is judged by: the first of `reported_metrics`."""
    return reported_metrics(kind, labels, counts)[0]


def reported_metrics(kind: TaskKind, labels: Sequence[str] = (), counts: Sequence[int] = ()) -> tuple[str, ...]:
    """The metrics of a task, the deciding one first; `labels` are distinct, `counts` say how often each occurs.

    Classification: accuracy, or macro F1 where one class has more than 80 % of the examples. Tagging (`labels` are the
    tags): span F1, or token accuracy where the tags are not BIO. Generation (`labels` are the answers): BLEU, or exact
    match where half of the answers have at most four words. Regression: Pearson with RMSE beside it. Raises SP-E601
    where labels are needed and missing, SP-E602 where labels and counts differ in length.
    """
    if kind == "regression":
        return "pearson", "spearman", "rmse"
    check_some(labels)
    if kind == "tagging":
        return ("span_f1", "token_accuracy") if is_bio(labels) else ("token_accuracy",)
    if len(labels) != len(counts):
        found = f"{len(labels)} labels with {len(counts)} counts"
        raise SoftpromptError("SP-E602", found, "one count a label", "count the labels of the training data")
    if kind == "classification":
        skewed = max(counts) > SKEWED * sum(counts)
        return ("macro_f1", "accuracy", "mcc") if skewed else ("accuracy", "macro_f1", "mcc")
    short = sum(count for text, count in zip(labels, counts, strict=True) if len(text.split()) <= SHORT)
    return ("exact_match", "rouge_l") if 2 * short >= sum(counts) else ("bleu", "chrf", "rouge_l")


def majority_predictions(kind: TaskKind, train_labels: Sequence[Any], n: int, words: Sequence[int] = ()) -> list[Any]:
    """`n` equal answers that ignore the input, from the training labels alone.

    Classification: the most frequent class. Regression: the mean. Tagging: O at every word of sentences with `words`
    [n] words each (the most frequent tag where there is no O). Generation: the most frequent answer, or, where all
    differ, the one with the highest mean ROUGE-L to the others. Ties go to the first in sorted order. Raises SP-E601
    for no training labels, SP-E602 where `words` has another length than n, SP-E603 for labels of the wrong type.
    """
    check_some(train_labels)
    if kind == "regression":
        return [float(np.mean(finite(train_labels, "training label")))] * n
    if kind == "tagging":
        return _same_tag(train_labels, n, words)
    check_texts(train_labels, "training label")
    counts = Counter(train_labels)
    if kind == "generation" and max(counts.values()) == 1:
        return [_medoid(sorted(counts))] * n
    return [_most_frequent(counts)] * n


def _same_tag(sentences: Sequence[Sequence[str]], n: int, words: Sequence[int]) -> list[tuple[str, ...]]:
    if len(words) != n:
        found = f"the words of {len(words)} sentences"
        raise SoftpromptError("SP-E602", found, f"those of {n}", "give the number of words of each test sentence")
    for i, sentence in enumerate(sentences):
        check_texts(sentence, f"training label {i}, word")
    counts = Counter(tag for sentence in sentences for tag in sentence)
    check_some(list(counts))
    tag = "O" if "O" in counts else _most_frequent(counts)
    return [(tag,) * length for length in words]


def _most_frequent(counts: Counter[str]) -> str:
    return min(counts, key=lambda label: (-counts[label], label))


def _medoid(answers: list[str]) -> str:
    """The answer most like the others; of many, an even selection is compared, since the cost is quadratic."""
    step = -(-len(answers) // MEDOID)
    candidates = answers[::step]
    return max(candidates, key=lambda a: sum(rouge_l_f1(a, b) for b in candidates))
