"""Classification metrics agree with scikit-learn, on whole data sets and under permutation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from softprompt.errors import SoftpromptError
from softprompt.metrics import METRICS, find_metric
from softprompt.metrics.classes import macro_f1

NAMES = ["accuracy", "macro_f1", "mcc"]
SKLEARN = {
    "accuracy": sk.accuracy_score,
    "macro_f1": lambda true, said: sk.f1_score(true, said, average="macro"),
    "mcc": sk.matthews_corrcoef,
}
pairs = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), min_size=1, max_size=40)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=60)
@given(pairs=pairs)
def test_values_agree_with_scikit_learn(name: str, pairs: list[tuple[str, str]]) -> None:
    said, true = (list(side) for side in zip(*pairs, strict=True))
    assert METRICS[name](said, true, draws=2).value == pytest.approx(SKLEARN[name](true, said), abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(pairs=pairs, positive=st.sampled_from("abcd"))
def test_f1_of_a_named_class_agrees_with_scikit_learn(pairs: list[tuple[str, str]], positive: str) -> None:
    said, true = (list(side) for side in zip(*pairs, strict=True))
    score = find_metric(f"f1:{positive}")(said, true, labels=list("abcd"), draws=2)
    expected = sk.f1_score(true, said, labels=[positive], average="macro", zero_division=0)
    assert score.value == pytest.approx(expected, abs=1e-12)
    assert score.name == f"f1:{positive}"


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=30)
@given(pairs=pairs, rng=st.randoms())
def test_the_order_of_examples_changes_neither_value_nor_error(name: str, pairs: list, rng) -> None:
    shuffled = rng.sample(pairs, len(pairs))
    one, other = (METRICS[name](*map(list, zip(*p, strict=True)), draws=50) for p in (pairs, shuffled))
    assert one == other


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=30)
@given(true=st.lists(st.sampled_from("abcd"), min_size=2, max_size=40).filter(lambda x: len(set(x)) > 1))
def test_perfect_predictions_are_best_and_any_mistake_is_worse(name: str, true: list[str]) -> None:
    metric = METRICS[name]
    wrong = ["a" if true[0] != "a" else "b", *true[1:]]
    assert metric(true, true, draws=2).value == metric.best
    assert metric(wrong, true, draws=2).value < metric.best


def test_f1_is_of_the_rarer_class_of_the_references() -> None:
    true = ["spam"] * 3 + ["ham"] * 7
    score = METRICS["f1"](["spam"] * 5 + ["ham"] * 5, true)
    assert score.name == "f1:spam"
    assert score.value == pytest.approx(2 * 3 / (5 + 3))


def test_f1_of_two_equally_frequent_classes_is_of_the_later_in_sorted_order() -> None:
    assert METRICS["f1"](["no", "yes"], ["yes", "no"]).name == "f1:yes"


def test_f1_without_a_named_class_refuses_three_classes() -> None:
    with pytest.raises(SoftpromptError, match=r"SP-E603.*macro_f1"):
        METRICS["f1"](["a", "b"], ["a", "c"])


def test_a_class_that_a_resample_lacks_does_not_count_in_its_macro_f1() -> None:
    tally = macro_f1(["a", "b", "c"], ["a", "b", "c"])
    assert tally.statistic(np.array([[2.0, 1.0, 0.0]])).tolist() == [1.0]


def test_a_constant_answer_has_no_correlation_and_is_still_a_number() -> None:
    score = METRICS["mcc"](["a"] * 10, ["a"] * 5 + ["b"] * 5)
    assert (score.value, score.error) == (0.0, 0.0)


def test_bootstrap_of_macro_f1_agrees_with_resampling_and_scikit_learn() -> None:
    rng = np.random.default_rng(5)
    true = rng.choice(list("abc"), size=200, p=[0.7, 0.2, 0.1])
    said = np.where(rng.random(200) < 0.8, true, rng.choice(list("abc"), size=200))
    draws = [rng.integers(200, size=200) for _ in range(1000)]
    values = [sk.f1_score(true[i], said[i], average="macro") for i in draws]
    low, high = np.quantile(values, [0.025, 0.975])
    ours = METRICS["macro_f1"](said.tolist(), true.tolist(), draws=4000).error
    assert ours == pytest.approx((high - low) / 2, rel=0.12)
