"""CPT's projection equals PEFT's, and what is trained never leaves its ball."""

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
from softprompt.core import Example
from softprompt.methods.cpt import CPT
from softprompt.methods.prompt_tuning import PromptTuning
from softprompt.training import train

TYPES = "fiil"  # PEFT counts 1 input format, 2 input, 3 output format, 4 label
RADII = {"epsilon": 0.2, "format_epsilon": 0.05}


def made(**options: Any) -> CPT:
    frozen = backbone("llama")
    return CPT(frozen.spec, start(frozen), **options)


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
