"""Rows of models that read in both directions as one row, and a last layer at labels alone: the same gradient, less."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import families
import pytest
import speakers
import torch
from families import CAUSAL, ENCODERS, P, backbone
from test_cost import operations
from test_packed import RAGGED, decide, gap, rows, untrained
from torch import Tensor, nn

from softprompt.backbones import Backbone, wrap
from softprompt.backbones.packing import OneStack
from softprompt.collate import pack
from softprompt.core import IGNORE, TEXT, Batch, Injection, Row
from softprompt.engine import choose, cut, measured, parted
from softprompt.heads import LanguageModel, columns
from softprompt.methods import Method
from softprompt.prompt import Prompt

TWO_STACKS = ["t5", "mt5"]
Graded = tuple[Tensor, Tensor]


def data(frozen: Backbone, slots: int, labels: int = 2) -> Batch:
    """Rows of different length; for an encoder-decoder, with answers of different length too."""
    made = rows(RAGGED, slots, front=1, labels=labels)
    if frozen.spec.kind != "seq2seq":
        return made
    answers = rows((3, 1, 2, 4), 0, labels=4)
    return replace(made, labels=None, decoder=answers)


def graded(frozen: Backbone, batch: Batch, method: Method, *, packs: bool) -> Graded:
    """Loss and gradient, with the batch as one row or padded."""
    head, weights = LanguageModel(), list(method.parameters())
    given = method(batch, frozen.tokens(batch.input_ids))
    if packs:
        batch = replace(batch, packing=pack(batch, shares=frozen.spec.kind == "causal"))
        assert not frozen.unpackable(batch, given)
        assert batch.packing is not None
        output = frozen.packed(batch, given, logits=True)
        loss = head.loss(output, replace(batch, labels=batch.packing.labels))
    else:
        loss = head.loss(frozen(batch, given, columns=columns(batch)), batch)
    grads = torch.autograd.grad(loss, weights)
    return loss.detach(), torch.cat([grad.flatten() for grad in grads])


def agree(frozen: Backbone, method: Method, limit: float) -> None:
    batch = data(frozen, method.length if method.slots else 0)
    ours, plain = (graded(frozen, batch, method, packs=packs) for packs in (True, False))
    assert gap(ours[0], plain[0]) <= limit
    assert gap(ours[1], plain[1]) <= limit
    assert plain[1].norm() > 0


FITTING = [(family, name) for family in ENCODERS for name in ("prompt_tuning", "prefix")]


@pytest.mark.parametrize(("family", "name"), FITTING)
def test_loss_and_gradient_are_those_of_padded_rows(family: str, name: str) -> None:
    agree(backbone(family), untrained(name, backbone(family)), 2e-6)


EXACT = [("bert", "prefix", 1e-12), ("roberta", "prompt_tuning", 1e-12)]
EXACT += [(family, "prompt_tuning", 1e-6) for family in TWO_STACKS]  # whose norms compute in float32


@pytest.mark.parametrize(("family", "name", "limit"), EXACT)
def test_in_float64_both_ways_are_equal(family: str, name: str, limit: float) -> None:
    frozen, method = families.fresh(family, torch.float64), untrained(name, backbone(family)).double()
    batch = data(frozen, method.length if method.slots else 0)
    (loss, grad), (right, wanted) = (graded(frozen, batch, method, packs=packs) for packs in (True, False))
    assert gap(loss, right) <= 1e-6  # heads compute losses in float32
    assert gap(grad, wanted) <= limit


def test_a_table_of_distances_is_as_large_as_the_longest_text(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen, seen = families.fresh("t5"), []
    batch = data(frozen, P)
    batch = replace(batch, packing=pack(batch, shares=False))
    first: Any = frozen.stack().block[0].layer[0].SelfAttention  # type: ignore[operator, index, union-attr]
    inner = first.compute_bias
    monkeypatch.setattr(first, "compute_bias", lambda q, k, **more: seen.append((q, k)) or inner(q, k, **more))
    frozen.packed(batch, Injection(embeds=torch.randn(1, P, 32)), logits=True)
    assert seen == [(max(RAGGED) + P + 1,) * 2]


HEADS: list[tuple[str, str, dict[str, Any]]] = [
    ("bert", "verbalizer", {}),
    ("bert", "verbalizer", {"template": "{text}{soft} It is {mask}"}),
    *[("bert", "classifier", {"pool": pool}) for pool in ("mean", "cls", "last")],
    ("bert", "tagger", {}),
    ("silent", "regressor", {}),
    ("t5", "verbalizer", {}),
    ("t5", "lm", {}),
    ("t5", "classifier", {}),
]


@pytest.mark.parametrize(("family", "head", "task"), HEADS, ids=str)
def test_every_head_reads_the_same_from_one_row(family: str, head: str, task: dict[str, Any]) -> None:
    prompt = speakers.prompt(family, head=head, task=task)
    made = [prompt.row(example) for example in speakers.examples(head, family)]
    answers = []
    for prompt.packs in (False, True):
        batch = prompt.batch(made)
        assert (batch.packing is not None) == prompt.packs
        assert not prompt.packs or not prompt.backbone.unpackable(batch, prompt.inject(batch))
        loss = prompt.loss(batch)
        answers.append([loss.detach(), *torch.autograd.grad(loss, list(prompt.parameters()))])
    for plain, ours in zip(*answers, strict=True):
        assert gap(ours, plain) <= 2e-5  # a row of four words has gradients of many cancelling parts


@pytest.mark.parametrize("family", [*CAUSAL, *ENCODERS])
@pytest.mark.parametrize("name", ["prompt_tuning", "prefix"])
def test_a_last_layer_at_labels_alone_gives_the_same_gradient_with_fewer_operations(family: str, name: str) -> None:
    frozen = families.fresh(family)
    if name in frozen.unsupported:
        pytest.skip(frozen.unsupported[name])
    assert isinstance(frozen, OneStack)
    method = untrained(name, frozen)
    batch, found, counted = data(frozen, method.length if method.slots else 0), [], []
    whole = frozen.windowed(frozen.spec.layers - 1)  # a window needs its layer
    for frozen.trims in (True, False):
        counted.append(operations(lambda: found.append(graded(frozen, batch, method, packs=True))))
    assert gap(found[0][0], found[1][0]) <= 2e-6
    assert gap(found[0][1], found[1][1]) <= 2e-6
    assert counted[0] == counted[1] if whole else counted[0] < 0.9 * counted[1]


def test_labels_of_many_prompts_in_one_row_find_their_own_keys() -> None:
    frozen = backbone("llama")
    methods = [untrained("prompt_tuning", frozen), untrained("prefix", frozen)]
    batches = [data(frozen, m.length if m.slots else 0, labels) for m, labels in zip(methods, (1, 2), strict=True)]
    batches = [replace(batch, packing=pack(batch)) for batch in batches]
    given = [m(b, frozen.tokens(b.input_ids)) for m, b in zip(methods, batches, strict=True)]
    for joint, batch, injection in zip(frozen.together(batches, given, logits=True), batches, given, strict=True):
        alone = frozen.packed(batch, injection, logits=True)
        assert joint.logits is not None
        assert alone.logits is not None
        assert gap(joint.logits, alone.logits) <= 2e-6


class Mixing(nn.Module):
    """A layer that looks at its neighbours, which no attention registry tells of."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, states: Tensor, *more: Any) -> Any:
        return self.inner(states + states.roll(1, 1), *more)


