"""Residual prompt tuning equals its formula, P + LayerNorm(W_up relu(W_down P)), written out."""

from pathlib import Path

import pytest
import tiny_runs
import torch
from families import H, P, backbone, batch, start
from torch import Tensor
from torch.testing import assert_close

import softprompt
from softprompt.artifact import Artifact
from softprompt.core import Example, Spec, Start
from softprompt.methods import Method
from softprompt.methods.residual import ResidualPromptTuning

M = 16  # the bottleneck of the tests
shapes = pytest.mark.parametrize("separate", [False, True])


def built(separate: bool, seed: int = 0) -> ResidualPromptTuning:
    torch.manual_seed(seed)
    frozen = backbone("llama")
    return ResidualPromptTuning(frozen.spec, start(frozen), bottleneck=M, separate=separate)


def moved(separate: bool) -> ResidualPromptTuning:
    """Away from where it began."""
    method = built(separate)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return method


def given(method: Method) -> Tensor:
    embeds = method(batch("llama", slots=P), torch.zeros(0)).embeds
    assert embeds is not None
    return embeds[0].detach()


def network(weights: dict[str, Tensor], i: int, x: Tensor) -> Tensor:
    """One network on one vector [H], as the paper writes it."""
    part = {name.removeprefix(f"networks.{i}."): value for name, value in weights.items()}
    hidden = (part["down.weight"] @ x + part["down.bias"]).clamp(min=0)
    made = part["up.weight"] @ hidden + part["up.bias"]
    normed = (made - made.mean()) / (made.var(correction=0) + 1e-5).sqrt()
    return normed * part["norm.weight"] + part["norm.bias"]


@shapes
@torch.no_grad()
def test_it_is_the_formula_less_what_the_networks_made_at_first(separate: bool) -> None:
    first, method = built(separate), moved(separate)
    rms = method.spec.rms
    for j in range(P):
        i = j if separate else 0
        now = network(method.state_dict(), i, method.prompt[j] / rms)
        before = network(first.state_dict(), i, first.prompt[j] / rms)
        assert_close(given(method)[j], method.prompt[j] + now - before, atol=1e-5, rtol=1e-5)


@shapes
def test_it_begins_at_the_start_to_the_bit(separate: bool) -> None:
    assert given(built(separate)).equal(start(backbone("llama")).embeds)


@pytest.mark.parametrize("separate", [False, True])
def test_a_shared_network_moves_all_vectors_and_a_separate_one_its_own(separate: bool) -> None:
    method = built(separate)
    before = given(method)
    with torch.no_grad():
        next(iter(method.networks[0].parameters())).add_(0.5)
    changed = (given(method) != before).any(1).tolist()
    assert changed == [True, False, False, False] if separate else all(changed)


@pytest.mark.parametrize(("separate", "networks"), [(False, 1), (True, 10)])
def test_training_has_as_many_parameters_as_the_paper_says(separate: bool, networks: int) -> None:
    """l*d + 2db + b + d + 2d (the norm), for T5-base with ten vectors; separate networks count once a vector."""
    spec = Spec(kind="seq2seq", hidden=768, states=768, layers=12, kv_heads=12, head_dim=64, decoder_layers=12)
    method = ResidualPromptTuning(spec, Start(torch.zeros(10, 768)), separate=separate)
    one = 2 * 768 * 800 + 800 + 768 + 2 * 768
    assert sum(p.numel() for p in method.parameters()) == 10 * 768 + networks * one
    assert sum(p.numel() for p in method.fold().parameters()) == 10 * 768


@shapes
def test_its_state_is_all_there_is_of_it(separate: bool) -> None:
    """Also what the networks made at first, which another seed makes differently."""
    method, other = moved(separate), built(separate, seed=9)
    other.load_state_dict(method.state_dict())
    assert given(other).equal(given(method))


def test_prompt_and_network_move_in_units_of_their_own() -> None:
    method = built(separate=False)
    units = {id(weight): group.unit for group in method.groups() for weight in group.parameters}
    found = {name: units[id(weight)] for name, weight in method.named_parameters()}
    for name, unit in found.items():
        kind = "down" if ".down." in name else "up" if ".up." in name else "prompt"
        assert unit == pytest.approx(
            {"down": (3 * H) ** -0.5, "up": (3 * M) ** -0.5, "prompt": method.spec.rms}[kind]
        ), name


def test_a_bottleneck_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="bottleneck=0"):
        ResidualPromptTuning(backbone("llama").spec, start(backbone("llama")), bottleneck=0)


def test_it_trains_and_what_is_saved_answers_the_same(tmp_path: Path) -> None:
    model = tiny_runs.open_model(tmp_path)
    losses: list[float] = []
    made = tiny_runs.recipe(tmp_path, "method.name=residual", "method.options={bottleneck: 16}", "train.epochs=5")
    result = softprompt.train(
        made,
        model=model,
        run_folder=tmp_path / "run",
        listen=lambda e: losses.append(e["loss"]) if e["event"] == "step" else None,
    )
    assert sum(losses[-5:]) < sum(losses[:5])
    loaded = Artifact.load(result.artifact)
    assert (loaded.card.method.name, loaded.card.method.trained_as) == ("prompt_tuning", "residual")
    examples = [Example({"text": text}) for text in ("w12 w30 w31", "w70 w51 w60 w61", "w40")]
    served = loaded.bind(tiny_runs.open_model(tmp_path)).predict(examples)
    for ours, theirs in zip(served, result.prompt.predict(examples), strict=True):
        assert ours.answer == theirs.answer
        assert ours.scores == pytest.approx(theirs.scores, abs=1e-5)
