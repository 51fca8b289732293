"""DART: the fluency loss is the mean cross-entropy of the text, label vectors are vectors, and both are trained."""

from dataclasses import replace
from typing import Any

import pytest
import tiny_runs
import torch
from families import H, P, V, answer, backbone, batch, start
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from softprompt.artifact import Artifact
from softprompt.baselines import zero_shot
from softprompt.core import IGNORE, TEXT, Batch, Output
from softprompt.errors import RecipeError, Unsupported
from softprompt.heads import Verbalizer
from softprompt.lessons import lesson_loss, with_lesson
from softprompt.methods.dart import DART
from softprompt.methods.prompt_tuning import PromptTuning
from softprompt.plan import make_plan
from softprompt.sweep import train_all
from softprompt.training import train
from softprompt.untrained import build
from softprompt.wording import SCALE


def made(family: str = "llama", **options: Any) -> DART:
    return DART(backbone(family).spec, start(backbone(family)), **options)


def labelled(family: str) -> Batch:
    """A batch with one answer a row, at the last place that is real."""
    data = batch(family, slots=P)
    labels = torch.full_like(data.input_ids, IGNORE)
    for row, last in enumerate(data.mask.sum(1) - 1):
        labels[row, last] = 7
    return replace(data, labels=labels)


def lesson(family: str, method: DART, data: Batch) -> tuple[Tensor, Output, Any]:
    """The loss on the text, and what it was read from."""
    frozen = backbone(family)
    given = method(data, frozen.tokens(data.input_ids))
    columns = with_lesson(data, given.lesson, torch.tensor([data.input_ids.shape[1] - 1]))
    output = frozen(data, given, columns=columns)
    return lesson_loss(output, data, given.lesson), output, given


def test_a_causal_model_predicts_every_token_of_the_text_and_a_row_counts_its_mean() -> None:
    method, data = made(fluency=0.3).train(), labelled("llama")
    found, _, given = lesson("llama", method, data)
    logits = answer(backbone("llama"), data, replace(given, lesson=None))
    total = 0.0
    for row in range(len(data)):
        losses = [
            F.cross_entropy(logits[row, t], data.input_ids[row, t + 1])
            for t in range(data.input_ids.shape[1] - 1)
            if data.mask[row, t + 1] and data.slots[row, t + 1] == TEXT
        ]
        total += 0.3 * torch.stack(losses).mean().item()
    assert found.item() == pytest.approx(total, rel=1e-4)
    found.backward()
    assert method.prompt.grad is not None
    assert method.prompt.grad.abs().sum() > 0


def test_an_encoder_guesses_hidden_tokens_and_reads_the_mask_in_their_place() -> None:
    method, data, frozen = made("bert", mask=0.5).train(), labelled("bert"), backbone("bert")
    torch.manual_seed(1)
    found, _, given = lesson("bert", method, data)
    labels, weights = given.lesson
    chosen = labels != IGNORE
    assert chosen.any()
    assert not (chosen & ((data.slots != TEXT) | ~data.mask | (data.labels != IGNORE))).any()
    masked = data.input_ids.masked_fill(chosen, 0)
    for row in range(len(data)):  # the token where the answer goes is what hides
        masked[row][chosen[row]] = data.input_ids[row][data.labels[row] != IGNORE].item()
    plain = answer(frozen, replace(data, input_ids=masked), replace(given, lesson=None, offset=None))
    wanted = sum(
        0.5 * F.cross_entropy(plain[row][chosen[row]], data.input_ids[row][chosen[row]]).item()
        for row in range(len(data))
        if chosen[row].any()
    )
    assert found.item() == pytest.approx(wanted, rel=1e-4)
    assert_close(weights.sum(1), 0.5 * chosen.any(1))


def test_answers_are_given_without_the_loss_and_without_hiding() -> None:
    method, data = made().eval(), labelled("llama")
    given = method(data, backbone("llama").tokens(data.input_ids))
    assert given.lesson is None
    assert given.offset is None