@pytest.mark.parametrize(
    ("family", "layers"),
    [
        ("bert", lambda m: [layer.intermediate for layer in m.bert.encoder.layer]),
        ("t5", lambda m: [b.layer[1] for b in m.encoder.block]),
    ],
)
def test_a_model_whose_rows_leak_is_found_out_and_trained_the_plain_way(
    family: str, layers: Callable[[Any], list[nn.Module]]
) -> None:
    frozen = speakers.fresh(family)
    for layer in layers(frozen.model):
        layer.forward = Mixing(layer.forward).forward  # type: ignore[method-assign, arg-type]
    prompt = speakers.prompt(family, backbone=wrap(frozen.model, frozen.tokenizer, "leaky"))
    said = decide(prompt)
    assert not prompt.packs
    assert len(said) == 1
    assert "would be off by" in said[0]


@pytest.mark.parametrize("family", ["bart", "pegasus", "deberta-v2", "mpnet", "albert"])
def test_families_with_positions_or_attention_of_their_own_are_padded(family: str) -> None:
    frozen = backbone(family)
    batch = data(frozen, P)
    assert frozen.unpackable(replace(batch, packing=pack(batch, shares=False)), Injection(embeds=torch.randn(1, P, 32)))


def test_a_front_is_not_shared_where_tokens_see_what_comes_after_them() -> None:
    frozen = backbone("bert")
    batch = data(frozen, P)
    given = Injection(embeds=torch.randn(1, P, 32))
    assert "front" in frozen.unpackable(replace(batch, packing=pack(batch)), given)
    alone = pack(batch, shares=False)
    assert alone is not None
    assert alone.front == 0
    assert not frozen.unpackable(replace(batch, packing=alone), given)


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "deberta-v2", "mpnet", "albert"])
def test_words_are_said_at_labels_alone_by_the_models_own_head(family: str) -> None:
    frozen, batch = backbone(family), rows(RAGGED, 0, labels=1)
    at = columns(batch)
    logits = frozen(batch, Injection(), columns=at).logits
    whole = frozen.model(input_ids=batch.input_ids, attention_mask=batch.mask.long()).logits
    seen = batch.mask[:, at] & (batch.slots[:, at] == TEXT)
    assert logits is not None
    torch.testing.assert_close(logits[seen], whole[:, at][seen], atol=1e-5, rtol=1e-5)
    assert batch.labels is not None
    assert len(at) < (batch.labels == IGNORE).shape[1]


