"""Optimisers and schedules for prompts, with rates in units of what they move."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from softprompt.errors import TrainingError
from softprompt.methods import Group
from softprompt.sections import OptimSection


class Adafactor(Optimizer):
    """Adafactor without parameter scaling and with a full second moment.

    Shazeer, Stern 2018, arXiv:1804.04235, as Lester et al. 2021 used it for prompts: decay 1 - t^-0.8, updates clipped
    at a root mean square of 1. Libraries factor every matrix; Lester's code makes an exception for the prompt.
    """

    def __init__(self, groups: list[dict[str, Any]], weight_decay: float = 0.0) -> None:
        super().__init__(groups, {"lr": 1.0, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self.update(weight, group["lr"], group["weight_decay"])

    def update(self, weight: Tensor, lr: float, decay: float) -> None:
        """Compute x <- x - lr * u / max(1, rms(u)), u = g / sqrt(v)."""
        state = self.state[weight]
        if not state:
            state["step"], state["exp_avg_sq"] = torch.zeros(()), torch.zeros_like(weight)
        state["step"] += 1
        beta = 1 - state["step"].item() ** -0.8
        grad = weight.grad
        assert grad is not None
        state["exp_avg_sq"].mul_(beta).add_(grad.square() + 1e-30, alpha=1 - beta)
        move = grad / state["exp_avg_sq"].sqrt()
        move /= move.square().mean().sqrt().clamp(min=1.0)
        weight.mul_(1 - lr * decay).sub_(move, alpha=lr)


def make_optimizer(section: OptimSection, groups: list[Group], head: nn.Module) -> tuple[Optimizer, list[float]]:
    """The optimiser over the method's groups and the head, and the largest absolute rate of each of its groups."""
    assert section.lr != "auto"
    rates = [section.lr * group.unit for group in groups]
    parameters = [group.parameters for group in groups]
    trained = list(head.parameters())
    if trained:  # a step moves every weight by the rate, so a logit by the rate times the width times a mean state
        parameters.append(trained)
        rates.append(section.head_lr / trained[0].shape[-1])
    given = [{"params": group, "lr": rate} for group, rate in zip(parameters, rates, strict=True)]
    if section.name == "adafactor":
        return Adafactor(given, weight_decay=section.weight_decay), rates
    fused = all(weight.device.type in ("cpu", "cuda") for group in parameters for weight in group)  # up to 5 x faster
    return torch.optim.AdamW(given, weight_decay=section.weight_decay, fused=fused), rates


def factor(section: OptimSection, step: int, total: int) -> float:
    """The share of the largest rate at optimiser step `step` (from 0) of `total`."""
    warmup = int(section.warmup * total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    left = (total - step) / max(1, total - warmup)
    if section.schedule == "linear":
        return left
    if section.schedule == "cosine":
        return 0.5 * (1 - torch.cos(torch.tensor(torch.pi * left, dtype=torch.float64)).item())
    return 1.0


def clip(optimizer: Optimizer, rates: list[float], limit: float | None) -> float:
    """Shrink all gradients so that the norm of gradient times rate is at most `limit`; returns that norm before.

    The rate is in it so that it means the same for parameters of any scale: a gradient with respect to an embedding of
    rms 0.02 is fifty times one of rms 1. Raises `TrainingError` where no parameter has a gradient.
    """
    scaled: Iterable[Tensor] = [
        (weight.grad * rate).square().sum()
        for group, rate in zip(optimizer.param_groups, rates, strict=True)
        for weight in group["params"]
        if weight.grad is not None
    ]
    squares = list(scaled)
    if not squares:
        raise TrainingError(
            "SP-E521", "no gradient for any trained parameter", "a prompt that the loss depends on", "check the method"
        )
    norm = float(torch.stack(squares).sum().sqrt())
    if limit is not None and norm > limit:
        for group in optimizer.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.grad.mul_(limit / norm)
    return norm
