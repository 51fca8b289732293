"""Heads: losses and scores against the same computed another way from the model itself."""

import math
from dataclasses import replace
from typing import Any

import pytest
import speakers
import torch
from speakers import TEXTS
from torch import Tensor

from softprompt.core import IGNORE, TEXT, Batch, Example, Output
from softprompt.heads import Classifier, Head, Regressor, Tagger, Verbalizer, columns, pooled
from softprompt.prompt import Prompt

LONG = {"good": "very warm and good", "bad": "dull"}  # words of several tokens, of different length


def full_logits(prompt: Prompt, text: str, answer: list[int]) -> Tensor:
    """Logits [T, V] over the whole vocabulary at every place that reads text, prompt and answer."""
    template, backbone = prompt.template, prompt.backbone
    row = template.encode(Example({"text": text}), answer or None, close=False)
    batch = prompt.batch([row])
    side = batch if batch.decoder is None else batch.decoder
    every = torch.arange(side.input_ids.shape[1])
    logits: Tensor = backbone(batch, prompt.inject(batch), columns=every).logits[0]
    return logits


def brute_force(prompt: Prompt, text: str, answer: list[int]) -> float:
    """log p(answer | text), token by token: each from a forward of its own over what came before."""
    total = 0.0
    for i, token in enumerate(answer):
        logits = full_logits(prompt, text, [*answer[:i], token])
        total += logits[-1].log_softmax(-1)[token].item()
    return total


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
@torch.no_grad()
def test_probabilities_of_one_word_classes_are_those_of_the_model_renormalised(family: str, method: str) -> None:
    prompt = speakers.prompt(family, method)
    assert isinstance(prompt.head, Verbalizer)
    assert prompt.head.one_pass
    for example, answer in zip(
        speakers.examples("verbalizer"), prompt.predict(speakers.examples("verbalizer")), strict=True
    ):
        chances = full_logits(prompt, str(example.fields["text"]), [])[-1].softmax(-1)
        chosen = torch.stack([chances[word[0]] for word in prompt.head.words])
        expected = dict(zip(prompt.task.labels, (chosen / chosen.sum()).tolist(), strict=True))
        assert answer.scores == pytest.approx(expected, abs=1e-5)
        assert answer.answer == max(expected, key=lambda label: expected[label])


@torch.no_grad()
def test_an_encoder_scores_a_class_by_the_mean_logit_of_its_tokens_at_the_mask() -> None:
    prompt = speakers.prompt("bert", task={"words": LONG})
    assert isinstance(prompt.head, Verbalizer)
    assert [len(word) for word in prompt.head.words] == [1, 4]
    assert prompt.head.one_pass
    for example in speakers.examples("verbalizer"):
        row = prompt.row(example)
        place = row.ids.index(speakers.wordpiece().mask_token_id)
        logits = full_logits(prompt, str(example.fields["text"]), [])[place]
        means = torch.tensor([sum(logits[i].item() for i in word) / len(word) for word in prompt.head.words])
        (answer,) = prompt.predict([example])
        assert list(answer.scores.values()) == pytest.approx(means.softmax(-1).tolist(), abs=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
@torch.no_grad()
def test_classes_of_several_tokens_are_ranked_by_the_probability_of_the_whole_answer(family: str) -> None:
    prompt = speakers.prompt(family, task={"words": LONG})
    assert isinstance(prompt.head, Verbalizer)
    assert not prompt.head.one_pass
    assert len({len(word) for word in prompt.head.words}) == 2
    for example in speakers.examples("verbalizer"):
        logs = torch.tensor([brute_force(prompt, str(example.fields["text"]), word) for word in prompt.head.words])
        (answer,) = prompt.predict([example])
        assert list(answer.scores.values()) == pytest.approx(logs.softmax(-1).tolist(), abs=1e-4)


def test_answers_end_in_eos_where_one_class_begins_with_another() -> None:
    """Otherwise the shorter would always be the likelier one."""
    prompt = speakers.prompt("gpt2", task={"words": {"good": "good evening", "bad": "good"}})
    assert isinstance(prompt.head, Verbalizer)
    end = speakers.bytelevel().eos_token_id
    assert all(word[-1] == end for word in prompt.head.words)


def test_a_class_without_tokens_is_refused() -> None:
    for words in ([], [[1], []]):
        with pytest.raises(ValueError, match="every class needs a word"):
            Verbalizer(words)


def test_a_pooling_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="pool 'max'"):
        Classifier(8, 2, pool="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pool 'max'"):
        Regressor(8, pool="max")  # type: ignore[arg-type]


CASES = [
    (family, head)
    for family in [*TEXTS, "vit"]
    for head in speakers.KINDS
    if not (family == "bert" and head == "lm") and (family != "vit" or head in ("classifier", "regressor"))
]


