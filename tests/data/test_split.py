"""Splits and samples: in proportion, repeatable, and duplicates on one side."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.core import Example
from softprompt.data import k_shot, leakage, split
from softprompt.errors import DataError


def examples(labels, texts=None):
    texts = texts or range(len(labels))
    rows = zip(texts, labels, strict=True)
    return [Example({"text": f"row {text}"}, label, where=f"f:{n}") for n, (text, label) in enumerate(rows)]


def test_each_class_is_shared_out_in_proportion():
    data = examples(["a"] * 700 + ["b"] * 200 + ["c"] * 100)
    train, dev, test = split(data, (0.8, 0.1, 0.1), seed=0)
    assert Counter(example.label for example in train) == {"a": 560, "b": 160, "c": 80}
    assert Counter(example.label for example in dev) == {"a": 70, "b": 20, "c": 10}
    assert Counter(example.label for example in test) == {"a": 70, "b": 20, "c": 10}


def test_the_seed_decides():
    data = examples(["a", "b"] * 50)
    assert split(data, (0.5, 0.5), 1) == split(data, (0.5, 0.5), 1)
    assert split(data, (0.5, 0.5), 1) != split(data, (0.5, 0.5), 2)
    assert k_shot(data, 3, 1) == k_shot(data, 3, 1)
    assert k_shot(data, 3, 1) != k_shot(data, 3, 2)


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 30)), min_size=60, max_size=200),
    seed=st.integers(0, 9),
)
def test_nothing_is_lost_and_equal_inputs_stay_together(rows, seed):
    data = examples([label for label, _ in rows], [text for _, text in rows])
    try:
        parts = split(data, (0.6, 0.2, 0.2), seed)
    except DataError:
        assert len({text for _, text in rows}) < 15
        return
    assert sorted(example.where for part in parts for example in part) == sorted(example.where for example in data)
    assert not leakage(parts[0], parts[1])
    assert not leakage(parts[1], parts[2])


def test_small_classes_still_fill_the_small_parts_and_single_rows_train():
    data = examples([f"class {n // 3}" for n in range(300)] + [f"lonely {n}" for n in range(5)])
    for seed in range(10):
        train, dev = split(data, (0.8, 0.2), seed)
        assert len(dev) in (59, 60, 61)
        assert len({example.label for example in train}) == 105


def test_numbers_and_free_text_are_split_too():
    train, dev = split(examples([n / 3 for n in range(10)]), (0.8, 0.2), seed=0)
    assert (len(train), len(dev)) == (8, 2)


@pytest.mark.parametrize("fractions", [(), (0.5, 0.4), (1.5, -0.5), (float("nan"), 1.0)])
def test_fractions_that_make_no_sense_are_refused(fractions):
    with pytest.raises(DataError, match="SP-E133"):
        split(examples(["a", "b"] * 5), fractions, 0)


def test_a_part_that_would_be_empty_is_refused():
    with pytest.raises(DataError, match="SP-E132"):
        split(examples(["a", "b"]), (0.8, 0.1, 0.1), 0)


def test_k_shot_takes_k_different_inputs_of_each_class():
    data = examples(["a"] * 6 + ["b"] * 4, [0, 0, 0, 1, 2, 3, 4, 5, 6, 7])
    chosen = k_shot(data, 4, seed=0)
    assert Counter(example.label for example in chosen) == {"a": 4, "b": 4}
    assert len({example.fields["text"] for example in chosen}) == 8
    with pytest.raises(DataError, match=r"SP-E132 found 4 different examples of class 'a'"):
        k_shot(data, 5, seed=0)
    with pytest.raises(DataError, match="SP-E133"):
        k_shot(data, 0, seed=0)
    with pytest.raises(DataError, match="SP-E133"):
        k_shot(examples([0.5, 1.5]), 1, seed=0)


def test_leakage_sees_through_case_and_space():
    train = [Example({"text": "A fine film"}, "good", where="train:1")]
    (problem,) = leakage(train, [Example({"text": "a  fine FILM"}, "bad", where="test:4")])
    assert (problem.code, problem.where, problem.severity) == ("SP-E131", "test:4", "error")
    assert "train:1" in problem.found
    assert leakage(train, [Example({"text": "a fine"}, "good")]) == []
