"""PT-MoE: prompts of low rank that share one factor, mixed by a router.

Li, Su, Collier 2025, "PT-MoE: An Efficient Finetuning Framework for Integrating Mixture-of-Experts into Prompt Tuning",
arXiv:2505.09519, section 3: P(x) = sum_i w_i(x) A_i B, where w keeps the largest share of softmax(W x + b) alone.
"""

import torch
from torch import Tensor, nn
from typing_extensions import override

from softprompt.core import Batch, Injection, Spec, Start
from softprompt.methods.base import Group, Method
from softprompt.methods.smop import Router, mean_embedding


class PTMoE(Method):
    """Factors A [N, P, R] of N experts, one B [R, H] for all, a router with W [N, H] and b [N].

    `rank` 0 is nine tenths of the length, the paper's 36 of 40. Raises `ValueError` for a rank that no prompt has.
    """

    paper = 'Li, Su, Collier 2025, "PT-MoE: An Efficient Finetuning Framework ...", 2505.09519'
    summary = "prompts A_i B of low rank with one B, mixed by a router"
    default_init = "text"

    def __init__(
        self,
        spec: Spec,
        start: Start,
        *,
        experts: int = 2,
        rank: int = 0,
        top_k: int = 1,
        noise: float = 0.01,
        spread: float = 0.01,
    ) -> None:
        super().__init__(spec, start)
        self.experts, self.rank, self.top_k, self.noise, self.spread = experts, rank, top_k, noise, spread
        # Deviation: the bias begins where the mean embedding of the initial text scores 0. From b = 0, what all texts
        # have in common would send them all to one expert, and noise of 0.01 would hardly ever teach another.
        self.router = Router(spec, experts, top_k, noise, center=start.embeds.mean(0))
        left, right = factors(start.embeds, rank or paper_rank(*start.embeds.shape))
        self.unit_left, self.unit_right = (max(x.square().mean().sqrt().item(), 1e-6) for x in (left, right))
        # Deviation: in the paper all A_i begin alike (`spread=0`), and half as large where an undecided router halves.
        apart = torch.randn(experts, *left.shape) * spread * self.unit_left
        self.left = nn.Parameter((left + apart) * self.router.undecided)  # A
        self.right = nn.Parameter(right)  # B

    @override
    def forward(self, batch: Batch, text: Tensor) -> Injection:
        shares = self.router(mean_embedding(batch, text))
        return Injection(embeds=torch.einsum("bn,npr->bpr", shares, self.left) @ self.right)

    @override
    def groups(self) -> list[Group]:
        # Each factor in units of its own scale: a step of one acts on the prompt in proportion to the other.
        left = Group([self.left], self.unit_left * self.router.undecided)
        return [left, Group([self.right], self.unit_right), self.router.group()]

    @property
    @override
    def length(self) -> int:
        return self.left.shape[1]


def paper_rank(length: int, hidden: int) -> int:
    """Nine tenths of the length (the paper: 36 of 40), as far as a prompt of that width can have such a rank."""
    return min(max(1, round(0.9 * length)), hidden)


def factors(embeds: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A [P, R] and B [R, H], the best of that rank: A B is the nearest to `embeds` [P, H] (Eckart and Young)."""
    if not 1 <= rank <= min(embeds.shape):
        raise ValueError(f"rank {rank} of a prompt of {tuple(embeds.shape)}")
    u, sizes, v = torch.linalg.svd(embeds.double(), full_matrices=False)
    root = sizes[:rank].sqrt()
    return (u[:, :rank] * root).float(), (root[:, None] * v[:rank]).float()
