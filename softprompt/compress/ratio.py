"""How many vectors to keep, predicted from one scoring pass instead of being tried by training.

XPrompt (Ma et al. 2022, arXiv:2210.04457) trains once for each of nine ratios and keeps what is best on dev. Each
predictor here reads one number off the trained prompt; `benchmarks/compress_regret.py` scores them by regret.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

ALLOWED = 0.02  # share of the loss that the Taylor estimate may add
OPEN = 0.5  # a gate that is kept
MEASURED = "measured"  # no prediction: every size of a grid is scored, and the smallest that is good enough is kept
DEFAULT = MEASURED  # until benchmarks/compress_regret.py has decided otherwise (docs/compress.md)
MASS = 0.9  # share of the prompt's attention, or of the importance, that is kept


@dataclass(frozen=True)
class Pass:
    """What one scoring pass leaves: everything that predictors read."""

    products: Tensor  # [N, P] float64, <dL(x)/dp_i, p_i> of every example
    loss: float  # mean over the same examples
    vectors: Tensor  # [P, H]
    attention: Tensor | None = None  # [P], mean share of each vector over layers; None where it cannot be seen
    gates: Tensor | None = None  # [P], from 0 to 1 (`compress.gates`); None where none were learned

    @property
    def importance(self) -> Tensor:
        """XPrompt's importance of every vector, [P]."""
        return self.products.abs().mean(0)

    @property
    def order(self) -> list[int]:
        """Vectors from the most important to the least."""
        order: list[int] = self.importance.argsort(descending=True, stable=True).tolist()
        return order


def knee(found: Pass) -> int:
    """Vectors up to the knee of the cumulative importance: where it is furthest above the straight line.

    Satopaa et al. 2011, "Finding a Kneedle in a Haystack", for a curve that is concave by construction.
    """
    curve = found.importance.sort(descending=True).values.cumsum(0)
    if curve[-1] <= 0:
        return len(curve)
    share = torch.arange(1, len(curve) + 1, dtype=torch.float64) / len(curve)
    return int((curve / curve[-1] - share).argmax()) + 1


def taylor(found: Pass) -> int:
    """The fewest vectors for which the estimated loss stays within ALLOWED of the whole prompt's."""
    limit = ALLOWED * found.loss
    for count in range(1, len(found.order)):
        if expected(found, found.order[count:]) <= limit:
            return count
    return len(found.order)


def expected(found: Pass, gone: list[int]) -> float:
    """The estimated change of the mean loss when the vectors `gone` become zero.

    Second order in the mask: -sum_i g_i + 1/2 sum_i h_i, with the mean product as g_i and, for the curvature, the
    diagonal of the Gauss-Newton matrix, which for a log loss is the Fisher matrix: the mean square of the products.
    Deviation: by the given labels and not by labels drawn from the model, so it is the empirical Fisher matrix.
    """
    away = found.products[:, gone]
    return float(-away.mean(0).sum() + 0.5 * away.square().mean(0).sum())


def effective_rank(found: Pass) -> int:
    """The effective rank of the vectors, rounded up: exp of the entropy of their normalised singular values.

    Roy, Vetterli 2007, "The effective rank: a measure of effective dimensionality".
    """
    return min(len(found.vectors), max(1, int(-(-effective(found.vectors) // 1))))


def effective(vectors: Tensor) -> float:
    """The effective rank of vectors [P, H], a number from 1 to P."""
    sizes = torch.linalg.svdvals(vectors.double())
    shares = sizes / sizes.sum().clamp(min=1e-300)
    return float(torch.special.entr(shares).sum().exp())


def attention_mass(found: Pass) -> int:
    """The fewest vectors that hold MASS of what the prompt is attended to; all of them where that cannot be seen."""
    if found.attention is None:
        return len(found.vectors)
    mass = found.attention.sort(descending=True).values.cumsum(0)
    return min(len(mass), int((mass < MASS * mass[-1] - 1e-12).sum()) + 1)


def open_gates(found: Pass) -> int:
    """The vectors whose learned gate is more than half open, one at least; all of them where none were learned."""
    if found.gates is None:
        return len(found.vectors)
    return max(1, int((found.gates > OPEN).sum()))


PREDICTORS: dict[str, Callable[[Pass], int]] = {
    "knee": knee,
    "taylor": taylor,
    "effective-rank": effective_rank,
    "attention": attention_mass,
    "gates": open_gates,
}


def predicted(found: Pass) -> dict[str, int]:
    """How many vectors every predictor would keep."""
    return {name: predict(found) for name, predict in PREDICTORS.items()}
