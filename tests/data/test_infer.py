"""Columns and kind of task are inferred, said, and refused where they cannot be told."""

import json

import pytest

from softprompt.data import Columns, read
from softprompt.errors import DataError


@pytest.fixture
def rows(tmp_path):
    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def several(labels, name="label"):
    return [{"text": f"this is row number {n}", name: label} for n, label in enumerate(labels)]


@pytest.mark.parametrize(
    "labels, name, kind",
    [
        (["a", "b"] * 5, "label", "classification"),
        ([0, 1] * 5, "label", "classification"),
        ([True, False] * 5, "label", "classification"),
        (list(range(50)) * 5, "label", "classification"),
        ([1, 2, 3, 4, 5] * 3, "stars", "classification"),
        ([n / 7 for n in range(40)], "score", "regression"),
        ([n * 3 for n in range(40)], "score", "regression"),
        ([0.1, 0.5, 0.9], "score", "regression"),
        ([f"the long answer number {n}" for n in range(20)], "answer", "generation"),
        ([f"word{n}" for n in range(20)], "answer", "generation"),
        (["yes", "no"] * 5, "answer", "classification"),
        ([f"intent{n}" for n in range(5)], "intent", "classification"),
    ],
)
def test_the_kind_of_task_follows_from_the_labels(rows, labels, name, kind):
    data = read(rows(*several(labels, name)), on_bad_row="report")
    assert data.kind == kind
    assert any(f"task: {kind}" in note for note in data.notes)


def test_numbers_stay_numbers_in_regression_and_become_names_in_classification(rows):
    assert read(rows(*several([0.5, 1, 2.25, 3, 4, 5.5]))).examples[1].label == 1.0
    assert read(rows(*several([0, 1, 0, 1]))).labels == ("0", "1")
    assert read(rows(*several([True, False] * 2))).labels == ("false", "true")


def test_given_labels_mean_classification(rows):
    data = read(
        rows(*several([f"answer {n} in words" for n in range(3)])), labels=[f"answer {n} in words" for n in range(3)]
    )
    assert data.kind == "classification"
    assert data.labels[0] == "answer 0 in words"


def test_pairs_of_sentences_are_read_in_order(rows):
    made = [{"pair_ID": n, "premise": f"p {n}", "hypothesis": f"h {n}", "gold_label": "ab"[n % 2]} for n in range(4)]
    assert read(rows(*made)).columns == Columns(("premise", "hypothesis"), "gold_label")


def test_columns_with_unknown_names_are_told_by_their_values(rows):
    made = [{"klass": "ab"[n % 2], "wording": f"these are some words {n}", "n": n * 2} for n in range(8)]
    data = read(rows(*made))
    assert data.columns == Columns(("wording",), "klass")
    assert any("its values recur" in note for note in data.notes)


def test_two_plausible_labels_are_an_error_that_names_both(rows):
    made = [{"text": f"row {n}", "label": "ab"[n % 2], "sentiment": "xy"[n % 2]} for n in range(8)]
    with pytest.raises(DataError, match=r"SP-E113 .*label, sentiment.*--set data.label=label"):
        read(rows(*made))
    assert read(rows(*made), columns=Columns(label="sentiment")).labels == ("x", "y")


def test_no_plausible_column_is_an_error(rows):
    with pytest.raises(DataError, match="SP-E113"):
        read(rows(*[{"id": n, "label": "ab"[n % 2]} for n in range(4)]))
    with pytest.raises(DataError, match="SP-E113"):
        read(rows(*[{"id": n, "text": f"row {n}"} for n in range(4)]))


@pytest.mark.parametrize(
    "body, size",
    [
        ("text,label\na b c,x\nd e f,y\n", 2),
        ("What now?,question\nGo away!,order\nWho is it?,question\nStop it!,order\n", 4),
        ("mr,klass\na long enough text,x\nanother long text,y\nthe third long text,x\na fourth long text,y\n", 4),
        ("a long enough text,0.5\nanother long text,0.25\n", 2),
        ("a nice title,0.57\nthe second text,0.25\nthe third one,0.7\n", 3),
        (",text,label\n0,this is it,x\n1,that was it,y\n", 2),
        ("Review Text,Star Rating\nI would not see it a second time,5\nthe best there is this year,4\n", 2),
    ],
)
def test_a_header_is_told_from_a_row(tmp_path, body, size):
    path = tmp_path / "rows.csv"
    path.write_text(body)
    assert len(read(path, on_bad_row="report")) == size