def test_it_folds_into_a_prompt_and_has_its_numbers() -> None:
    method = made()
    assert isinstance(method.fold(), PromptTuning)
    assert sum(p.numel() for p in method.parameters()) == P * H


@pytest.mark.parametrize("options", [{"fluency": -1.0}, {"mask": 0.0}, {"mask": 1.0}, {"rows": -1}])
def test_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="inside"):
        made(**options)


def test_a_model_that_does_not_predict_its_text_takes_no_fluency() -> None:
    with pytest.raises(Unsupported, match=r"SP-E410.*fluency=0"):
        made("t5", fluency=0.5)
    assert made("t5").weight == 0.0
    assert made("llama").weight == made("bert").weight == 0.5


# Label vectors


def test_a_label_vector_scores_as_if_it_were_a_row_of_the_output_embeddings() -> None:
    frozen, data = backbone("llama"), labelled("llama")
    rows = [3, 11, 40, 41]
    head = Verbalizer([[5], [6]], rows=rows)
    change = torch.randn(2, 4)
    with torch.no_grad():
        head.wording.change.copy_(change)
    table = frozen.model.get_output_embeddings().weight
    columns = (data.labels != IGNORE).any(0).nonzero()[:, 0]
    injection = made().eval()(data, torch.zeros(0))
    found = head.scores(frozen(data, injection, columns=columns), data)
    states = frozen(data, injection).hidden
    vectors = table[[5, 6]] + SCALE * change @ (table[rows] - table[rows].mean(0))  # [C, H]
    last = data.mask.sum(1) - 1
    wanted = states[torch.arange(len(data)), last] @ vectors.T
    assert_close(found, wanted.log_softmax(-1), atol=1e-4, rtol=1e-4)


def test_as_many_rows_as_the_width_make_any_vector() -> None:
    table = backbone("llama").model.get_output_embeddings().weight
    chosen = table[: H + 1] - table[: H + 1].mean(0)
    assert V > H
    assert torch.linalg.matrix_rank(chosen) == H


def test_template_and_labels_are_trained_and_stored_and_the_bare_model_keeps_its_words(tmp_path: Any) -> None:
    frozen = tiny_runs.open_model(tmp_path)
    recipe = tiny_runs.recipe(tmp_path, "method.name=dart", "train.steps=6", "method.options={rows: 8}")
    result = train(recipe, tmp_path / "run", backbone=frozen)
    assert result.report.parameters == 4 * H + 2 * 8
    stored = Artifact.load(result.artifact)
    assert stored.card.method.name == "prompt_tuning"
    assert stored.card.method.trained_as == "dart"
    assert stored.tensors["head.wording.change"].abs().sum() > 0
    again = stored.bind(frozen)
    plan = make_plan(recipe, frozen)
    assert [p.answer for p in again.predict(plan.test)] == [p.answer for p in result.prompt.predict(plan.test)]
    untrained = build(plan, frozen)
    assert zero_shot(again, plan.test) == zero_shot(untrained, plan.test)


def test_label_vectors_need_words_of_one_token_each(tmp_path: Any) -> None:
    frozen = tiny_runs.open_model(tmp_path)
    recipe = tiny_runs.recipe(tmp_path, "method.name=dart", "task.words={w5: w5 w7, w6: w6}")
    with pytest.raises(RecipeError, match="SP-E753"):
        build(make_plan(recipe, frozen), frozen)


def test_members_of_a_sweep_keep_their_fluency_to_themselves(tmp_path: Any) -> None:
    frozen = tiny_runs.open_model(tmp_path)
    settings = ("method.name=dart", "train.steps=2", "method.options={rows: 8}")
    recipes = {f"{seed}": tiny_runs.recipe(tmp_path, *settings, f"train.seed={seed}") for seed in (0, 1)}
    swept = train_all(recipes, tmp_path / "both", backbone=frozen)
    alone = train(recipes["1"], tmp_path / "alone", backbone=frozen).artifact
    pairs = zip(*(Artifact.load(path).tensors.values() for path in (swept.entries[1].prompt, alone)), strict=True)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)
