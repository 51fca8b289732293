"""IDPG equals its formula, W2 relu(W1 x + b1) + b2, written out, with plain and with PHM layers."""

from typing import Any

import pytest
import torch
from families import H, P, backbone, batch, start
from torch.testing import assert_close

from softprompt.core import Spec, Start
from softprompt.methods.idpg import IDPG
from softprompt.methods.smop import mean_embedding

LARGE = Spec(kind="encoder", hidden=1024, states=1024, layers=24, kv_heads=16, head_dim=64)  # RoBERTa-large


def made(**options: Any) -> IDPG:
    torch.manual_seed(3)
    frozen = backbone("llama")
    method = IDPG(frozen.spec, start(frozen), **options)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return method


@pytest.mark.parametrize("phm", [0, 1, 2, 4, 8])
@torch.no_grad()
def test_the_prompt_is_the_formula(phm: int) -> None:
    method, data = made(bottleneck=8, phm=phm), batch("llama", slots=P)
    text = backbone("llama").tokens(data.input_ids)
    weights, mixing = method.state_dict(), method.state_dict().get("mixing", torch.ones(1, 1, 1))
    first = sum(torch.kron(a, b) for a, b in zip(mixing, weights["inner"], strict=True))
    second = sum(torch.kron(a, b) for a, b in zip(mixing, weights["outer"], strict=True))
    assert (first.shape, second.shape) == ((8, H), (P * H, 8))
    given = method(data, text).embeds
    for row, mean in enumerate(mean_embedding(data, text) / method.spec.rms):
        hidden = (first @ mean + weights["inner_bias"]).clamp(min=0)
        wanted = (second @ hidden).reshape(P, H) + weights["shared"]
        assert_close(given[row], wanted, atol=1e-5, rtol=1e-5)


def test_it_has_as_many_parameters_as_the_formula_says() -> None:
    """d*m + m + m*l*d + l*d; the paper's example, m = 256, l = 5, d = 1024, has 1.5 M weights, and 105 K by PHM."""
    start_at = Start(torch.zeros(5, 1024))
    plain, phm = (IDPG(LARGE, start_at, bottleneck=256, phm=n) for n in (0, 16))
    biases = 256 + 5 * 1024
    assert sum(p.numel() for p in plain.parameters()) == 1024 * 256 + 256 * 5 * 1024 + biases
    weights = (1024 * 256 + 256 * 5 * 1024) // 16 + 16**3
    assert sum(p.numel() for p in phm.parameters()) == weights + biases
    assert weights == pytest.approx(105_000, rel=0.03)


@pytest.mark.parametrize("phm", [0, 4])
def test_every_row_begins_at_the_start_and_learns_to_differ(phm: int) -> None:
    frozen, data = backbone("llama"), batch("llama", slots=P)
    method, text = IDPG(frozen.spec, start(frozen), phm=phm), frozen.tokens(data.input_ids)
    before = method(data, text).embeds
    for row in before:
        assert_close(row, start(frozen).embeds, atol=1e-5, rtol=1e-5)
    towards = torch.randn(before.shape)
    optimizer = torch.optim.Adam([{"params": g.parameters, "lr": 0.3 * g.unit} for g in method.groups()])
    for _ in range(30):
        optimizer.zero_grad()
        loss = (method(data, text).embeds - towards).square().mean()
        loss.backward()
        optimizer.step()
    after = method(data, text).embeds
    assert (after - towards).square().mean() < 0.9 * (before - towards).square().mean()
    assert not torch.allclose(after[0], after[1], atol=1e-2)


@pytest.mark.parametrize("options", [{"bottleneck": 0}, {"phm": 3}, {"bottleneck": 6, "phm": 4}, {"phm": -1}])
def test_sizes_that_do_not_divide_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="phm"):
        made(**options)
