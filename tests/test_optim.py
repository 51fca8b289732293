"""Optimisers against their formulas, clipping that is exact, and schedules that begin and end where they should."""

import math
from itertools import pairwise
from typing import Any

import pytest
import speakers
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from softprompt.errors import TrainingError
from softprompt.methods import Group
from softprompt.optim import Adafactor, clip, factor, make_optimizer
from softprompt.sections import OptimSection


def adafactor_by_hand(start: Tensor, grads: list[Tensor], lr: float, decay: float) -> Tensor:
    """Shazeer, Stern 2018, algorithm 4 without factoring and without parameter scaling, number by number."""
    x, v = start.double().tolist(), [0.0] * len(start)
    for t, grad in enumerate(grads, 1):
        beta = 1 - t**-0.8
        g = grad.double().tolist()
        v = [beta * vi + (1 - beta) * (gi * gi + 1e-30) for vi, gi in zip(v, g, strict=True)]
        u = [gi / math.sqrt(vi) for gi, vi in zip(g, v, strict=True)]
        rms = math.sqrt(sum(ui * ui for ui in u) / len(u))
        x = [xi * (1 - lr * decay) - lr * ui / max(1.0, rms) for xi, ui in zip(x, u, strict=True)]
    return torch.tensor(x)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adafactor_is_its_formula(decay: float) -> None:
    start = torch.randn(7)
    grads = [torch.randn(7) * scale for scale in (1.0, 5.0, 0.01, 2.0, 1e-6)]
    weight = nn.Parameter(start.clone())
    optimizer = Adafactor([{"params": [weight], "lr": 0.3}], weight_decay=decay)
    for grad in grads:
        weight.grad = grad.clone()
        optimizer.step()
    torch.testing.assert_close(weight.data, adafactor_by_hand(start, grads, 0.3, decay), atol=1e-5, rtol=1e-5)


def test_adafactor_keeps_the_whole_second_moment_of_a_matrix() -> None:
    """Libraries factor every matrix; one of which a single entry has a gradient tells the difference."""
    weight = nn.Parameter(torch.zeros(4, 5))
    optimizer = Adafactor([{"params": [weight], "lr": 1.0}])
    weight.grad = torch.zeros(4, 5)
    weight.grad[1, 2] = 3.0
    optimizer.step()
    assert optimizer.state[weight]["exp_avg_sq"].shape == (4, 5)
    moved = (weight.data != 0).nonzero().tolist()
    assert moved == [[1, 2]]


def test_adafactor_goes_on_from_a_saved_state() -> None:
    def run(state: dict[str, Any] | None, weight: nn.Parameter, steps: range) -> Adafactor:
        optimizer = Adafactor([{"params": [weight], "lr": 0.1}])
        if state is not None:
            optimizer.load_state_dict(state)
        for i in steps:
            weight.grad = torch.full_like(weight, math.sin(i + 1))
            optimizer.step()
        return optimizer

    whole, parts = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    run(None, whole, range(6))
    state = run(None, parts, range(3)).state_dict()
    run(state, parts, range(3, 6))
    assert torch.equal(whole.data, parts.data)


def test_weights_without_a_gradient_stay() -> None:
    still, moved = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    moved.grad = torch.ones(2)
    Adafactor([{"params": [still, moved]}]).step()
    assert torch.equal(still.data, torch.ones(2))
    assert not torch.equal(moved.data, torch.ones(2))


# Groups and rates


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_every_group_has_its_rate_in_its_own_units(name: Any) -> None:
    a, b = (nn.Parameter(torch.zeros(3)) for _ in range(2))
    section = OptimSection(name=name, lr=0.5, weight_decay=0.01)
    optimizer, rates = make_optimizer(section, [Group([a], 0.02), Group([b], 3.0)], nn.Module())
    assert rates == [0.01, 1.5]
    assert [group["lr"] for group in optimizer.param_groups] == rates
    assert [group["params"] for group in optimizer.param_groups] == [[a], [b]]
    assert all(group["weight_decay"] == 0.01 for group in optimizer.param_groups)


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning", "prefix"])
@pytest.mark.parametrize("head", ["verbalizer", "classifier"])
def test_every_trained_parameter_is_in_one_group(method: str, head: str) -> None:
    prompt = speakers.prompt("llama", method, head)
    optimizer, rates = make_optimizer(OptimSection(lr=0.1), prompt.method.groups(), prompt.head)
    held = [id(weight) for group in optimizer.param_groups for weight in group["params"]]
    assert sorted(held) == sorted(id(weight) for weight in prompt.parameters())
    assert len(rates) == len(optimizer.param_groups)
    assert all(rate > 0 for rate in rates)


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_the_first_step_moves_a_vector_by_about_its_rate(name: Any) -> None:
    """What `lr` promises: 0.1 moves a coordinate by a tenth of an embedding, whatever the scale of the gradient."""
    for unit in (0.02, 50.0):
        weight = nn.Parameter(torch.zeros(100))
        optimizer, _ = make_optimizer(OptimSection(name=name, lr=0.1), [Group([weight], unit)], nn.Module())
        weight.grad = torch.randn(100) / unit
        optimizer.step()
        assert weight.data.abs().mean().item() == pytest.approx(0.1 * unit, rel=0.05)


