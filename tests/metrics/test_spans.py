"""Span F1 has the semantics of conlleval: checked against its state machine, written out independently."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.errors import SoftpromptError
from softprompt.metrics import METRICS, spans

span_f1, token_accuracy = METRICS["span_f1"], METRICS["token_accuracy"]
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
sentence = st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS)), min_size=1, max_size=12)
corpus = st.lists(sentence, min_size=1, max_size=6)


def sides(corpus: list) -> tuple[list[list[str]], list[list[str]]]:
    return [[a for a, _ in s] for s in corpus], [[b for _, b in s] for s in corpus]


def ends(before: str, tag: str) -> bool:
    """Whether a chunk ends between two tags."""
    if before == "O":
        return False
    return tag == "O" or tag[0] == "B" or before[2:] != tag[2:]


def starts(before: str, tag: str) -> bool:
    """Whether a chunk starts at `tag`."""
    if tag == "O":
        return False
    return tag[0] == "B" or before == "O" or before[2:] != tag[2:]


def conlleval_f1(said: list[list[str]], true: list[list[str]]) -> float:
    """One pass over both columns with O between sentences, counting chunks that are opened and closed together."""
    right = found = wanted = 0
    together = False
    one = other = "O"
    for p, r in [row for s, t in zip(said, true, strict=True) for row in [*zip(s, t, strict=True), ("O", "O")]]:
        if together and (ends(one, p) or ends(other, r)):
            right += ends(one, p) and ends(other, r)
            together = False
        found += starts(one, p)
        wanted += starts(other, r)
        if starts(one, p) and starts(other, r) and p[2:] == r[2:]:
            together = True
        one, other = p, r
    return 2 * right / (found + wanted) if found + wanted else 0.0


@settings(deadline=None, max_examples=300)
@given(corpus=corpus)
def test_span_f1_agrees_with_the_state_machine_of_conlleval(corpus: list) -> None:
    said, true = sides(corpus)
    assert span_f1(said, true, draws=2).value == pytest.approx(conlleval_f1(said, true), abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(corpus=corpus)
def test_exchanging_predictions_and_references_keeps_span_f1(corpus: list) -> None:
    said, true = sides(corpus)
    assert span_f1(said, true, draws=20) == span_f1(true, said, draws=20)


@settings(deadline=None, max_examples=50)
@given(corpus=corpus, rng=st.randoms())
def test_the_order_of_sentences_is_irrelevant(corpus: list, rng) -> None:
    shuffled = rng.sample(corpus, len(corpus))
    for metric in (span_f1, token_accuracy):
        assert metric(*sides(corpus), draws=20) == metric(*sides(shuffled), draws=20)


@settings(deadline=None, max_examples=50)
@given(corpus=corpus)
def test_perfect_tags_are_best(corpus: list) -> None:
    _, true = sides(corpus)
    assert token_accuracy(true, true, draws=2).value == 1.0
    assert span_f1(true, true, draws=2).value == float(any(tag != "O" for tags in true for tag in tags))


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O O", []),
        ("B-A I-A O", [("A", 0, 2)]),
        ("B-A B-A", [("A", 0, 1), ("A", 1, 2)]),
        ("O I-A I-A", [("A", 1, 3)]),
        ("I-A I-B", [("A", 0, 1), ("B", 1, 2)]),
        ("B-A I-B I-B", [("A", 0, 1), ("B", 1, 3)]),
        ("I-A B-A", [("A", 0, 1), ("A", 1, 2)]),
        ("B-A-x I-A-x", [("A-x", 0, 2)]),
        ("B I O I", [("_", 0, 2), ("_", 3, 4)]),
        ("", []),
    ],
)
def test_spans_open_and_close_where_conlleval_says(tags: str, expected: list) -> None:
    assert spans(tags.split()) == expected


def test_token_accuracy_counts_words_not_sentences() -> None:
    assert token_accuracy([["N"], ["N", "V", "N"]], [["V"], ["N", "V", "N"]]).value == 0.75


def test_a_sentence_with_a_missing_tag_is_named() -> None:
    with pytest.raises(SoftpromptError, match=r"SP-E602 sentence 1:"):
        span_f1([["O"], ["O"]], [["O"], ["O", "O"]])


def test_tags_without_spans_are_refused_and_token_accuracy_is_named() -> None:
    with pytest.raises(SoftpromptError, match=r"SP-E603.*'NOUN'.*token_accuracy"):
        span_f1([["NOUN"]], [["NOUN"]])


def test_tags_joined_to_one_text_are_refused() -> None:
    with pytest.raises(SoftpromptError, match="SP-E603 prediction 0: found text"):
        span_f1(["BIO"], [["B", "I", "O"]])


def test_a_tag_outside_the_labels_is_unknown() -> None:
    with pytest.raises(SoftpromptError, match=r"SP-E604 prediction 0, word 1:.*did you mean 'B-PER'"):
        span_f1([["O", "B-PERS"]], [["O", "B-PER"]], labels=TAGS)
