"""A prompt in use: answers in the order of the questions, labels that are checked, and a backbone left as it was."""

from typing import Any

import pytest
import speakers
import torch
from speakers import TEXTS, speaker

from softprompt.core import IGNORE, TEXT, Example
from softprompt.errors import DataError
from softprompt.prompt import Bare, Prompt, by_length, without_prompt

CASES = [(family, head) for family in TEXTS for head in speakers.KINDS if not (family == "bert" and head == "lm")]
every_case = pytest.mark.parametrize(("family", "head"), CASES)


@every_case
def test_answers_come_in_the_order_of_the_questions_whatever_the_batch(family: str, head: str) -> None:
    prompt = speakers.prompt(family, head=head)
    examples = speakers.examples(head)
    alone = [prompt.predict([example])[0] for example in examples]
    for size in (1, 2, 32):
        for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
            together = prompt.predict([examples[i] for i in order], batch_size=size)
            assert [p.answer for p in together] == [
                pytest.approx(alone[i].answer, rel=1e-4) if head == "regressor" else alone[i].answer for i in order
            ]
            for made, i in zip(together, order, strict=True):
                assert made.scores == pytest.approx(alone[i].scores, abs=1e-5)
    assert prompt.predict([]) == []


@every_case
def test_labels_are_not_looked_at_when_answering(family: str, head: str) -> None:
    prompt = speakers.prompt(family, head=head)
    for example in speakers.examples(head):
        stranger = Example(example.fields, label="no such class")
        assert prompt.predict([stranger]) == prompt.predict([example])
        assert prompt.row(stranger, labelled=False).target is None


@pytest.mark.parametrize("head", ["verbalizer", "classifier"])
def test_chances_sum_to_one_and_the_answer_is_the_likeliest(head: str) -> None:
    for answer in speakers.prompt("gpt2", head=head).predict(speakers.examples(head)):
        assert sum(answer.scores.values()) == pytest.approx(1)
        assert answer.scores[str(answer.answer)] == max(answer.scores.values())
        assert list(answer.scores) == ["bad", "good"]


def test_predicting_leaves_training_mode_and_dropout_alone() -> None:
    prompt = speakers.prompt("bert", "prefix", "classifier", options={"dropout": 0.5})
    examples = speakers.examples("classifier")
    expected = prompt.predict(examples)
    prompt.train()
    assert prompt.predict(examples) == expected
    assert prompt.training
    assert not prompt.backbone.model.training
    with pytest.raises(DataError):
        prompt.predict([Example({})])
    assert prompt.training


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning", "prefix"])
@pytest.mark.parametrize("family", [*TEXTS, "vit"])
def test_only_method_and_head_have_gradients_and_state(family: str, method: str) -> None:
    prompt = speakers.prompt(family, method, "classifier")
    rows = [prompt.row(example) for example in speakers.examples("classifier", family)]
    prompt.loss(prompt.batch(rows)).backward()
    assert all(weight.grad is not None for weight in prompt.parameters())
    assert all(weight.grad is None for weight in prompt.backbone.parameters())
    assert all(name.startswith(("method.", "head.")) for name in prompt.state_dict())


def test_an_unknown_class_is_refused_with_the_nearest() -> None:
    with pytest.raises(DataError, match=r"SP-E124 here:3.*'goood' \(did you mean 'good'\?\)"):
        speakers.prompt("llama").row(Example({"text": "a joy"}, "goood", where="here:3"))


@pytest.mark.parametrize("label", [None, "many", float("nan"), float("inf"), "nan", ("a",)])
def test_a_target_that_is_no_finite_number_is_refused(label: Any) -> None:
    with pytest.raises(DataError, match="SP-E128"):
        speakers.prompt("llama", head="regressor").row(Example({"text": "a joy"}, label))


@pytest.mark.parametrize("label", [None, "", 3.0, ("a", "b")])
def test_an_answer_that_is_no_text_is_refused_and_not_written_out_as_one(label: Any) -> None:
    with pytest.raises(DataError, match="SP-E120"):
        speakers.prompt("bart", head="lm").row(Example({"text": "a joy"}, label))


def test_tags_and_words_must_be_as_many() -> None:
    prompt = speakers.prompt("bert", head="tagger")
    with pytest.raises(DataError, match=r"SP-E127.*1 tags for 2 words"):
        prompt.row(Example({"text": ("a", "joy")}, ("B",)))
    with pytest.raises(DataError, match="SP-E124"):
        prompt.row(Example({"text": ("a", "joy")}, ("B", "X")))


