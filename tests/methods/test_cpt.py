"""CPT's projection and its loss equal PEFT's, and what is trained never leaves its ball."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny_runs
import torch
from families import H, P, answer, backbone, batch, model, start
from torch import nn
from torch.testing import assert_close

from softprompt.artifact import Artifact
from softprompt.core import IGNORE, TEXT, Batch, Example, Start
from softprompt.errors import RecipeError, Unsupported
from softprompt.heads import LanguageModel
from softprompt.methods.cpt import CPT, weights
from softprompt.methods.prompt_tuning import PromptTuning
from softprompt.plan import make_plan
from softprompt.prompt import Prompt, Task
from softprompt.training import train
from softprompt.untrained import build

TYPES = "fiil"  # PEFT counts 1 input format, 2 input, 3 output format, 4 label
RADII = {"epsilon": 0.2, "format_epsilon": 0.05}


def made(**options: Any) -> CPT:
    frozen = backbone("llama")
    return CPT(frozen.spec, replace(start(frozen), ids=torch.arange(10, 10 + P)), **options)


def lengths(method: CPT) -> list[float]:
    """The length of a typical embedding times the radius that each vector has."""
    sizes = {"i": method.epsilon, "f": method.format_epsilon, "l": 0.0}
    return [sizes[letter] * method.spec.rms * H**0.5 for letter in method.types]


def other(method: CPT) -> nn.Module:
    unit = method.spec.rms * 2048**0.5  # PEFT's radii are epsilon * sqrt(H / 2048), whatever the embeddings
    config = peft.CPTConfig(
        task_type="CAUSAL_LM",
        cpt_token_ids=list(range(10, 10 + P)),
        cpt_mask=[1] * P,
        cpt_tokens_type_mask=[1, 2, 2, 4],
        opt_projection_epsilon=method.epsilon * unit,
        opt_projection_format_epsilon=method.format_epsilon * unit,
    )
    return peft.get_peft_model(model("llama"), config).eval()


@pytest.mark.parametrize("size", [0.001, 0.05, 3.0])  # inside all balls, inside some, outside all
def test_logits_and_gradients_equal_those_of_peft(size: float) -> None:
    frozen, data = backbone("llama"), batch("llama", slots=P, first=0)
    method = made(types=TYPES, **RADII)
    theirs = other(method)
    torch.manual_seed(0)
    with torch.no_grad():
        method.change.copy_(torch.randn(P, H) * size)
        method.change[-1] = 0.0  # a label has never moved
        encoder = theirs.prompt_encoder["default"]
        encoder.delta_embedding.weight.copy_(method.change)
    for mode in (False, True):
        ours = answer(frozen, data, method.train(mode)(data, frozen.tokens(data.input_ids)))[data.mask]
        wanted = theirs(input_ids=data.input_ids[:, P:], attention_mask=data.mask[:, P:].long(), labels=None).logits
        assert_close(ours, wanted[data.mask], atol=1e-5, rtol=1e-5)
    assert_close(method.change.detach(), encoder.delta_embedding.weight.detach(), atol=1e-6, rtol=1e-5)
    ours.square().mean().backward()
    wanted[data.mask].square().mean().backward()
    assert_close(method.change.grad, encoder.delta_embedding.weight.grad, atol=1e-5, rtol=1e-4)
    assert not method.change.grad[-1].any()


@pytest.mark.parametrize("mode", [False, True])
@torch.no_grad()
def test_a_change_is_moved_to_the_nearest_point_of_its_ball(mode: bool) -> None:
    method, data = made(types=TYPES, **RADII).train(mode), batch("llama", slots=P)
    method.change.copy_(torch.randn(P, H) * torch.tensor([[0.001], [0.001], [9.0], [9.0]]))
    before = method.change.clone()
    moved = method(data, torch.zeros(0)).embeds[0] - start(backbone("llama")).embeds
    for place, radius in enumerate(lengths(method)):
        size = before[place].norm().item()
        wanted = before[place] * min(1.0, radius / size)
        assert_close(moved[place], wanted, atol=1e-5, rtol=1e-5)
    assert method.change.equal(before) is not mode  # answering changes nothing


def test_without_types_every_vector_is_an_input() -> None:
    plain, spelt = made(epsilon=0.3), made(types="i" * P, epsilon=0.3)
    assert plain.get_buffer("radii").equal(spelt.get_buffer("radii"))


def test_it_has_as_many_parameters_as_prompt_tuning_and_folds_into_it() -> None:
    method = made(types=TYPES)
    folded = method.fold()
    assert isinstance(folded, PromptTuning)
    assert sum(p.numel() for p in method.parameters()) == sum(p.numel() for p in folded.parameters()) == P * H


@pytest.mark.parametrize("options", [{"types": "ii"}, {"types": "iixl"}, {"epsilon": 0.0}, {"format_epsilon": -0.1}])
def test_types_and_radii_that_do_not_fit_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="letters of i, f and l"):
        made(**options)


# The labels of the context

CONTEXT = "iflifllf"  # two examples: the label of the first is one token, that of the second two
NUMBERS = [2, 3, 4, 6, 7, 8, 8, 1]  # the same as PEFT counts: 4 (n - 1) + (1, 2, 3 or 4) for the n-th example


def context(decay: float = 0.7, **options: Any) -> CPT:
    """A method over a context of eight tokens, somewhat trained."""
    frozen, ids = backbone("llama"), torch.arange(20, 28)
    start = Start(frozen.tokens(ids[None])[0].float(), ids=ids)
    method = CPT(frozen.spec, start, types=CONTEXT, decay=decay, epsilon=0.3, format_epsilon=0.3, **options)
    torch.manual_seed(2)
    with torch.no_grad():
        moves = method.get_buffer("moves")
        method.change.copy_(torch.randn_like(method.change) * 0.1 * method.spec.rms * moves)
    return method


def rows(method: CPT) -> tuple[Batch, torch.Tensor]:
    """A batch with the context in front and two label tokens a row, and these as PEFT wants them, [B, T]."""
    size = method.length
    data = batch("llama", slots=size, first=0)
    theirs = torch.full_like(data.input_ids[:, size:], IGNORE)
    theirs[:, 2:4] = data.input_ids[:, size + 2 : size + 4]
    ours = torch.full_like(data.input_ids, IGNORE)
    ours[:, size + 1 : size + 3] = theirs[:, 2:4]
    return replace(data, labels=ours), theirs


def bound(method: CPT) -> Prompt:
    return Prompt(backbone("llama"), method, LanguageModel(), None, Task("generation"))


@pytest.mark.parametrize("decay", [1.0, 0.7])
def test_the_loss_of_context_and_rows_and_its_gradient_equal_those_of_peft(decay: float) -> None:
    method = context(decay).train()
    data, labels = rows(method)
    unit = method.spec.rms * 2048**0.5
    config = peft.CPTConfig(
        task_type="CAUSAL_LM",
        cpt_token_ids=list(range(20, 28)),
        cpt_mask=[1] * 8,
        cpt_tokens_type_mask=NUMBERS,
        opt_weighted_loss_type="decay",
        opt_loss_decay_factor=decay,
        opt_projection_epsilon=0.3 * unit,
        opt_projection_format_epsilon=0.3 * unit,
    )
    theirs = peft.get_peft_model(model("llama"), config).eval()
    encoder = theirs.prompt_encoder["default"]
    with torch.no_grad():
        encoder.delta_embedding.weight.copy_(method.change)
    ours = bound(method).loss(data) / (len(data) * 3 + 2 * len(data))  # PEFT: a mean over all labels there are
    ids, mask = data.input_ids[:, 8:], data.mask[:, 8:].long()
    kinds = torch.where(labels == IGNORE, 0, 4)  # its default would mask every label and yield NaN
    wanted = theirs(input_ids=ids, attention_mask=mask, labels=labels, input_type_mask=kinds).loss
    assert_close(ours, wanted, atol=1e-5, rtol=1e-5)
    ours.backward()
    wanted.backward()
    assert_close(method.change.grad, encoder.delta_embedding.weight.grad, atol=1e-6, rtol=1e-4)


def test_weights_fall_from_the_last_example_to_the_first() -> None:
    assert weights(CONTEXT, 0.5).tolist() == [0, 0, 0.25, 0, 0, 0.5, 0.5, 0]
    assert weights("iiff", 0.5).tolist() == [0, 0, 0, 0]


def test_the_context_is_learned_in_training_alone_and_only_if_wanted() -> None:
    data, _ = rows(context())
    rows_alone = bound(context(context=False).train()).loss(data)
    assert_close(bound(context().eval()).loss(data), rows_alone)
    assert bound(context().train()).loss(data) > rows_alone + 1


def test_every_label_has_a_place_that_predicts_it_also_after_bos_and_between_texts() -> None:
    """By hand: logits at the place before each label of the context, wherever the slots stand."""
    method = context().train()
    size, frozen = method.length, backbone("llama")
    torch.manual_seed(0)
    ids = torch.randint(5, 90, (1, size + 6))
    slots = torch.full_like(ids, TEXT)
    slots[0, 1:4], slots[0, 6 : 6 + size - 3] = torch.arange(3), torch.arange(3, size)
    labels = torch.full_like(ids, IGNORE)
    labels[0, -1] = 9
    data = Batch(ids, torch.ones_like(ids, dtype=torch.bool), slots, labels)
    logs = answer(frozen, data, replace(method(data, torch.zeros(0)), lesson=None)).log_softmax(-1)[0]
    places = {slot: at for at, slot in enumerate(slots[0].tolist()) if slot != TEXT}
    share = dict(zip((2, 5, 6), (0.49, 0.7, 0.7), strict=True))  # the labels of CONTEXT
    wanted = -logs[-1, 9] - sum(share[slot] * logs[places[slot] - 1, 20 + slot] for slot in share)
    assert_close(bound(method).loss(data), wanted, atol=1e-5, rtol=1e-5)


def test_a_context_is_not_run_as_one_row_with_others() -> None:
    data, _ = rows(method := context().train())
    assert "by itself" in backbone("llama").unpackable(
        replace(data, packing=object()),
        method(data, torch.zeros(0)),  # type: ignore[arg-type]
    )


def test_what_cannot_predict_its_context_is_refused(tmp_path: Path) -> None:
    frozen = backbone("llama")
    with pytest.raises(ValueError, match=r"init\.text"):
        CPT(frozen.spec, start(frozen), types="fiil")
    with pytest.raises(ValueError, match=r"decay=1\.5"):
        context(1.5)
    bert = backbone("bert")
    with pytest.raises(ValueError, match="encoder"):
        CPT(bert.spec, replace(start(bert), ids=torch.arange(P)), types="fiil")
    assert CPT(bert.spec, start(bert), types="fiil", context=False).length == P
    tiny = tiny_runs.open_model(tmp_path)
    settings = ("method.name=cpt", "method.options={types: ifil}", "init.text=w12 w7 w60 w6", "task.head=classifier")
    prompt = build(plan := make_plan(tiny_runs.recipe(tmp_path, *settings), tiny), tiny).train()
    with pytest.raises(Unsupported, match="SP-E427"):
        prompt.loss(prompt.batch([prompt.row(example) for example in plan.train[:2]]))
    kinds = {"method.name=cpt", "method.options={types: ifil}", "init.kind=labels"}
    with pytest.raises(RecipeError, match=r"SP-E212.*init\.text"):
        build(make_plan(tiny_runs.recipe(tmp_path, *kinds), tiny), tiny)


def test_a_context_that_was_trained_is_near_its_text_and_answers_the_same_from_its_file(tmp_path: Path) -> None:
    frozen = tiny_runs.open_model(tmp_path)
    recipe = tiny_runs.recipe(tmp_path, "method.name=cpt", "method.options={types: ifil}", "init.text=w12 w7 w60 w6")
    result = train(recipe, tmp_path / "run", backbone=frozen)
    artifact = Artifact.load(result.artifact)
    examples = [Example({"text": f"w{i} w{i + 3}"}) for i in (11, 55, 20, 61)]
    assert artifact.bind(frozen).predict(examples) == result.prompt.predict(examples)
    text = frozen.tokens(torch.tensor([[12, 7, 60, 6]]))[0]
    moved = (artifact.method_tensors()["prompt"] - text).norm(dim=1)
    length = frozen.spec.rms * frozen.spec.hidden**0.5
    assert moved[:3].max() <= 0.1 * length * (1 + 1e-5)
    assert moved[:3].min() > 0
    assert moved[3] == 0
