"""Wayward prompts: the loss of training has the distance from a text in it, and nothing else has."""

from pathlib import Path

import pytest
import speakers
import tiny_runs
import torch
from families import H, P, backbone, batch, start
from torch import Tensor

import softprompt
from softprompt.artifact import Artifact
from softprompt.core import Example
from softprompt.errors import Unsupported
from softprompt.methods.prompt_tuning import PromptTuning
from softprompt.methods.wayward import Wayward

TEXT = "w7 w9 w20 w22"  # ids 7, 9, 20, 22


def built(gamma: float) -> Wayward:
    """One rms away from its text in the first vector, nowhere else."""
    frozen = backbone("llama")
    method = Wayward(frozen.spec, start(frozen), gamma=gamma)
    with torch.no_grad():
        method.prompt[0] += frozen.spec.rms
    return method


def penalty(method: Wayward) -> Tensor | None:
    made: Tensor | None = method(batch("llama", slots=P), torch.zeros(0)).penalty
    return made


@pytest.mark.parametrize("gamma", [0.0, 0.1, 3.0])
def test_the_penalty_is_the_formula(gamma: float) -> None:
    """The paper's gamma' ||P - E||^2 / l with gamma' = gamma / (d rms^2)."""
    method = built(gamma)
    away = sum((method.prompt[j] - start(backbone("llama")).embeds[j]).square().sum() for j in range(P))
    wanted = gamma / (H * method.spec.rms**2) * away.item() / P
    found = penalty(method.train())
    assert found is not None
    assert found.item() == pytest.approx(wanted, rel=1e-4)
    assert found.item() == pytest.approx(gamma / P, rel=1e-4)


def test_the_penalty_pulls_straight_back() -> None:
    method = built(0.5).train()
    made = penalty(method)
    assert made is not None
    made.backward()
    grad = method.prompt.grad
    assert grad is not None
    assert grad[0].tolist() == pytest.approx([0.5 * 2 / (P * H * method.spec.rms)] * H, rel=1e-3)
    assert grad[1:].eq(0).all()


@pytest.mark.parametrize(("family", "head"), [("llama", "lm"), ("bert", "classifier"), ("t5", "verbalizer")])
@torch.no_grad()
def test_the_loss_of_training_has_it_once_a_label_and_that_of_evaluation_has_not(family: str, head: str) -> None:
    prompt = speakers.prompt(family, "wayward", head, options={"gamma": 2.0})
    data = prompt.batch([prompt.row(example) for example in speakers.examples(head)])
    taught, scored = prompt.train().loss(data), prompt.eval().loss(data)
    method = prompt.method
    assert isinstance(method, Wayward)
    assert method.penalty() > 0.01
    wanted = method.penalty().item() * prompt.head.count(data)
    assert (taught - scored).item() == pytest.approx(wanted, rel=1e-3)


def test_evaluation_and_the_stored_prompt_know_nothing_of_it() -> None:
    method = built(1.0)
    assert penalty(method.eval()) is None
    folded = method.fold()
    assert isinstance(folded, PromptTuning)
    assert list(folded.state_dict()) == ["prompt"]
    assert sum(p.numel() for p in folded.parameters()) == P * H


def test_the_text_is_part_of_the_state_of_a_run() -> None:
    method, other = built(1.0), Wayward(backbone("llama").spec, start(backbone("llama")))
    with torch.no_grad():
        method.get_buffer("target").add_(1.0)
    other.load_state_dict(method.state_dict())
    assert other.get_buffer("target").equal(method.get_buffer("target"))


def test_a_pull_away_from_the_text_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gamma=-0\.1"):
        Wayward(backbone("llama").spec, start(backbone("llama")), gamma=-0.1)


def test_images_are_refused() -> None:
    with pytest.raises(Unsupported, match="SP-E410"):
        Wayward(backbone("vit").spec, start(backbone("vit")))


def test_it_trains_stays_near_its_text_and_what_is_saved_answers_the_same(tmp_path: Path) -> None:
    model = tiny_runs.open_model(tmp_path)
    words = model.tokens(torch.tensor([[int(word[1:]) for word in TEXT.split()]]))[0]
    away: dict[float, float] = {}
    for gamma in (0.0, 10.0):
        losses: list[float] = []
        options = ["method.name=wayward", f"method.options={{gamma: {gamma}}}", f"init.text={TEXT}", "train.epochs=8"]
        result = softprompt.train(
            tiny_runs.recipe(tmp_path, *options, "optim.lr=0.1"),
            model=model,
            run_folder=tmp_path / f"run-{gamma}",
            listen=lambda e, found=losses: found.append(e["loss"]) if e["event"] == "dev" else None,  # type: ignore[misc]
        )
        assert min(losses) < losses[0]
        loaded = Artifact.load(result.artifact)
        assert (loaded.card.method.name, loaded.card.method.trained_as) == ("prompt_tuning", "wayward")
        prompt = loaded.tensors["method.prompt"]
        away[gamma] = ((prompt - words) / model.spec.rms).square().mean().item()
    assert 0 < away[10.0] < 0.5 * away[0.0]
    table = model.tokens(torch.arange(96)[None])[0]
    assert torch.cdist(prompt, table).argmin(1).tolist() == [int(word[1:]) for word in TEXT.split()]
    examples = [Example({"text": text}) for text in ("w12 w30 w31", "w70 w51 w60 w61", "w40")]
    served = loaded.bind(tiny_runs.open_model(tmp_path)).predict(examples)
    for ours, theirs in zip(served, result.prompt.predict(examples), strict=True):
        assert ours.answer == theirs.answer
        assert ours.scores == pytest.approx(theirs.scores, abs=1e-5)
