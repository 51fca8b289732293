"""SMoP equals its formula, g_j P_j for the largest g_j of softmax(W x), written out row by row."""

from typing import Any

import pytest
import torch
from families import H, P, answer, backbone, batch, start
from torch import Tensor
from torch.testing import assert_close

from softprompt.core import TEXT, Batch, Spec, Start
from softprompt.methods.smop import SMoP, mean_embedding

K = 4


def made(**options: Any) -> SMoP:
    torch.manual_seed(3)
    frozen = backbone("llama")
    method = SMoP(frozen.spec, start(frozen), **options).eval()
    with torch.no_grad():
        method.prompts.add_(torch.randn_like(method.prompts) * 0.1)
        method.router.weight.mul_(5)
    return method


def text(data: Batch) -> Tensor:
    return backbone("llama").tokens(data.input_ids)


def mean_of_row(data: Batch, row: int) -> Tensor:
    """The mean [H] of the embeddings of a row's own tokens, one by one."""
    total, count = torch.zeros(H), 0
    for t in range(data.input_ids.shape[1]):
        if data.mask[row, t] and data.slots[row, t] == TEXT:
            total, count = total + text(data)[row, t], count + 1
    return total / count


@pytest.mark.parametrize("top_k", [1, 2, K])
@pytest.mark.parametrize("left", [False, True])
@torch.no_grad()
def test_the_prompt_is_the_formula(top_k: int, left: bool) -> None:
    method, data = made(top_k=top_k), batch("llama", slots=P, left=left)
    given = method(data, text(data)).embeds
    for row in range(len(data)):
        scores = [float(w @ mean_of_row(data, row)) / method.spec.rms for w in method.router.weight]
        shares = torch.tensor(scores).softmax(0)
        best = shares.argsort(descending=True)[:top_k]
        wanted = sum(shares[j] * method.prompts[j] for j in best)
        assert_close(given[row], wanted, atol=1e-5, rtol=1e-5)


def test_an_answer_is_not_part_of_the_mean() -> None:
    data = batch("llama", slots=P)
    taught = torch.zeros_like(data.mask)
    taught[:, -4:-2] = True
    whole = Batch(data.input_ids, data.mask, data.slots, answer=taught)
    kept = Batch(data.input_ids, data.mask & ~taught, data.slots)
    assert_close(mean_embedding(whole, text(data)), mean_embedding(kept, text(data)))
    assert not torch.allclose(mean_embedding(whole, text(data)), mean_embedding(data, text(data)))


def test_a_row_without_text_has_a_mean_of_zero() -> None:
    data = batch("llama", slots=P)
    empty = Batch(data.input_ids, data.mask & (data.slots != TEXT), data.slots)
    assert mean_embedding(empty, text(data)).eq(0).all()


def test_it_has_as_many_parameters_as_the_paper_says() -> None:
    """K*l*d + d*K; four prompts of five vectors for T5-base: 18,432."""
    base = Spec(kind="seq2seq", hidden=768, states=768, layers=12, kv_heads=12, head_dim=64, decoder_layers=12)
    method = SMoP(base, Start(torch.zeros(5, 768)))
    assert sum(p.numel() for p in method.parameters()) == K * 5 * 768 + 768 * K == 18_432


def test_an_undecided_router_yields_the_start() -> None:
    frozen, data = backbone("llama"), batch("llama", slots=P)
    for top_k in (1, 3, K):
        method = SMoP(frozen.spec, start(frozen), top_k=top_k, spread=0.0)
        with torch.no_grad():
            method.router.weight.zero_()
        for row in method(data, text(data)).embeds:
            assert_close(row, start(frozen).embeds, atol=1e-5, rtol=1e-5)


def test_prompts_begin_apart() -> None:
    frozen = backbone("llama")
    prompts = SMoP(frozen.spec, start(frozen), spread=0.1).prompts.detach() / K
    for one in range(K):
        for other in range(one):
            apart = (prompts[one] - prompts[other]).square().mean().sqrt().item()
            assert apart == pytest.approx(0.1 * 2**0.5 * frozen.spec.rms, rel=0.3)


def test_noise_multiplies_the_scores_in_training_only() -> None:
    method, data = made(noise=1.0), batch("llama", slots=P)
    mean = mean_embedding(data, text(data))
    scores = method.router.scores(mean)
    torch.manual_seed(1)
    noisy = method.train().router(mean)
    torch.manual_seed(1)
    wanted = (scores * (1 + torch.randn_like(scores))).softmax(-1)
    assert_close(noisy.max(-1), wanted.max(-1))
    quiet = scores.softmax(-1)
    assert not torch.allclose(noisy.amax(-1), quiet.amax(-1), atol=1e-3)
    assert_close(method.eval().router(mean).max(-1), quiet.max(-1))
    assert_close(made(noise=0.0).train().router(mean).max(-1), quiet.max(-1))


def test_only_prompts_that_were_chosen_have_a_gradient() -> None:
    method, data, frozen = made(), batch("llama", slots=P), backbone("llama")
    given = method(data, text(data))
    chosen = set(method.router(mean_embedding(data, text(data))).argmax(-1).tolist())
    answer(frozen, data, given).square().mean().backward()
    assert 0 < len(chosen) < K
    assert {j for j in range(K) if method.prompts.grad[j].any()} == chosen
    assert all(method.router.weight.grad[j].any() for j in range(K))  # the others gave their shares


def test_mixed_precision_routes_as_full_precision_does() -> None:
    method, data = made(), batch("llama", slots=P)
    mean = mean_embedding(data, text(data))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = method.router(mean)
    assert mixed.equal(method.router(mean))


@pytest.mark.parametrize("options", [{"top_k": 0}, {"top_k": 5}, {"experts": 0}, {"noise": -1.0}])
def test_numbers_that_make_no_router_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="top_k"):
        made(**options)
