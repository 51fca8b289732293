"""The statistics by hand: Holm's correction, the paired test, the front."""

import pytest
from scipy import stats

from softprompt.lab.verdict import correct, front, holm, paired_t


def test_holm_multiplies_the_smallest_by_all_and_never_turns_the_order() -> None:
    # 4 tests, sorted: 0.01*4 = 0.04; 0.02*3 = 0.06; 0.03*2 = 0.06; 0.5*1 = 0.5
    assert holm([0.02, 0.5, 0.01, 0.03]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert holm([0.4, 0.01, 0.3]) == pytest.approx([0.6, 0.03, 0.6])  # 0.4*1 is not below the 0.3*2 before it
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_paired_test_is_students_over_differences() -> None:
    first, second = [0.81, 0.84, 0.79, 0.88, 0.83], [0.78, 0.80, 0.80, 0.82, 0.79]
    right = stats.ttest_rel(first, second)
    low, high = right.confidence_interval(0.95)
    difference, error, p = paired_t([a - b for a, b in zip(first, second, strict=True)])
    assert difference == pytest.approx((low + high) / 2)
    assert error == pytest.approx((high - low) / 2)
    assert p == pytest.approx(right.pvalue)


def test_differences_without_a_spread_are_judged_by_their_signs() -> None:
    assert paired_t([0.0, 0.0, 0.0]) == (0.0, 0.0, 1.0)
    assert paired_t([0.05] * 5) == (pytest.approx(0.05), 0.0, 2 / 2**5)
    assert paired_t([0.1]) == (0.1, None, None)


def test_only_what_survives_the_correction_is_better() -> None:
    pairs = [
        {"first": "a", "second": "b", "difference": 0.2, "p": 0.01},
        {"first": "a", "second": "c", "difference": -0.2, "p": 0.02},
        {"first": "b", "second": "c", "difference": -0.4, "p": None},
    ]
    more = [{"first": "a", "second": "b", "difference": -0.1, "p": 0.03}]
    correct([{"higher_is_better": True, "pairs": pairs}, {"higher_is_better": False, "pairs": more}])
    assert [pair.get("p_holm") for pair in pairs + more] == pytest.approx([0.03, 0.04, None, 0.04])
    assert [pair["better"] for pair in pairs + more] == ["a", "c", None, "a"]  # the last: a smaller error


def test_the_front_holds_what_nothing_dominates() -> None:
    points = {"small": (0.7, 10), "large": (0.9, 1000), "worse": (0.8, 2000), "tied": (0.9, 1000), "mid": (0.7, 500)}
    assert front(points) == ["small", "large", "tied"]
