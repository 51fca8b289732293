"""How typical an example is of its class, in its own task and in similar ones: what counts in transferable learning.

Wang et al. 2021 (TransPrompt), EMNLP 2021, weigh examples by their closeness to prototypes. Reconstructed: the released
code takes a softmax over the batch of a hand-built distance, so that a weight depends on its neighbours. Here, with
q_m(y | x) the softmax over classes of cos(x, c_my) and c_my the mean state of class y in task m,
w = a q_m(y | x) + (1 - a) mean_{n != m} q_n(y | x), scaled to a mean of 1. States are those of the bare frozen
backbone, so prototypes never move; their overall mean is taken off, because states of one model all lie on one side.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def prototypes(states: Tensor, classes: Tensor, count: int) -> Tensor:
    """The mean state [C, H] of every class, of states [N, H] and classes [N]; zero for a class without examples."""
    sums = states.new_zeros(count, states.shape[1]).index_add(0, classes, states)
    return sums / torch.bincount(classes, minlength=count).clamp(min=1)[:, None]


def typical(states: Sequence[Tensor], classes: Sequence[Tensor], count: int, share: float) -> list[Tensor]:
    """The weight of every example of every task, [N] each, with a mean of 1; `share` is a, of the task's own."""
    center = torch.cat(list(states)).mean(0)
    centred = [own - center for own in states]
    known = [prototypes(own, labels, count) for own, labels in zip(centred, classes, strict=True)]
    made = []
    for m, (own, labels) in enumerate(zip(centred, classes, strict=True)):
        near = [chance(own, one).gather(1, labels[:, None])[:, 0] for one in known]
        others = [one for n, one in enumerate(near) if n != m]
        weight = share * near[m] + (1 - share) * torch.stack(others).mean(0)
        made.append(weight / weight.mean())
    return made


def chance(states: Tensor, known: Tensor) -> Tensor:
    """The softmax [N, C] over classes of the cosines of states [N, H] with prototypes [C, H]."""
    return (F.normalize(states, dim=1) @ F.normalize(known, dim=1).T).softmax(-1)


__all__ = ["prototypes", "typical"]
