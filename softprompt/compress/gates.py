"""How much of every prompt vector its task needs, learned: a gate on each, pulled to zero by what a place costs.

Louizos et al. 2018, "Learning Sparse Neural Networks through L0 Regularization", arXiv:1712.01312, trains gates beside
the weights. Deviation: the vectors stay as they are, and the gates are plain numbers from 0 to 1 under an L1 price.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from softprompt.core import Example, Injection, Row
from softprompt.prompt import Prompt
from softprompt.vectors import variant

STEPS, ROWS = 24, 16  # of the training: about as many rows as one pass over a usual dev set
RATE = 0.1
PRICE = 0.1  # of an equal share of what the prompt brings: a vector that brings less loses its gate
LEAST_GAIN = 1e-3  # of the loss: a prompt that brings nothing still pays for its places


def learned(prompt: Prompt, vectors: Tensor, examples: Sequence[Example]) -> Tensor:
    """The gates [P], each from 0 to 1, after STEPS steps of Adam on examples in an order drawn with seed 0."""
    plain = variant(prompt, vectors)
    rows = [plain.row(example) for example in examples]
    gates = torch.ones(len(vectors), requires_grad=True)
    price = PRICE * gain(plain, vectors, rows[:ROWS]) / len(vectors)
    optimizer = torch.optim.Adam([gates], lr=RATE)
    order = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        batch = plain.batch([rows[i] for i in torch.randperm(len(rows), generator=order)[:ROWS].tolist()])
        injected = Injection(embeds=(gates[:, None] * vectors)[None].to(plain.backbone.device))
        loss = plain.loss(batch, injected) / plain.head.count(batch) + price * gates.sum().to(plain.backbone.device)
        optimizer.zero_grad()
        (gates.grad,) = torch.autograd.grad(loss, gates)
        optimizer.step()
        with torch.no_grad():
            gates.clamp_(0, 1)
    return gates.detach()


@torch.no_grad()
def gain(plain: Prompt, vectors: Tensor, rows: list[Row]) -> float:
    """By how much the vectors lower the mean loss of some rows, against vectors of zero."""
    batch = plain.batch(rows)
    losses = [
        plain.loss(batch, Injection(embeds=(factor * vectors)[None].to(plain.backbone.device))).item()
        for factor in (0.0, 1.0)
    ]
    return max(losses[0] - losses[1], LEAST_GAIN * losses[1]) / plain.head.count(batch)
