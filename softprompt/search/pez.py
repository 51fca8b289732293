"""PEZ: continuous vectors that are moved by the gradient at their nearest tokens.

Wen et al. 2023, arXiv:2302.03668, algorithm 1.
"""

from collections.abc import Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from softprompt.core import Example
from softprompt.search.candidates import Ids
from softprompt.search.operator import Operator
from softprompt.search.score import Scorer

RATE = 0.3  # the paper's for language models, here in units of the embedding rms
DECAY = (0.9, 0.99)


class Pez(Operator):
    """P [N, H] moves along the gradient taken at proj(P), the nearest tokens by angle; every proj(P) is proposed.

    The walk does not depend on what is accepted. Deviations: Adam with one scale for all coordinates, not Adafactor: to
    divide each coordinate by its own gradient turns the direction, and the angle is all that chooses a token; the
    candidates of a step are scored exactly, because the loss along the walk is not monotone.
    """

    name = "pez"
    paper = 'Wen et al. 2023, "Hard Prompts Made Easy", 2302.03668'
    summary = "vectors moved by the gradient at their nearest tokens"
    count = 8

    def __init__(self, scorer: Scorer, at: Ids) -> None:
        super().__init__(scorer, at)
        self.vectors = scorer.table[list(at)].float().clone()
        self.mean, self.square = torch.zeros_like(self.vectors), torch.zeros(())
        self.steps = 0

    @override
    def price(self, passes: int, count: int) -> int:
        return 2 * passes * count

    @override
    def propose(self, at: Ids, examples: Sequence[Example], count: int, rng: Random) -> list[Ids]:
        made: list[Ids] = []
        for _ in range(count):
            near = self.candidates.nearest(self.vectors, self.scorer.table)
            # Where near does not survive as text, its vectors stand in the rows of `at`, which does.
            slope, _ = self.scorer.slope(at, examples, self.scorer.table[list(near)])
            self.move(slope.float())
            made.append(self.candidates.nearest(self.vectors, self.scorer.table))
        return made

    def move(self, slope: Tensor) -> None:
        """One step, in units of the embeddings' own size, along the mean gradient divided by its size."""
        self.steps += 1
        first, second = DECAY
        self.mean = first * self.mean + (1 - first) * slope
        self.square = second * self.square + (1 - second) * slope.square().mean().cpu()
        mean, square = self.mean / (1 - first**self.steps), self.square / (1 - second**self.steps)
        unit = RATE * self.scorer.prompt.backbone.spec.rms
        self.vectors = self.vectors - unit * mean / (square.sqrt().to(mean.device) + 1e-12)

    @override
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {"vectors": self.vectors, "mean": self.mean, "square": self.square}
        return {name: value.detach().cpu() for name, value in tensors.items()}, {"steps": self.steps}

    @override
    def load(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        device = self.vectors.device
        self.vectors, self.mean = tensors["vectors"].to(device), tensors["mean"].to(device)
        self.square = tensors["square"]
        self.steps = facts["steps"]
