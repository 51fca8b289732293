"""Correlations and errors agree with scipy, ties, constant sides and large numbers included."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from softprompt.errors import SoftpromptError
from softprompt.metrics import METRICS
from softprompt.metrics.regression import pearson

pairs = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=30)
SCIPY = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}


@pytest.mark.parametrize("name", ["pearson", "spearman"])
@settings(deadline=None, max_examples=100)
@given(pairs=pairs, scale=st.sampled_from([1e-200, 0.1, 1.0, 1e200]))
def test_correlations_agree_with_scipy_at_any_scale(name: str, pairs: list, scale: float) -> None:
    x, y = np.array(pairs, dtype=float).T
    assume(np.ptp(x) > 0 and np.ptp(y) > 0)
    ours = METRICS[name](x * scale, y, draws=2).value
    assert ours == pytest.approx(SCIPY[name](x, y).statistic, abs=1e-9)


@pytest.mark.parametrize("name", ["pearson", "spearman", "rmse"])
def test_the_bootstrap_agrees_with_resampling_the_examples(name: str) -> None:
    rng = np.random.default_rng(1)
    y = np.round(rng.normal(size=120), 1)  # rounded: resamples must rank ties
    x = np.round(y + rng.normal(size=120), 1)
    plain = {**SCIPY, "rmse": lambda a, b: np.sqrt(np.mean((a - b) ** 2))}[name]
    values = []
    for _ in range(1500):
        i = rng.integers(120, size=120)
        result = plain(x[i], y[i])
        values.append(getattr(result, "statistic", result))
    low, high = np.quantile(values, [0.025, 0.975])
    assert METRICS[name](x, y, draws=4000).error == pytest.approx((high - low) / 2, rel=0.12)


@settings(deadline=None, max_examples=50)
@given(pairs=pairs)
def test_rmse_agrees_with_its_definition(pairs: list) -> None:
    x, y = np.array(pairs, dtype=float).T
    assert METRICS["rmse"](x, y, draws=2).value == pytest.approx(np.sqrt(np.mean((x - y) ** 2)), abs=1e-12)


@pytest.mark.parametrize("name", ["pearson", "spearman", "rmse"])
@settings(deadline=None, max_examples=30)
@given(pairs=pairs, rng=st.randoms())
def test_the_order_of_examples_is_irrelevant(name: str, pairs: list, rng) -> None:
    shuffled = rng.sample(pairs, len(pairs))
    one, other = (METRICS[name](*zip(*p, strict=True), draws=30) for p in (pairs, shuffled))
    assert one == other


@pytest.mark.parametrize("name", ["pearson", "spearman", "rmse"])
@settings(deadline=None, max_examples=30)
@given(y=st.lists(st.integers(-50, 50), min_size=2, max_size=30).filter(lambda v: len(set(v)) > 1))
def test_perfect_predictions_are_best(name: str, y: list[int]) -> None:
    assert METRICS[name](y, y, draws=2).value == pytest.approx(METRICS[name].best, abs=1e-12)


@pytest.mark.parametrize("name", ["pearson", "spearman"])
@pytest.mark.parametrize("constant", [0.0, 0.1, 1e9 + 0.1])
def test_a_constant_side_has_correlation_zero(name: str, constant: float) -> None:
    score = METRICS[name]([constant] * 7, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    assert (score.value, score.error) == (0.0, 0.0)


def test_a_resample_of_equal_values_has_no_correlation_whatever_the_rounding() -> None:
    for value in np.arange(1, 60) / 7:
        tally = pearson([value] * 6 + [99.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
        weights = np.array([[1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 0.0]])  # the one that differs is not drawn
        assert np.isnan(tally.statistic(weights)).all()


def test_large_errors_do_not_overflow() -> None:
    assert METRICS["rmse"]([1e200, -1e200], [0.0, 0.0]).value == pytest.approx(1e200)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "many", None])
def test_a_value_that_is_no_finite_number_is_named(bad: object) -> None:
    with pytest.raises(SoftpromptError, match="SP-E603 prediction 1:"):
        METRICS["rmse"]([1.0, bad], [1.0, 2.0])
