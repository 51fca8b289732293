"""Paired tests and averages over seeds agree with scipy and with hand calculation."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from softprompt.errors import SoftpromptError
from softprompt.metrics import Score, over_seeds, paired

numbers = st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=20)


def test_right_or_wrong_is_tested_with_the_exact_binomial() -> None:
    first = [1] * 60 + [1] * 12 + [0] * 4 + [0] * 24
    second = [1] * 60 + [0] * 12 + [1] * 4 + [0] * 24
    result = paired(first, second)
    assert result.difference == pytest.approx(0.08)
    assert result.p == pytest.approx(2 * stats.binom.cdf(4, 16, 0.5))
    assert result.error == pytest.approx(1.96 * np.sqrt((16 / 100 - 0.08**2) / 100), rel=0.1)


def test_scores_are_tested_with_sign_flips() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.6, 1, size=10), rng.normal(size=10)
    gaps = first - second
    sums = [abs(np.dot(signs, gaps)) for signs in itertools.product((-1, 1), repeat=10)]
    exact = np.mean(np.array(sums) >= abs(gaps.sum()) - 1e-9)
    assert paired(first, second, draws=20_000).p == pytest.approx(exact, abs=0.015)


def test_no_permutation_test_is_surer_than_its_draws() -> None:
    assert paired(np.linspace(5, 6, 60), np.zeros(60), draws=99).p == 0.01


@settings(deadline=None, max_examples=40)
@given(pairs=numbers)
def test_exchanging_the_systems_changes_the_sign_only(pairs: list) -> None:
    a, b = (list(side) for side in zip(*pairs, strict=True))
    one, other = paired(a, b, draws=50), paired(b, a, draws=50)
    assert one.difference == pytest.approx(-other.difference, abs=1e-12)
    assert one.p == other.p


@settings(deadline=None, max_examples=40)
@given(pairs=numbers, rng=st.randoms())
def test_the_order_of_examples_is_irrelevant(pairs: list, rng) -> None:
    shuffled = rng.sample(pairs, len(pairs))
    one, other = (paired(*zip(*p, strict=True), draws=50) for p in (pairs, shuffled))
    assert one == other


@pytest.mark.parametrize("values", [[0, 1, 1], [0.25, 0.5, 0.75]])
def test_equal_systems_differ_by_nothing(values: list) -> None:
    assert paired(values, values) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize("binary", [True, False])
def test_false_alarms_are_as_rare_as_promised(binary: bool) -> None:
    rng = np.random.default_rng(7)
    draw = (lambda: rng.integers(2, size=40)) if binary else (lambda: rng.normal(size=40))
    alarms = sum(paired(draw(), draw(), draws=200).p <= 0.05 for _ in range(300))
    assert alarms <= 300 * 0.05 + 3 * np.sqrt(300 * 0.05 * 0.95)


@pytest.mark.parametrize(
    ("first", "second", "code"), [([], [], "E601"), ([1], [1, 0], "E602"), ([1.0], [float("nan")], "E603")]
)
def test_bad_input_of_a_comparison_is_refused(first: list, second: list, code: str) -> None:
    with pytest.raises(SoftpromptError, match=code):
        paired(first, second)


def test_an_average_over_seeds_has_the_interval_of_student() -> None:
    values = [0.8, 0.9, 0.85, 0.95]
    mean = over_seeds([Score("accuracy", value, 0.01, 100) for value in values])
    interval = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert mean.value == pytest.approx(np.mean(values))
    assert mean.error == pytest.approx((interval[1] - interval[0]) / 2)
    assert (mean.name, mean.n, mean.seeds) == ("accuracy", 100, 4)


def test_one_seed_keeps_its_interval_over_examples() -> None:
    score = Score("accuracy", 0.8, 0.01, 100)
    assert over_seeds([score]) == score


@pytest.mark.parametrize(
    ("other", "code"),
    [
        (Score("mcc", 0.8, 0.01, 100), "E603"),
        (Score("accuracy", 0.8, 0.01, 100, 3), "E603"),
        (Score("accuracy", 0.8, 0.01, 99), "E602"),
    ],
)
def test_scores_that_do_not_belong_together_are_not_averaged(other: Score, code: str) -> None:
    with pytest.raises(SoftpromptError, match=f"{code} score 1"):
        over_seeds([Score("accuracy", 0.8, 0.01, 100), other])
    with pytest.raises(SoftpromptError, match="SP-E601"):
        over_seeds([])
