"""The metric follows the task and the balance of its labels; the baseline answers from the training labels alone."""

import pytest

from softprompt.errors import SoftpromptError
from softprompt.metrics import METRICS, default_metric, majority_predictions, reported_metrics

LONG, SHORT = "a sentence of more than four words", "two words"


@pytest.mark.parametrize(
    ("kind", "labels", "counts", "expected"),
    [
        ("classification", ["a", "b"], [50, 50], "accuracy"),
        ("classification", ["a", "b"], [80, 20], "accuracy"),
        ("classification", ["a", "b"], [81, 19], "macro_f1"),
        ("classification", ["a", "b", "c"], [1, 98, 1], "macro_f1"),
        ("tagging", ["O", "B-PER", "I-PER"], [], "span_f1"),
        ("tagging", ["NOUN", "VERB"], [], "token_accuracy"),
        ("tagging", ["O", "PER"], [], "token_accuracy"),
        ("generation", [LONG, SHORT], [3, 1], "bleu"),
        ("generation", [LONG, SHORT], [1, 3], "exact_match"),
        ("regression", [], [], "pearson"),
    ],
)
def test_the_metric_follows_the_task(kind, labels: list[str], counts: list[int], expected: str) -> None:
    assert default_metric(kind, labels, counts) == expected
    assert all(kind in METRICS[name].kinds for name in reported_metrics(kind, labels, counts))


def test_an_error_stands_beside_the_correlation() -> None:
    assert "rmse" in reported_metrics("regression")


@pytest.mark.parametrize(("labels", "counts", "code"), [([], [], "SP-E601"), (["a"], [1, 2], "SP-E602")])
def test_labels_without_their_counts_are_refused(labels: list[str], counts: list[int], code: str) -> None:
    with pytest.raises(SoftpromptError, match=code):
        default_metric("classification", labels, counts)


def test_the_baseline_of_classes_is_the_most_frequent_first_in_order() -> None:
    assert majority_predictions("classification", ["b", "a", "b"], 2) == ["b", "b"]
    assert majority_predictions("classification", ["b", "a"], 1) == ["a"]


def test_the_baseline_of_numbers_is_their_mean() -> None:
    assert majority_predictions("regression", [1.0, 2.0, 6.0], 2) == [3.0, 3.0]


def test_the_baseline_of_tags_is_outside_everywhere() -> None:
    train = [("B-X", "I-X", "I-X"), ("B-X", "O")]
    assert majority_predictions("tagging", train, 2, words=[2, 1]) == [("O", "O"), ("O",)]


def test_the_baseline_of_tags_without_outside_is_the_most_frequent() -> None:
    assert majority_predictions("tagging", [("N", "V", "N")], 1, words=[2]) == [("N", "N")]


def test_the_baseline_of_answers_is_the_most_frequent_or_the_most_central() -> None:
    assert majority_predictions("generation", ["x", "a b", "x"], 1) == ["x"]
    assert majority_predictions("generation", ["z q", "a b c", "a b", "a b d"], 1) == ["a b"]


def test_one_of_many_different_answers_is_chosen() -> None:
    answers = [f"answer {i} {i % 7} {i % 11}" for i in range(5000)]
    assert majority_predictions("generation", answers, 1)[0] in answers


def test_the_baseline_ignores_the_order_of_training() -> None:
    answers = [f"{i} {i % 3}" for i in range(500)]
    assert majority_predictions("generation", answers, 1) == majority_predictions("generation", answers[::-1], 1)


def test_missing_sentence_lengths_and_missing_labels_are_refused() -> None:
    with pytest.raises(SoftpromptError, match="SP-E602"):
        majority_predictions("tagging", [("O",)], 2)
    with pytest.raises(SoftpromptError, match="SP-E601"):
        majority_predictions("classification", [], 2)
    with pytest.raises(SoftpromptError, match="SP-E601"):
        majority_predictions("tagging", [()], 1, words=[1])
    with pytest.raises(SoftpromptError, match="SP-E603"):
        majority_predictions("regression", ["high"], 1)