@pytest.mark.parametrize(("family", "head"), [*CASES, ("gpt2", "long"), ("bert", "long")])
def test_two_batches_of_different_size_are_one_batch(family: str, head: str) -> None:
    """Sums of losses over counts: gradient accumulation is exact whatever the sizes and lengths of its batches."""
    task = {"words": LONG} if head == "long" else {}
    head = "verbalizer" if head == "long" else head
    prompt = speakers.prompt(family, head=head, task=task)
    rows = [prompt.row(example) for example in speakers.examples(head, family)]

    def gradients(parts: list[list[Any]]) -> tuple[float, list[Tensor]]:
        prompt.zero_grad()
        batches = [prompt.batch(part) for part in parts]
        count = sum(prompt.head.count(batch) for batch in batches)
        loss = sum(prompt.loss(batch) for batch in batches) / count
        assert isinstance(loss, Tensor)
        loss.backward()
        return loss.item(), [weight.grad.clone() for weight in prompt.parameters() if weight.grad is not None]

    one, two = gradients([rows]), gradients([rows[:1], rows[1:]])
    assert one[0] == pytest.approx(two[0], rel=1e-5)
    assert len(one[1]) == len(list(prompt.parameters()))
    for a, b in zip(one[1], two[1], strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize(("family", "head"), CASES)
def test_count_is_the_number_of_labels(family: str, head: str) -> None:
    prompt = speakers.prompt(family, head=head)
    rows = [prompt.row(example) for example in speakers.examples(head, family)]
    one_each = head in ("verbalizer", "classifier", "regressor")
    sides = [row if head == "tagger" else row.decoder or row for row in rows]
    supervised = sum(label != IGNORE for side in sides for label in side.labels)
    assert prompt.head.count(prompt.batch(rows)) == (len(rows) if one_each else supervised)
    assert supervised or one_each


def test_only_columns_with_labels_are_asked_for() -> None:
    prompt = speakers.prompt("llama", head="lm")
    rows = [prompt.row(example) for example in speakers.examples("lm")]
    batch = prompt.batch(rows)
    labelled = {t for row in rows for t, label in enumerate(row.labels) if label != IGNORE}
    assert set(columns(batch).tolist()) == labelled
    assert prompt(batch).logits.shape[1] == len(labelled) < batch.input_ids.shape[1]


def hidden_with(batch: Batch, at_prompt: float) -> Output:
    hidden = torch.arange(batch.input_ids.numel() * 2, dtype=torch.float32).view(*batch.input_ids.shape, 2)
    return Output(hidden=hidden.masked_fill((batch.slots != TEXT)[..., None], at_prompt))


@pytest.mark.parametrize("pool", ["mean", "cls", "last"])
def test_pooling_reads_neither_prompt_nor_padding(pool: Any) -> None:
    ids = torch.ones(2, 6, dtype=torch.long)
    slots = torch.tensor([[0, 1, TEXT, TEXT, 2, TEXT], [0, TEXT, TEXT, 1, 2, TEXT]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]], dtype=torch.bool)
    batch = Batch(ids, mask, slots)
    found = pooled(hidden_with(batch, 1e6), batch, pool)
    torch.testing.assert_close(found, pooled(hidden_with(batch, -5.0), batch, pool))
    hidden = hidden_with(batch, 0.0).hidden
    assert hidden is not None
    chosen = {"mean": [[2, 3], [1, 2, 5]], "cls": [[2], [1]], "last": [[3], [5]]}[pool]
    expected = torch.stack([hidden[i, places].mean(0) for i, places in enumerate(chosen)])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("pool", ["mean", "cls", "last"])
@torch.no_grad()
def test_pooling_of_images_skips_the_prompt_after_cls(pool: Any) -> None:
    prompt = speakers.prompt("vit", head="classifier", task={"pool": pool})
    batch = prompt.batch([prompt.row(example) for example in speakers.examples("classifier", "vit")])
    hidden = prompt(batch).hidden
    assert hidden.shape[1] == 1 + speakers.P + 16
    changed = hidden.clone()
    changed[:, 1 : 1 + speakers.P] = 1e6
    text = torch.cat([hidden[:, :1], hidden[:, 1 + speakers.P :]], 1)
    expected = {"mean": text.mean(1), "cls": hidden[:, 0], "last": hidden[:, -1]}[pool]
    torch.testing.assert_close(pooled(Output(hidden=changed), batch, pool), expected)


def test_a_regressor_answers_in_the_units_of_its_targets_far_from_zero() -> None:
    head = Regressor(2, mean=1_700_000_000.0, scale=0.5)
    batch = Batch(torch.ones(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool), torch.full((1, 1), TEXT))
    output = Output(hidden=torch.tensor([[[1.0, 2.0]]]))
    standard = head.standard(output, batch).item()
    assert head.numbers(output, batch).item() == pytest.approx(1_700_000_000.0 + standard * 0.5, abs=1e-6)
    target = torch.tensor([1_700_000_000.25], dtype=torch.float64)
    assert head.loss(output, replace(batch, target=target)).item() == pytest.approx((standard - 0.5) ** 2, rel=1e-5)


def test_a_tagger_loses_at_first_tokens_of_words_and_nowhere_else() -> None:
    prompt = speakers.prompt("bert", head="tagger")
    (row, *_) = [prompt.row(example) for example in speakers.examples("tagger")]
    batch = prompt.batch([row])
    output = prompt(batch)
    assert isinstance(prompt.head, Tagger)
    logs = prompt.head.scores(output, batch)[0]
    expected = -sum(logs[place, row.labels[place]].item() for place in row.words)
    assert prompt.loss(batch).item() == pytest.approx(expected, rel=1e-5)


def test_options_build_the_same_head_again() -> None:
    heads: list[Head] = [
        Verbalizer([[1, 2], [3]], fill=True),
        Classifier(8, 3, pool="cls"),
        Regressor(8, mean=2.0, scale=3.0, pool="last"),
        Tagger(8, 5),
    ]
    for head in heads:
        sizes = {} if isinstance(head, Verbalizer) else {"states": 8}
        again = type(head)(**sizes, **head.options())
        assert again.options() == head.options()
        again.load_state_dict(head.state_dict())


def test_a_masked_vocabulary_gives_no_nan() -> None:
    head = Verbalizer([[1], [2, 3]], fill=True)
    logits = torch.zeros(1, 1, 5)
    logits[0, 0, 0] = -math.inf
    ids = torch.ones(1, 1, dtype=torch.long)
    batch = Batch(ids, ids.bool(), ids * TEXT, labels=ids)
    scores = head.scores(Output(logits=logits, columns=torch.tensor([0])), batch)
    torch.testing.assert_close(scores.exp(), torch.tensor([[0.5, 0.5]]))
