"""What is said of a prompt is what the model does: by finite differences, by masks, by the model's own attention."""

import re
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
from torch import Tensor
from torch.testing import assert_close

from softprompt import explain
from softprompt.core import Batch, Injection
from softprompt.explain import curves, importance, lens, neighbours, page, pez, shares, words
from softprompt.explain.drawing import apart
from softprompt.plan import Plan, make_plan
from softprompt.prompt import Prompt
from softprompt.pruning import importance as mean_of_absolute
from softprompt.untrained import build
from softprompt.vectors import measure, variant, vectors_of, without

P = 4
FAMILIES = ["llama", "gpt2", "bert", "t5"]
WORDS = ("task.template={soft:1}{text}{soft:3} w9 {mask}", "task.head=verbalizer")
STATES = ("task.template={soft:1}{text}{soft:3}", "task.head=classifier")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("explain")


def made(folder: Path, family: str, *settings: str) -> tuple[Prompt, Plan]:
    """An untrained prompt of a family, with vectors on both sides of the text."""
    model = tiny_runs.open_model(folder, family)
    shape = STATES if family == "bert" else WORDS  # the tiny tokenizer has no token for a mask
    plan = make_plan(tiny_runs.recipe(folder, *shape, *settings, model=family), model)
    return build(plan, model).eval(), plan


@pytest.fixture(scope="module")
def llama(folder: Path) -> tuple[Prompt, Plan]:
    return made(folder, "llama")


def sum_of_losses(prompt: Prompt, batch: Batch, vectors: Tensor) -> float:
    return prompt.head.loss(prompt.answer(batch, Injection(embeds=vectors[None])), batch).item()


def by_hand(prompt: Prompt, batch: Batch, vectors: Tensor) -> float:
    """The loss of one row in float64, where heads use float32: cross-entropy among the words of the classes."""
    with torch.no_grad():
        logits = prompt.answer(batch, Injection(embeds=vectors[None])).logits[0, 0]
    (words_of,) = zip(*prompt.head.words, strict=True)
    return -logits[list(words_of)].log_softmax(0)[batch.target[0]].item()


@pytest.mark.parametrize(("family", "step", "near"), [("gpt2", 1e-5, 1e-6), ("llama", 2e-3, 3e-4)])
def test_the_slope_of_a_mask_is_that_of_finite_differences(folder: Path, family: str, step: float, near: float) -> None:
    """In float64, but for the norms of Llama, which are float32 whatever the model is: so the larger step there."""
    prompt, plan = made(folder, family)
    prompt.backbone.double()
    prompt.double()
    vectors, some = vectors_of(prompt), plan.train[:5]
    found = importance.products(prompt, vectors, some, batch_size=2)
    for row, example in enumerate(some):
        batch = prompt.batch([prompt.row(example)])
        for i in range(P):
            mask = torch.ones(P, 1, dtype=torch.float64)
            losses = []
            for sign in (1, -1):
                mask[i] = 1 + sign * step
                losses.append(by_hand(prompt, batch, vectors.double() * mask))
            assert found[row, i].item() == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-4, abs=near)


