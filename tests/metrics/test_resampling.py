"""The bootstrap has the width that theory gives, is reproducible, and is fast."""

import numpy as np
import pytest
from scipy.stats import binomtest

from softprompt.errors import SoftpromptError
from softprompt.metrics import METRICS, Tally, bootstrap, mean_tally


@pytest.mark.parametrize(("n", "share"), [(200, 0.5), (1000, 0.9), (5000, 0.75)])
def test_the_half_width_of_accuracy_is_that_of_the_binomial(n: int, share: float) -> None:
    right = round(n * share)
    score = METRICS["accuracy"](["a"] * right + ["b"] * (n - right), ["a"] * n, draws=4000)
    assert score.error == pytest.approx(1.96 * np.sqrt(share * (1 - share) / n), rel=0.1)


@pytest.mark.parametrize("n", [30, 400])
def test_the_half_width_of_a_mean_of_distinct_numbers_is_that_of_the_normal(n: int) -> None:
    values = np.random.default_rng(3).normal(size=n)
    assert bootstrap(mean_tally(values), draws=4000) == pytest.approx(1.96 * values.std() / np.sqrt(n), rel=0.1)


def test_both_ways_of_drawing_weights_have_the_same_distribution() -> None:
    values = np.repeat([0.0, 1.0, 5.0], 40)
    grouped = mean_tally(values)  # 3 distinct of 120: multinomial
    single = Tally(np.ones(120, dtype=np.int64), lambda weights: weights @ values / 120)  # indices
    assert bootstrap(grouped, 20_000) == pytest.approx(bootstrap(single, 20_000), rel=0.03)


def test_every_resample_has_as_many_examples_as_the_data() -> None:
    for counts in ([3, 5], [1] * 50, [2] * 50, [400, 1, 1]):
        totals = []
        tally = Tally(np.array(counts), lambda w, totals=totals: totals.extend(w.sum(axis=1)) or w[:, 0])
        bootstrap(tally, 100)
        assert set(totals) == {sum(counts)}
        assert len(totals) == 100


def test_the_seed_decides() -> None:
    tally = mean_tally(np.random.default_rng(0).normal(size=50))
    assert bootstrap(tally, seed=1) == bootstrap(tally, seed=1)
    assert bootstrap(tally, seed=1) != bootstrap(tally, seed=2)


def test_pieces_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    tallies = [mean_tally(np.arange(50.0)), mean_tally(np.repeat([0.0, 1.0], 50))]
    whole = [bootstrap(tally, 100) for tally in tallies]
    monkeypatch.setattr("softprompt.metrics.resampling.CHUNK", 150)
    assert [bootstrap(tally, 100) for tally in tallies] == whole


def test_draws_in_which_the_metric_is_undefined_are_left_out() -> None:
    undefined = Tally(np.array([1, 1]), lambda weights: np.where(weights[:, 0] == 1, np.nan, weights[:, 0] + 5))
    assert bootstrap(undefined) == 1.0  # 5 and 7 remain
    assert bootstrap(Tally(np.array([2]), lambda weights: np.full(len(weights), np.nan))) == 0.0


@pytest.mark.parametrize("n", [1, 20, 500])
def test_all_right_still_has_an_error_as_wilson_gives_it(n: int) -> None:
    interval = binomtest(n, n).proportion_ci(method="wilson")
    for said in ("a", "b"):
        score = METRICS["accuracy"]([said] * n, ["a"] * n)
        assert score.error == pytest.approx((interval.high - interval.low) / 2, rel=1e-4)


def test_a_single_draw_is_refused() -> None:
    with pytest.raises(SoftpromptError, match="SP-E603"):
        bootstrap(mean_tally([0.0, 1.0]), draws=1)
