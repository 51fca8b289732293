"""Decomposed prompt tuning: a prompt matrix of low rank.

Xiao, Xu, Li, Lu, Li 2023, "Decomposed Prompt Tuning via Low-Rank Reparameterization", arXiv:2310.10094, section 3:
P = A B with A [P, R] and B [R, H]. Not to be confused with DePT (`dept`), which has the same words in its title.
"""

import torch
from torch import Tensor, nn
from typing_extensions import override

from softprompt.core import Batch, Injection, Spec, Start
from softprompt.methods.base import Group, Method
from softprompt.methods.prompt_tuning import PromptTuning

USUAL = 10  # the paper's rank, for prompts of 100 vectors


class DecomposedPromptTuning(Method):
    """Two factors of the prompt, `left` [P, R] and `right` [R, H]; stored as their product.

    `rank` is R; 0 means 10, as in the paper, or the length of a shorter prompt. Raises `ValueError` for a rank that no
    prompt of this length has.
    """

    paper = 'Xiao, Xu, Li, Lu, Li 2023, "Decomposed Prompt Tuning via Low-Rank Reparameterization", 2310.10094'
    summary = "P vectors of low rank among the input embeddings"

    def __init__(self, spec: Spec, start: Start, *, rank: int = 0) -> None:
        super().__init__(spec, start)
        most = min(start.embeds.shape)
        if not 0 <= rank <= most:
            raise ValueError(f"rank={rank}, which must be from 1 to {most} here (0: chosen)")
        self.rank = rank
        left, right = factors(start.embeds, rank or min(USUAL, most))
        self.left, self.right = nn.Parameter(left), nn.Parameter(right)

    @override
    def forward(self, batch: Batch, text: Tensor) -> Injection:
        return Injection(embeds=self.product()[None])

    def product(self) -> Tensor:
        """The prompt vectors [P, H] that the model reads."""
        return self.left @ self.right

    @override
    def groups(self) -> list[Group]:
        # A step of either factor then moves the product by about as much as the same rate moves a plain prompt.
        share = self.right.shape[0] ** -0.5
        return [Group([self.left], 1.0), Group([self.right], self.spec.rms * share)]

    @override
    def fold(self) -> Method:
        return PromptTuning(self.spec, Start(self.product().detach()))

    @property
    @override
    def length(self) -> int:
        return len(self.left)


@torch.no_grad()
def factors(prompt: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A [P, R] and B [R, H] whose product is the best approximation of `prompt` [P, H] of that rank (Eckart, Young).

    Deviation: the paper draws both uniformly from [-0.5, 0.5], which fits the scale of no backbone. The columns of A
    have unit scale here, and B carries that of the embeddings.
    """
    u, sizes, v = torch.linalg.svd(prompt.double(), full_matrices=False)
    scale = len(prompt) ** 0.5
    left, right = u[:, :rank] * scale, sizes[:rank, None] * v[:rank] / scale
    return left.to(prompt.dtype), right.to(prompt.dtype)