def test_importance_is_that_of_pruning(llama: tuple[Prompt, Plan]) -> None:
    prompt, plan = llama
    slopes = importance.products(prompt, vectors_of(prompt), plan.train)
    assert_close(slopes.abs().mean(0), mean_of_absolute(prompt, plan.train, 1)[:, 0], atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_a_vector_left_out_is_one_that_is_masked_out(folder: Path, family: str) -> None:
    prompt, plan = made(folder, family)
    vectors, some = vectors_of(prompt), plan.train[:6]
    whole = measure(prompt, some, "accuracy").loss
    batch = prompt.batch([prompt.row(example) for example in some])
    for i, found in enumerate(importance.left_out(prompt, vectors, some, "accuracy")):
        masked = Batch(batch.input_ids, batch.mask & (batch.slots != i), batch.slots, batch.labels, batch.target)
        wanted = sum_of_losses(prompt, masked, vectors) / len(some)
        assert found.loss == pytest.approx(wanted, rel=1e-4)
        assert found.loss != pytest.approx(whole, rel=1e-6)
    one = importance.effects(prompt, vectors, some, "accuracy")["tokens"][2]
    assert one["loss_change"] == pytest.approx(measure(without(prompt, vectors, [2]), some, "accuracy").loss - whole)


def test_without_its_only_vector_a_prompt_is_the_bare_model(folder: Path) -> None:
    prompt, plan = made(folder, "llama", "task.template={soft:1}{text} {mask}", "method.length=1")
    found = importance.effects(prompt, vectors_of(prompt), plan.train[:4], "accuracy")
    assert found["tokens"][0]["loss"] == found["bare"]["loss"]


def eager(backbone: Any, batch: Batch, vectors: Tensor) -> list[Tensor]:
    """The weights [B, heads, T, T] that the model's own eager attention has in every layer."""
    stack, before = backbone.stack(), backbone.model.config._attn_implementation
    given = backbone.arguments(batch, Injection(embeds=vectors[None]), None)
    backbone.model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            return list(stack(**given, output_attentions=True).attentions)
    finally:
        backbone.model.set_attn_implementation(before)


@pytest.mark.parametrize("family", FAMILIES)
def test_shares_are_those_of_the_models_own_attention_and_sum_to_one(folder: Path, family: str) -> None:
    prompt, plan = made(folder, family)
    vectors = vectors_of(prompt)
    batch = prompt.batch([prompt.row(example) for example in plan.train[:5]])
    with torch.no_grad():
        seen = shares.watched(prompt.backbone, batch, vectors)
    weights = eager(prompt.backbone, batch, vectors)
    assert len(seen.layers) == len(weights) == 3
    for (each, rest), weight in zip(seen.layers, weights, strict=True):
        for row in range(5):
            real = batch.mask[row]
            for i in range(P):
                (at,) = (batch.slots[row] == i).nonzero()[:, 0].tolist()
                assert_close(each[row, real, i], weight[row, :, real, at].mean(0), atol=1e-5, rtol=1e-4)
        assert_close((each.sum(-1) + rest)[batch.mask], torch.ones(int(batch.mask.sum())), atol=1e-5, rtol=0)


def test_mean_shares_sum_to_one_over_every_layer(llama: tuple[Prompt, Plan]) -> None:
    prompt, plan = llama
    found = shares.shares(prompt, vectors_of(prompt), plan.train)
    assert set(found) == {"text", "answer"}
    for layer in [*found["text"], *found["answer"]]:
        assert layer["prompt"] + layer["rest"] == pytest.approx(1.0, abs=1e-5)
        assert layer["prompt"] == pytest.approx(sum(layer["vectors"]))
        assert 0 < layer["prompt"] < 1


def test_a_row_of_the_table_is_its_own_neighbour(llama: tuple[Prompt, Plan]) -> None:
    table = neighbours.table(llama[0].backbone)
    found = neighbours.neighbours(3.0 * table.rows[[7, 20]], table, 2)
    assert [one["nearest"][0]["id"] for one in found] == [7, 20]
    assert found[0]["nearest"][0]["cosine"] == pytest.approx(1.0, abs=1e-5)
    assert found[0]["norm"] == pytest.approx(3 * table.rows[7].norm().item(), rel=1e-5)
    assert table.norms["least"] <= table.norms["median"] <= table.norms["most"]
    assert 0 < table.chance < 1


def test_the_lens_ends_at_what_the_model_predicts(llama: tuple[Prompt, Plan]) -> None:
    prompt, plan = llama
    vectors, table = vectors_of(prompt), neighbours.table(prompt.backbone)
    found = lens.lens(prompt, vectors, plan.train[0], table)
    assert len(found["layers"]) == prompt.backbone.spec.layers + 1
    assert not found["fixed"], "a column stands before the last vector"
    batch = prompt.batch([prompt.row(plan.train[0], labelled=False)])
    at = (batch.slots[0] == 2).nonzero()[0]
    with torch.no_grad():
        logits = prompt.backbone(batch, Injection(embeds=vectors[None]), columns=at).logits
    assert found["layers"][-1][2][0]["word"] == table.word(int(logits.argmax()))
    state = prompt.backbone.model.model.norm(vectors[2])
    first = prompt.backbone.model.lm_head(state).argmax()
    assert found["layers"][0][2][0]["word"] == table.word(int(first)), "at the input the state is the vector itself"


def test_noise_of_nothing_and_a_factor_of_one_change_nothing(llama: tuple[Prompt, Plan]) -> None:
    prompt, plan = llama
    vectors, some = vectors_of(prompt), plan.train[:8]
    whole = measure(prompt, some, "accuracy").loss
    by_noise = curves.noise(prompt, vectors, some, "accuracy")
    by_scale = {one["at"]: one["loss"] for one in curves.scale(prompt, vectors, some, "accuracy")}
    assert by_noise[0]["loss"] == pytest.approx(whole)
    assert by_scale[1.0] == pytest.approx(whole)
    assert by_noise[-1]["loss"] != pytest.approx(whole, rel=1e-3)
    assert by_scale[0.0] == pytest.approx(measure(variant(prompt, 0 * vectors), some, "accuracy").loss)


def test_a_swap_puts_in_the_others_vector(llama: tuple[Prompt, Plan]) -> None:
    prompt, plan = llama
    vectors, other, some = vectors_of(prompt), torch.randn(2, 32), plan.train[:8]
    found = curves.swap(prompt, vectors, other, some, "accuracy")
    assert [one["at"] for one in found] == [0, 1, -1]
    changed = torch.stack([vectors[0], other[1], vectors[2], vectors[3]])
    assert found[1]["loss"] == pytest.approx(measure(variant(prompt, changed), some, "accuracy").loss)
    assert found[2]["loss"] == pytest.approx(
        measure(variant(prompt, torch.cat([other, vectors[2:]])), some, "accuracy").loss
    )


def test_a_prompt_made_of_words_is_its_own_projection(llama: tuple[Prompt, Plan]) -> None:
    prompt, _ = llama
    table = neighbours.table(prompt.backbone)
    plain = variant(prompt, 1.5 * table.rows[[9, 30, 31, 60]])
    rows, text = words.project(vectors_of(plain), table)
    assert rows.equal(table.rows[[9, 30, 31, 60]])
    assert text == table.tokenizer.decode([9, 30, 31, 60])


def test_the_control_reads_as_its_text_and_has_learnt_anyway(
    llama: tuple[Prompt, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "TEXT", "w70 w71 w72")
    prompt, plan = llama
    table = neighbours.table(prompt.backbone)
    found = words.control(prompt, vectors_of(prompt), table, plan.train, "accuracy", steps=30)
    assert found["reads_as_text"] == 1.0
    assert found["text"].split() == ["w70", "w71", "w72", "w70"]
    assert found["scores"]["control"]["loss"] < found["scores"]["text"]["loss"]
    assert found["fitted_on"] + found["n"] == len(plan.train)


def test_pez_finds_text_that_loses_no_more_than_the_nearest_words(llama: tuple[Prompt, Plan]) -> None:
    prompt, plan = llama
    table, vectors = neighbours.table(prompt.backbone), vectors_of(prompt)
    allowed = pez.readable(table)
    assert set(table.tokenizer.all_special_ids).isdisjoint(allowed.tolist())
    start = pez.nearest(vectors, table, allowed)
    ids = pez.walked(prompt, vectors, table, allowed, plan.train, "accuracy", 20)
    losses = [measure(variant(prompt, table.rows[one]), plan.train, "accuracy").loss for one in (ids, start)]
    assert losses[0] < losses[1], "the walk left its start"
    found = pez.hard(prompt, vectors, table, plan.train, "accuracy", 2)
    assert found["text"] == table.tokenizer.decode(found["ids"])
    assert found["reads_back"]
    assert found["fitted_on"] + found["n"] == len(plan.train)
    judged = measure(variant(prompt, table.rows[torch.tensor(found["ids"])]), plan.train[1::2], "accuracy")
    assert found["scores"]["pez"] == judged.as_dict(), (
        "what is shown is what was scored, on examples it was not fitted to"
    )


def test_pez_moves_along_the_gradient_at_the_nearest_words(llama: tuple[Prompt, Plan]) -> None:
    """Algorithm 1 of arXiv:2302.03668, line 4, one row by hand."""
    prompt, plan = llama
    table, vectors = neighbours.table(prompt.backbone), vectors_of(prompt)
    at = table.rows[pez.nearest(vectors, table, pez.readable(table))]
    plain = variant(prompt, vectors)
    rows = [plain.row(example) for example in plan.train[:3]]
    slope = pez.gradient(plain, at, rows, [0, 2])
    step = 1e-2 * slope / slope.norm()
    pair = [plan.train[0], plan.train[2]]
    ends = [measure(variant(prompt, at + sign * step), pair, "accuracy").loss for sign in (1, -1)]
    assert (ends[0] - ends[1]) / 2e-2 == pytest.approx(slope.norm().item(), rel=2e-2)


def test_a_vector_that_reads_otherwise_is_put_back(llama: tuple[Prompt, Plan]) -> None:
    table = neighbours.table(llama[0].backbone)
    ids = torch.tensor([5, 6])
    moved = torch.stack([table.rows[50] * 4, table.rows[6] * 4])
    held = words.held(moved, table.rows[ids], ids, table)
    assert words.reads_as(held, ids, table).all()
    assert not words.reads_as(moved, ids, table)[0]
    assert held[1].equal(moved[1]), "what reads right stays where it is"


@pytest.fixture(scope="module")
def report(llama: tuple[Prompt, Plan]) -> dict[str, Any]:
    prompt, plan = llama
    found = explain.explain(prompt, plan.train[:24], "accuracy", other=torch.randn(3, 32), rows=6, steps=2)
    return {"prompt": "a <b>.safetensors", "task": "classification", "swapped_with": "other", **found}


def test_the_page_is_one_file_that_fetches_nothing(report: dict[str, Any]) -> None:
    made = page.page(report)
    assert "<b>.safe" not in made
    assert not re.search(r"(?:src|href)=\"(?!data:)|url\(|@import|https?://|<script", made)
    assert "prefers-color-scheme: dark" in made
    for title in (
        "Vectors",
        "Do the words mean anything?",
        "As readable text",
        "The control",
        "Attention",
        "When the vectors",
        "States",
    ):
        assert title in made
    assert made.count("<svg") == P + 3
    assert made.count("<section") == made.count("</section>")


def test_without_data_only_what_needs_none_is_said(llama: tuple[Prompt, Plan]) -> None:
    found = explain.explain(llama[0])
    assert set(found) == {"table", "neighbours", "lens"}
    assert "With labelled data" in page.page({"prompt": "p", **found})


def test_numbers_below_an_axis_do_not_run_into_each_other() -> None:
    assert apart([0.0, 0.1, 1.0, 2.0]) == [2.0, 1.0, 0.1]
    assert apart([0.0, 1.0]) == [1.0, 0.0]


def test_the_explained_prompt_is_left_as_it_was(llama: tuple[Prompt, Plan]) -> None:
    prompt, plan = llama
    before = {name: value.clone() for name, value in prompt.state_dict().items()}
    explain.explain(prompt, plan.train[:20], "accuracy", rows=4, steps=1)
    assert all(value.equal(before[name]) for name, value in prompt.state_dict().items())
    assert all(weight.grad is None for weight in prompt.backbone.parameters())