@pytest.mark.parametrize("labelled", [True, False])
def test_a_text_to_tag_that_is_not_split_is_refused_and_not_answered_with_nothing(labelled: bool) -> None:
    with pytest.raises(DataError, match="SP-E122"):
        speakers.prompt("bert", head="tagger").row(Example({"text": "a joy"}, ("B", "O")), labelled=labelled)


@pytest.mark.parametrize("side", ["tail", "head"])
def test_every_word_gets_a_tag_also_those_that_were_cut_off(side: str) -> None:
    prompt = speakers.prompt("bert", head="tagger", task={"max_tokens": 30, "truncate": side})
    words = ("film", "joy") * 50
    row = prompt.row(Example({"text": words}, ("B", "O") * 50))
    kept = [i for i, place in enumerate(row.words) if place >= 0]
    assert 15 < len(kept) < 30
    assert kept == (list(range(len(kept))) if side == "tail" else list(range(100 - len(kept), 100)))
    assert sum(label != IGNORE for label in row.labels) == len(kept)
    assert all(row.labels[row.words[i]] == i % 2 for i in kept)  # tags are ("B", "O")
    answer = prompt.predict([Example({"text": words})])[0].answer
    assert isinstance(answer, tuple)
    assert len(answer) == 100
    assert all(answer[i] == "O" for i in range(100) if i not in kept)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_long_text_leaves_room_for_the_answer_to_be_written(family: str) -> None:
    prompt = speakers.prompt(family, head="lm")
    long = Example({"text": "joy " * 200}, "a good film")
    assert len(prompt.row(long, labelled=False).ids) <= prompt.template.limit - prompt.task.new_tokens + 1
    assert len(prompt.row(long).ids) == pytest.approx(prompt.template.limit, abs=2)


def test_classes_are_compared_over_the_same_text() -> None:
    """A text that is cut further for a long class word than for a short one would not be the same question."""
    words = {"good": "warm and funny and very well played", "bad": "dull"}
    prompt = speakers.prompt("gpt2", task={"words": words, "max_tokens": 30})
    long = Example({"text": "joy " * 200}, "good")
    texts = []
    for word in prompt.head.words:  # type: ignore[union-attr]
        row = prompt.asked(long, word)
        texts.append(row.ids[: len(row.ids) - len(word) + 1])
        assert len(row.ids) <= 30
    assert texts[0] == texts[1]


def test_a_verbalizer_row_has_the_class_and_its_word() -> None:
    prompt = speakers.prompt("llama")
    row = prompt.row(Example({"text": "a joy"}, "good"))
    assert row.target == 1
    assert [label for label in row.labels if label != IGNORE] == prompt.head.words[1]  # type: ignore[union-attr]


@pytest.mark.parametrize("family", [*TEXTS, "vit"])
@pytest.mark.parametrize("method", ["prompt_tuning", "prefix"])
@torch.no_grad()
def test_without_its_prompt_the_backbone_is_bare(family: str, method: str) -> None:
    prompt = speakers.prompt(family, method, "classifier")
    bare = without_prompt(prompt)
    assert isinstance(bare.method, Bare)
    assert bare.head is prompt.head
    rows = [bare.row(example) for example in speakers.examples("classifier", family)]
    assert all(slot == TEXT for row in rows for slot in row.slots)
    batch = bare.batch(rows[:1])
    model = speaker(family).model
    if family == "vit":
        states = model(pixel_values=batch.pixels).last_hidden_state
    elif family == "t5":
        states = model.get_encoder()(batch.input_ids).last_hidden_state
    else:
        states = model.base_model(batch.input_ids).last_hidden_state
    torch.testing.assert_close(bare(batch).hidden, states, atol=1e-5, rtol=1e-4)


def test_rows_are_batched_by_length_longest_first() -> None:
    prompt = speakers.prompt("llama")
    rows = [prompt.row(example) for example in speakers.examples("verbalizer")]
    batches = list(by_length(rows, 3))
    lengths = [len(rows[i].ids) for batch in batches for i in batch]
    assert lengths == sorted(lengths, reverse=True)
    assert sorted(i for batch in batches for i in batch) == [0, 1, 2, 3]
    assert [len(batch) for batch in batches] == [3, 1]


def test_a_penalty_counts_once_a_label() -> None:
    prompt: Prompt = speakers.prompt("llama")
    rows = [prompt.row(example) for example in speakers.examples("verbalizer")]
    plain = prompt.loss(prompt.batch(rows))

    class Fined(type(prompt.method)):  # type: ignore[misc]
        def forward(self, batch: Any, text: Any) -> Any:
            from dataclasses import replace

            return replace(super().forward(batch, text), penalty=torch.tensor(2.0))

    prompt.method.__class__ = Fined
    assert prompt.loss(prompt.batch(rows)).item() == pytest.approx(plain.item() + 2.0 * 4)
