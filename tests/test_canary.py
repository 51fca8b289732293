"""Canaries: they tell a prompt from a bare backbone, from another prompt, and from a model that rounds."""

import math

import pytest
import speakers
import torch
from speakers import TEXTS

from softprompt import canary
from softprompt.errors import ArtifactError
from softprompt.prompt import Prompt, without_prompt

CASES = [
    (family, head)
    for family in [*TEXTS, "vit"]
    for head in speakers.KINDS
    if not (family == "bert" and head == "lm") and (family != "vit" or head in ("classifier", "regressor"))
]


@pytest.mark.parametrize(
    ("family", "head", "method"),
    [(*case, "prompt_tuning") for case in CASES] + [("llama", "lm", name) for name in speakers.READING],
)
def test_a_prompt_sings_as_it_was_recorded_and_otherwise_than_the_bare_model(
    family: str, head: str, method: str
) -> None:
    prompt = speakers.prompt(family, method, head)
    recorded = canary.record(prompt)
    found = canary.compare(prompt, recorded)
    assert found.gap < 1e-5
    assert found.effect > 1e-4
    canary.check(prompt, recorded, "here")


@pytest.mark.parametrize(("family", "head"), CASES)
def test_a_prompt_that_does_nothing_is_refused(family: str, head: str) -> None:
    """What a server does that loads a prompt and then forgets to use it."""
    bare = without_prompt(speakers.prompt(family, head=head))
    with pytest.raises(ArtifactError, match=r"SP-E321 here: found a prompt that changes nothing"):
        canary.check(bare, canary.record(bare), "here")


@pytest.mark.parametrize("method", speakers.READING)
def test_a_small_change_of_the_prompt_is_heard(method: str) -> None:
    prompt = speakers.prompt("llama", method)
    recorded = canary.record(prompt)
    with torch.no_grad():
        for weight in prompt.method.parameters():
            weight.add_(torch.randn_like(weight) * 0.1 * weight.abs().mean())
    with pytest.raises(ArtifactError, match=r"SP-E322 here: found canaries off by"):
        canary.check(prompt, recorded, "here")


def test_another_template_is_heard() -> None:
    recorded = canary.record(speakers.prompt("gpt2", task={"template": "{soft}{text} It is {mask}"}))
    with pytest.raises(ArtifactError, match="SP-E322"):
        canary.check(speakers.prompt("gpt2", task={"template": "{soft}{text} so {mask}"}), recorded, "here")


@pytest.mark.parametrize("at", range(6))
def test_nan_at_any_canary_is_refused(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = speakers.prompt("llama")
    recorded, sound = canary.record(prompt), canary.outputs(prompt)
    broken = sound.clone()
    broken[at] = math.nan
    monkeypatch.setattr(canary, "outputs", lambda asked: broken if asked is prompt else sound + 1)
    with pytest.raises(ArtifactError, match="SP-E322"):
        canary.check(prompt, recorded, "here")


def test_other_types_may_round_more() -> None:
    prompt = speakers.prompt("llama", head="classifier")
    recorded = canary.record(prompt)
    coarse = speakers.fresh("llama")
    coarse.model.to(torch.bfloat16)
    rounded = Prompt(coarse, prompt.method, prompt.head, prompt.template, prompt.task)
    found = canary.compare(rounded, recorded)
    assert 1e-4 < found.gap <= found.tolerance == canary.COARSE
    assert canary.compare(prompt, recorded).tolerance == canary.TOLERANCE[torch.float32]


def test_recording_leaves_the_mode_of_the_prompt_alone() -> None:
    prompt = speakers.prompt("bert", "prefix", "classifier", options={"dropout": 0.9}).train()
    assert canary.record(prompt) == canary.record(prompt)
    assert prompt.training


def test_canaries_hold_the_likeliest_outputs_and_nothing_of_the_users_data() -> None:
    prompt = speakers.prompt("llama")
    for made, values in zip(canary.record(prompt), canary.outputs(prompt), strict=True):
        assert made.input in canary.SENTENCES
        assert sorted(made.outputs) == sorted(values.topk(canary.KEPT).indices.tolist())
        assert all(abs(values[i].item() - value) < 1e-5 for i, value in made.outputs.items())


def test_the_pictures_are_the_same_everywhere_and_differ_from_each_other() -> None:
    images = [canary.pattern(3, 16, k) for k in range(6)]
    assert all(image.shape == (3, 16, 16) for image in images)
    assert not any(torch.allclose(images[i], images[j], atol=0.1) for i in range(6) for j in range(i))
    assert torch.equal(images[0], canary.pattern(3, 16, 0))
