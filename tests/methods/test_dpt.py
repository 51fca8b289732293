"""Decomposed prompt tuning: the product is the prompt, and begins as the best approximation of its rank."""

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
from softprompt.methods.dpt import DecomposedPromptTuning
from softprompt.methods.prompt_tuning import PromptTuning

BASE = Spec(kind="seq2seq", hidden=768, states=768, layers=12, kv_heads=12, head_dim=64, decoder_layers=12)
ranks = pytest.mark.parametrize("rank", range(1, P + 1))


def built(rank: int = 0, length: int = P) -> DecomposedPromptTuning:
    frozen = backbone("llama")
    return DecomposedPromptTuning(frozen.spec, start(frozen, length), rank=rank)


def given(method: Method) -> Tensor:
    embeds = method(batch("llama", slots=P), torch.zeros(0)).embeds
    assert embeds is not None
    return embeds[0].detach()


@ranks
def test_the_prompt_is_the_sum_over_its_ranks(rank: int) -> None:
    method = built(rank)
    left, right = method.left.detach(), method.right.detach()
    wanted = sum(torch.outer(left[:, k], right[k]) for k in range(rank))
    assert_close(given(method), wanted)


@ranks
def test_it_begins_at_the_best_approximation_of_that_rank(rank: int) -> None:
    """The projection onto the first eigenvectors of P P^T; what is left out has the norm of the other eigenvalues."""
    prompt = start(backbone("llama")).embeds.double()
    values, vectors = torch.linalg.eigh(prompt @ prompt.T)  # smallest first
    best = vectors[:, P - rank :] @ vectors[:, P - rank :].T @ prompt
    made = given(built(rank)).double()
    assert_close(made, best, atol=1e-6, rtol=1e-5)
    assert (made - prompt).square().sum().item() == pytest.approx(values[: P - rank].sum().item(), abs=1e-6)


def test_it_has_as_many_parameters_as_the_paper_says() -> None:
    """b(l + d), 8,680 for T5-base with 100 vectors of rank 10; the prompt that is stored has l*d."""
    method = DecomposedPromptTuning(BASE, Start(torch.randn(100, 768)))
    assert sum(p.numel() for p in method.parameters()) == 10 * (100 + 768) == 8_680
    folded = method.fold()
    assert isinstance(folded, PromptTuning)
    assert sum(p.numel() for p in folded.parameters()) == 76_800


@pytest.mark.parametrize(("length", "rank"), [(P, P), (10, 10), (20, 10)])
def test_the_rank_that_is_chosen_is_ten_or_the_length(length: int, rank: int) -> None:
    assert built(length=length).right.shape == (rank, H)


@pytest.mark.parametrize("rank", [-1, P + 1])
def test_a_rank_that_no_such_prompt_has_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=f"rank={rank}, which must be from 1 to {P}"):
        built(rank)


def test_a_step_of_either_factor_moves_the_prompt_by_about_the_rate_in_embeddings() -> None:
    torch.manual_seed(0)
    spec = backbone("llama").spec
    method = DecomposedPromptTuning(spec, Start(torch.randn(40, H) * spec.rms))
    for group in method.groups():
        before = method.product().detach()
        with torch.no_grad():
            for weight in group.parameters:
                weight.add_(torch.randn_like(weight).sign() * 0.01 * group.unit)
        step = (method.product().detach() - before).square().mean().sqrt().item()
        assert 0.5 < step / (0.01 * spec.rms) < 2


def test_it_trains_and_what_is_saved_answers_the_same(tmp_path: Path) -> None:
    model = tiny_runs.open_model(tmp_path)
    losses: list[float] = []
    made = tiny_runs.recipe(tmp_path, "method.name=dpt", "method.options={rank: 2}", "train.epochs=8")
    result = softprompt.train(
        made,
        model=model,
        run_folder=tmp_path / "run",
        listen=lambda e: losses.append(e["loss"]) if e["event"] == "step" else None,
    )
    assert sum(losses[-5:]) < sum(losses[:5])
    loaded = Artifact.load(result.artifact)
    assert (loaded.card.method.name, loaded.card.method.trained_as) == ("prompt_tuning", "dpt")
    assert torch.linalg.matrix_rank(loaded.tensors["method.prompt"]).item() == 2
    examples = [Example({"text": text}) for text in ("w12 w30 w31", "w70 w51 w60 w61", "w40")]
    served = loaded.bind(tiny_runs.open_model(tmp_path)).predict(examples)
    for ours, theirs in zip(served, result.prompt.predict(examples), strict=True):
        assert ours.answer == theirs.answer
        assert ours.scores == pytest.approx(theirs.scores, abs=1e-5)