ALONE = ["bloom", "falcon", "gptj", "gemma2"]  # causal, with attention of their own


@pytest.mark.parametrize("family", ALONE)
def test_a_front_is_run_once_and_shared_where_rows_cannot_stand_in_one(family: str) -> None:
    frozen = backbone(family)
    method, head = untrained("prompt_tuning", frozen), LanguageModel()
    batch = data(frozen, method.length)
    packing = pack(batch)
    assert packing is not None
    given = method(batch, frozen.tokens(batch.input_ids))
    shared = replace(batch, packing=replace(packing, fronted=True))
    assert frozen.unpackable(shared, given)
    assert not frozen.unfronted(shared, given)
    found = []
    for output in (frozen.behind(shared, given, columns(batch)), frozen(batch, given, columns=columns(batch))):
        loss = head.loss(output, batch)
        found.append((loss.detach(), torch.autograd.grad(loss, method.parameters(), retain_graph=True)[0]))
    assert gap(found[0][0], found[1][0]) <= 2e-6
    assert gap(found[0][1], found[1][1]) <= 2e-6
    hidden, plain = frozen.behind(shared, given, None).hidden, frozen(batch, given).hidden
    assert hidden is not None
    assert plain is not None
    torch.testing.assert_close(hidden[batch.mask], plain[batch.mask], atol=1e-4, rtol=1e-4)


def odd(family: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Prompt, list[Row]]:
    """A prompt whose rows are said to fit into no row, and eight rows of very different length."""
    prompt = speakers.prompt(family, length=12)
    examples = [
        replace(e, fields={"text": e.fields["text"] + " good bad" * (5 * i)})
        for i, e in enumerate(speakers.examples("verbalizer"))
    ]
    monkeypatch.setattr(prompt.backbone, "unpackable", lambda *_: "a reason")
    return prompt, [prompt.row(example) for example in examples] * 2


def chosen(prompt: Prompt, made: list[Row]) -> str:
    said: list[str] = []
    choose(prompt, made, "auto", lambda event: said.append(event["text"]))
    assert len(said) == 1
    return said[0]


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_what_does_not_fit_into_one_row_shares_its_front_and_runs_in_parts(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt, made = odd(family, monkeypatch)
    said = chosen(prompt, made)
    assert "in parts of about the same length" in said
    assert said.endswith(": a reason")
    assert (prompt.packs, prompt.fronts, prompt.parts) == (False, family == "llama", True)
    parts = parted(prompt, made)
    assert sorted(map(id, made)) == sorted(id(row) for part in parts for row in part)
    loss, grad = measured(prompt, made, packs=False)
    prompt.fronts = family == "llama"
    losses = [prompt.loss(prompt.batch(part)) for part in parts]
    assert gap(torch.stack(losses).sum(), loss) <= 2e-6
    ours = torch.autograd.grad(torch.stack(losses).sum(), list(prompt.parameters()))
    assert gap(torch.cat([g.flatten() for g in ours]), grad) <= 2e-5


def test_a_front_that_is_shared_wrongly_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt, made = odd("llama", monkeypatch)
    behind = prompt.backbone.behind

    def wrong(batch: Batch, injection: Injection, columns: Tensor | None) -> Any:
        output = behind(batch, injection, columns)
        assert output.logits is not None
        return replace(output, logits=output.logits + output.logits.roll(1, 0))

    monkeypatch.setattr(prompt.backbone, "behind", wrong)
    assert "the prompt runs once per row" in chosen(prompt, made)
    assert not prompt.fronts


def test_rows_are_cut_where_that_spares_most_padding() -> None:
    made = [Row([5] * length, [TEXT] * length) for length in (50, 48, 20, 19, 18, 5)]
    assert [[len(row.ids) for row in part] for part in cut(made, 40)] == [[50, 48], [20, 19, 18, 5]]
    assert [[len(row.ids) for row in part] for part in cut(made, 10)] == [[50, 48], [20, 19, 18], [5]]
    assert cut(made, 1000) == [made]
    assert cut(made[:1], 1) == [made[:1]]
