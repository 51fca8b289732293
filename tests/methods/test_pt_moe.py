"""PT-MoE equals its formula, sum_i w_i(x) A_i B, written out row by row."""

from typing import Any

import pytest
import torch
from families import H, P, backbone, batch, start
from torch.testing import assert_close

from softprompt.core import Spec, Start
from softprompt.methods.pt_moe import PTMoE, factors
from softprompt.methods.smop import mean_embedding


def made(**options: Any) -> PTMoE:
    torch.manual_seed(3)
    frozen = backbone("llama")
    method = PTMoE(frozen.spec, start(frozen), **options).eval()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return method


@pytest.mark.parametrize(("experts", "top_k"), [(2, 1), (3, 1), (3, 2), (2, 2)])
@torch.no_grad()
def test_the_prompt_is_the_formula(experts: int, top_k: int) -> None:
    method, data = made(experts=experts, top_k=top_k), batch("llama", slots=P)
    text = backbone("llama").tokens(data.input_ids)
    given, weights = method(data, text).embeds, method.state_dict()
    for row, mean in enumerate(mean_embedding(data, text) / method.spec.rms):
        shares = (weights["router.weight"] @ mean + weights["router.bias"]).softmax(0)
        wanted = torch.zeros(P, H)
        for i in shares.argsort(descending=True)[:top_k]:
            wanted += shares[i] * (weights["left"][i] @ weights["right"])
        assert_close(given[row], wanted, atol=1e-5, rtol=1e-5)


def test_it_has_as_many_parameters_as_the_paper_says() -> None:
    """N*l*R + R*d + N*d + N; Llama-3.2-1B with 40 vectors of rank 36 and two experts: 80,706."""
    llama = Spec(kind="causal", hidden=2048, states=2048, layers=16, kv_heads=8, head_dim=64)
    method = PTMoE(llama, Start(torch.randn(40, 2048)))
    assert sum(p.numel() for p in method.parameters()) == 2 * 40 * 36 + 36 * 2048 + 2 * 2048 + 2 == 80_706


@pytest.mark.parametrize("rank", range(1, P + 1))
def test_factors_are_the_best_of_their_rank(rank: int) -> None:
    embeds = start(backbone("llama")).embeds
    left, right = factors(embeds, rank)
    sizes = torch.linalg.svdvals(embeds)
    assert (left.shape, right.shape) == ((P, rank), (rank, H))
    missing = (embeds - left @ right).square().sum()
    assert_close(missing, sizes[rank:].square().sum(), atol=1e-6, rtol=1e-4)
    assert_close(left.square().sum(0), right.square().sum(1), atol=1e-5, rtol=1e-5)  # the sizes are shared evenly


def test_an_undecided_router_yields_the_start() -> None:
    frozen, data = backbone("llama"), batch("llama", slots=P)
    method = PTMoE(frozen.spec, start(frozen), rank=P, spread=0.0)
    with torch.no_grad():
        method.router.weight.zero_()
        method.router.bias.zero_()
    for row in method(data, frozen.tokens(data.input_ids)).embeds:
        assert_close(row, start(frozen).embeds, atol=1e-5, rtol=1e-5)


def test_the_router_begins_undecided_about_what_all_texts_share() -> None:
    """Rows that share a large part would all go to one expert; here both get some."""
    torch.manual_seed(0)
    common, own = torch.randn(H) * 10, torch.randn(200, H) / 10
    method = PTMoE(backbone("llama").spec, Start(common + torch.randn(40, H) / 10)).eval()
    centred = method.router(common + own).argmax(-1).float().mean().item()
    assert 0.2 < centred < 0.8
    with torch.no_grad():
        method.router.bias.zero_()
    assert method.router(common + own).argmax(-1).unique().numel() == 1


def test_experts_begin_apart_and_may_begin_alike() -> None:
    frozen = backbone("llama")
    apart, alike = (PTMoE(frozen.spec, start(frozen), spread=spread).left.detach() for spread in (0.01, 0.0))
    assert alike[0].equal(alike[1])
    distance = (apart[0] - apart[1]).norm() / apart[0].norm()
    assert distance.item() == pytest.approx(0.01 * 2**0.5, rel=0.5)


@pytest.mark.parametrize("options", [{"rank": P + 1}, {"rank": -1}, {"top_k": 3}, {"experts": 0}])
def test_numbers_that_do_not_fit_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"rank|top_k"):
        made(**options)
