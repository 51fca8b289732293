"""Every metric of the registry answers alike and refuses alike."""

import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from softprompt.errors import SoftpromptError
from softprompt.metrics import METRICS, Score, find_metric

ROOT = Path(__file__).resolve().parents[2]
GOOD = {
    "classification": (["a", "b", "a"], ["a", "b", "b"]),
    "tagging": ([["B-X", "O"], ["O"]], [["B-X", "O"], ["B-X"]]),
    "generation": (["a b c d e", "f"], ["a b c d f", "f"]),
    "regression": ([1.0, 2.0, 4.0], [1.0, 3.0, 2.0]),
}


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_scores_with_an_error_and_the_number_of_examples(name: str) -> None:
    metric = METRICS[name]
    predictions, references = GOOD[metric.kinds[0]]
    score = metric(predictions, references)
    assert score.n == len(references)
    assert score.error > 0
    assert min(metric.worst, metric.best) <= score.value <= max(metric.worst, metric.best)
    assert score.name.split(":")[0] == name
    assert metric(predictions, references) == score


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_refuses_no_examples(name: str) -> None:
    with pytest.raises(SoftpromptError, match="SP-E601"):
        METRICS[name]([], [])


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_refuses_different_lengths(name: str) -> None:
    predictions, references = GOOD[METRICS[name].kinds[0]]
    with pytest.raises(SoftpromptError, match="SP-E602"):
        METRICS[name](predictions[:-1], references)


@pytest.mark.parametrize("name", [n for n in METRICS if METRICS[n].kinds == ("classification",)])
def test_an_unknown_label_is_refused_on_either_side_with_the_nearest_known(name: str) -> None:
    for sides in ((["negativ"], ["negative"]), (["negative"], ["negativ"])):
        with pytest.raises(SoftpromptError, match=r"SP-E604.*'negativ'.*did you mean 'negative'"):
            METRICS[name](*sides, labels=["negative", "positive"])


def test_many_labels_are_not_all_listed() -> None:
    with pytest.raises(SoftpromptError, match="and 138 more") as caught:
        METRICS["accuracy"](["x"], ["l1"], labels=[f"l{i}" for i in range(150)])
    assert len(str(caught.value)) < 250


def test_a_number_is_no_label() -> None:
    with pytest.raises(SoftpromptError, match="SP-E603 prediction 0: found 1 of type int"):
        METRICS["accuracy"]([1], ["1"])


@pytest.mark.parametrize("name", ["acuracy", "accuracy:x", "f1:", "", ":x"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(SoftpromptError, match="SP-E605"):
        find_metric(name)


def test_a_near_miss_is_named() -> None:
    with pytest.raises(SoftpromptError, match="did you mean 'accuracy'"):
        find_metric("acuracy")


def test_the_name_of_a_score_finds_its_metric_again() -> None:
    score = METRICS["f1"](["a", "b", "b"], ["a", "b", "a"])
    assert find_metric(score.name)(["a", "b", "b"], ["a", "b", "a"]) == score


def test_a_positive_class_that_does_not_exist_is_unknown() -> None:
    with pytest.raises(SoftpromptError, match="SP-E604 positive class"):
        find_metric("f1:spma")(["spam", "ham"], ["spam", "ham"])


def test_only_the_error_is_better_when_lower() -> None:
    assert [name for name, metric in METRICS.items() if not metric.higher_is_better] == ["rmse"]


def test_a_score_prints_its_error_its_examples_and_its_seeds() -> None:
    assert str(Score("accuracy", 0.9123, 0.0119, 500)) == "0.912 ±0.012 (n=500)"
    assert str(Score("accuracy", 0.9123, 0.0119, 500, 3)) == "0.912 ±0.012 (n=500, 3 seeds)"


def test_a_score_survives_its_dictionary_and_cannot_be_changed() -> None:
    score = Score("mcc", 0.5, 0.1, 20, 4)
    assert Score.from_dict(score.as_dict()) == score
    with pytest.raises(FrozenInstanceError):
        score.value = 1.0


@pytest.mark.parametrize("change", [{"value": None}, {"value": "high"}, {"extra": 1}])
def test_a_dictionary_that_is_no_score_is_refused(change: dict) -> None:
    with pytest.raises(SoftpromptError, match="SP-E603"):
        Score.from_dict({**Score("mcc", 0.5, 0.1, 20).as_dict(), **change})


def test_importing_the_metrics_imports_no_heavy_library() -> None:
    code = (
        "import sys, softprompt.metrics;"
        "print([m for m in ('torch', 'scipy', 'sklearn', 'sacrebleu', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