# Clipping


@given(
    sizes=st.lists(st.tuples(st.integers(1, 5), st.floats(1e-3, 1e3)), min_size=1, max_size=4),
    limit=st.none() | st.floats(1e-3, 1e3),
    seed=st.integers(0, 99),
)
def test_clipping_is_exact(sizes: list[tuple[int, float]], limit: float | None, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = [nn.Parameter(torch.zeros(n)) for n, _ in sizes]
    rates = [rate for _, rate in sizes]
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=generator) + 0.1
    before = [weight.grad.clone() for weight in weights if weight.grad is not None]
    optimizer = torch.optim.SGD([{"params": [weight], "lr": 1.0} for weight in weights])

    def norm(grads: list[Tensor]) -> float:
        scaled = (float(g) * rate for grad, rate in zip(grads, rates, strict=True) for g in grad)
        return math.sqrt(sum(x * x for x in scaled))

    said = clip(optimizer, rates, limit)
    after = [weight.grad for weight in weights if weight.grad is not None]
    assert said == pytest.approx(norm(before), rel=1e-4)
    if limit is None or said <= limit:
        assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    else:
        assert norm(after) == pytest.approx(limit, rel=1e-4)
        for a, b in zip(after, before, strict=True):
            torch.testing.assert_close(a, b * (limit / said), rtol=1e-4, atol=0)


def test_the_norm_means_the_same_for_any_scale_of_the_embeddings() -> None:
    """An embedding c times smaller has a gradient c times larger, and a rate c times smaller."""
    norms = []
    for scale in (0.02, 1.0, 50.0):
        weight = nn.Parameter(torch.zeros(3))
        weight.grad = torch.tensor([1.0, 2.0, 3.0]) / scale
        norms.append(clip(torch.optim.SGD([weight], lr=1.0), [0.1 * scale], 1.0))
    assert norms == [pytest.approx(norms[0], rel=1e-5)] * 3


def test_nan_is_reported_and_not_clipped() -> None:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([math.nan, 1.0])
    assert math.isnan(clip(torch.optim.SGD([weight], lr=1.0), [1.0], 1.0))


def test_a_loss_that_reaches_no_parameter_is_refused() -> None:
    with pytest.raises(TrainingError, match="SP-E521"):
        clip(torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=1.0), [1.0], 1.0)


# Schedules

plans = {
    "total": st.integers(1, 400),
    "warmup": st.floats(0, 0.99),
    "name": st.sampled_from(["constant", "linear", "cosine"]),
}


@given(**plans)
def test_a_schedule_rises_to_the_whole_rate_and_then_only_falls(total: int, warmup: float, name: Any) -> None:
    section = OptimSection(schedule=name, warmup=warmup)
    shares = [factor(section, step, total) for step in range(total)]
    top = int(warmup * total)
    assert all(0 < share <= 1 for share in shares)
    assert all(a < b for a, b in pairwise(shares[: top + 1]))
    assert shares[top] == 1.0
    assert all(a >= b for a, b in pairwise(shares[top:]))
    if name == "constant":
        assert set(shares[top:]) == {1.0}


@given(**plans)
def test_schedules_end_near_nothing(total: int, warmup: float, name: Any) -> None:
    left = total - int(warmup * total)
    last = factor(OptimSection(schedule=name, warmup=warmup), total - 1, total)
    expected = {"constant": 1.0, "linear": 1 / left, "cosine": 0.5 * (1 - math.cos(math.pi / left))}[name]
    assert last == pytest.approx(expected, rel=1e-9)
