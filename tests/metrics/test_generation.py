"""Text metrics agree with sacrebleu; ROUGE-L agrees with its definition by dynamic programming."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF

from softprompt.errors import SoftpromptError
from softprompt.metrics import METRICS
from softprompt.metrics.generation import lcs_length

SACREBLEU = {"bleu": BLEU(force=True), "chrf": CHRF()}
NAMES = ["bleu", "chrf", "rouge_l", "exact_match"]
WORDS = ["the", "cat", "sat", "on", "mat", ",", "it's", "Éa", "3.5"]
text = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)
corpus = st.lists(st.tuples(text, st.tuples(text, text)), min_size=1, max_size=8)


def sides(corpus: list) -> tuple[list[str], list]:
    return [said for said, _ in corpus], [true for _, true in corpus]


@pytest.mark.parametrize("name", ["bleu", "chrf"])
@settings(deadline=None, max_examples=100)
@given(corpus=corpus)
def test_values_agree_with_sacrebleu_for_several_references(name: str, corpus: list) -> None:
    said, true = sides(corpus)
    expected = SACREBLEU[name].corpus_score(said, [list(column) for column in zip(*true, strict=True)]).score
    assert METRICS[name](said, true, draws=2).value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_the_bootstrap_agrees_with_resampled_sacrebleu(name: str) -> None:
    rng = np.random.default_rng(2)
    true = [" ".join(rng.choice(list("abcdefgh"), size=12)) for _ in range(60)]
    said = [t[: int(rng.integers(8, 23))] for t in true]
    draws = [rng.integers(60, size=60) for _ in range(200)]
    values = [SACREBLEU[name].corpus_score([said[i] for i in d], [[true[i] for i in d]]).score for d in draws]
    assert METRICS[name](said, true, draws=2000).error == pytest.approx(1.96 * np.std(values), rel=0.2)


@pytest.mark.parametrize("name", NAMES)
def test_references_may_differ_in_number(name: str) -> None:
    said = ["a b c d e", "f g h i j"]
    score = METRICS[name](said, ["a b c d e", ("x y z", "f g h i j", "q")])
    assert score.value == METRICS[name].best


@settings(deadline=None, max_examples=200)
@given(a=st.lists(st.sampled_from("abcd"), max_size=70), b=st.lists(st.sampled_from("abcd"), max_size=70))
def test_common_subsequences_have_the_length_that_dynamic_programming_finds(a: list[str], b: list[str]) -> None:
    row = [0] * (len(b) + 1)
    for x in a:
        before = row[:]
        for j, y in enumerate(b):
            row[j + 1] = before[j] + 1 if x == y else max(before[j + 1], row[j])
    assert lcs_length(a, b) == row[-1]


def test_rouge_l_of_the_example_of_its_paper() -> None:
    # Lin 2004, section 3.1: LCS of 3 and of 2 words out of 4.
    score = METRICS["rouge_l"](["Police kill the gunman", "the gunman kill police"], ["police killed the gunman"] * 2)
    assert score.value == pytest.approx((0.75 + 0.5) / 2)


@pytest.mark.parametrize("name", ["rouge_l", "exact_match"])
@settings(deadline=None, max_examples=50)
@given(texts=st.lists(st.text(max_size=20), min_size=1, max_size=8))
def test_any_text_equals_itself(name: str, texts: list[str]) -> None:
    assert METRICS[name](texts, texts, draws=2).value == 1.0


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=20)
@given(corpus=corpus, rng=st.randoms())
def test_the_order_of_examples_is_irrelevant(name: str, corpus: list, rng) -> None:
    shuffled = rng.sample(corpus, len(corpus))
    assert METRICS[name](*sides(corpus), draws=20) == METRICS[name](*sides(shuffled), draws=20)


def test_exact_match_ignores_white_space_but_not_case() -> None:
    score = METRICS["exact_match"]([" New  York\n", "new york"], ["New York", "New York"])
    assert score.value == 0.5


def test_an_example_without_any_reference_is_refused() -> None:
    with pytest.raises(SoftpromptError, match="SP-E603 reference 1:"):
        METRICS["bleu"](["a", "b"], [("a",), ()])


def test_a_prediction_that_is_no_text_is_refused() -> None:
    with pytest.raises(SoftpromptError, match="SP-E603 prediction 1: found None"):
        METRICS["rouge_l"](["a", None], ["a", "b"])
