"""Multitask prompt tuning: one prompt for several tasks, multiplied for each by a matrix of rank one.

Wang, Panda, Karlinsky, Feris, Sun, Kim 2023, "Multitask Prompt Tuning Enables Parameter-Efficient Transfer Learning",
arXiv:2303.02861, section 3.2: P_k = P* o (u_k v_k^T). For a target task this file is all there is: give it a source
prompt (`init.source`). For source training, `tasks` makes several methods of one P*.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from softprompt.core import Batch, Injection, Spec, Start
from softprompt.methods.base import Group, Method
from softprompt.methods.prompt_tuning import PromptTuning


class MultitaskPromptTuning(Method):
    """A prompt P* [P, H], which tasks may share, and the factors u [P] and v [H] of one task; stored as P_k [P, H].

    `factor_rate` says how many times the rate of P* the factors learn with; 4/3 is the paper's 0.4 beside 0.3. Raises
    `ValueError` where it is not positive.
    """

    paper = 'Wang, Panda, Karlinsky, Feris, Sun, Kim 2023, "Multitask Prompt Tuning Enables ...", 2303.02861'
    summary = "P vectors among the input embeddings, times a matrix of rank one; they may begin at a source prompt"

    def __init__(self, spec: Spec, start: Start, *, factor_rate: float = 4 / 3) -> None:
        super().__init__(spec, start)
        if factor_rate <= 0:
            raise ValueError(f"factor_rate={factor_rate}, which must be more than 0")
        self.factor_rate = factor_rate
        self.shared = nn.Parameter(start.embeds.clone())  # P*
        # Factors at 1 begin at exactly P*. PEFT draws both from N(0, 0.02): their product, of 4e-4, wipes P* out.
        self.row = nn.Parameter(torch.ones(len(start.embeds)))  # u
        self.column = nn.Parameter(torch.ones(spec.hidden))  # v

    @override
    def forward(self, batch: Batch, text: Tensor) -> Injection:
        return Injection(embeds=self.product()[None])

    def product(self) -> Tensor:
        """The prompt vectors P_k [P, H] that the model reads."""
        return self.shared * (self.row[:, None] * self.column)

    @override
    def groups(self) -> list[Group]:
        # Factors are about 1, so a rate moves P_k by as large a share of itself as it would move P* in rms.
        return [Group([self.shared], self.spec.rms), Group([self.row, self.column], self.factor_rate)]

    @override
    def fold(self) -> Method:
        return PromptTuning(self.spec, Start(self.product().detach()))

    def siblings(self, count: int) -> "list[MultitaskPromptTuning]":
        """`count` methods with this P*, the first of them this one; the others begin with factors of 1."""
        start = Start(self.shared.detach())
        made = [self, *(type(self)(self.spec, start, factor_rate=self.factor_rate) for _ in range(count - 1))]
        for method in made[1:]:
            method.shared = self.shared
        return made

    def middle(self, methods: "Sequence[MultitaskPromptTuning]") -> Method:
        """Where a target begins after source training of `methods`, as plain vectors (`mean_prompt`)."""
        return PromptTuning(self.spec, Start(mean_prompt(methods).clone()))

    @property
    @override
    def length(self) -> int:
        return len(self.shared)


def tasks(spec: Spec, start: Start, count: int, *, factor_rate: float = 4 / 3) -> list[MultitaskPromptTuning]:
    """One method a task, each with factors of its own; `shared` of all is the same parameter, whose gradients add up.

    An optimiser over several of them must be given `shared` once: it is alone in the first of `groups()`.
    """
    return MultitaskPromptTuning(spec, start, factor_rate=factor_rate).siblings(count)


@torch.no_grad()
def mean_prompt(methods: Sequence[MultitaskPromptTuning]) -> Tensor:
    """Where a target task begins, [P, H]: P* times the mean factors of the source tasks, which share one P*.

    Deviation: the paper begins at P* and mean factors apart. As one product, stored as a plain prompt, it is the same
    vectors, and the target's factors begin at 1; a step of theirs is then measured in shares of these vectors.
    Factors (c u, v / c) are the same prompt, but not the same mean, so each u is brought to unit rms first.
    """
    scales = [method.row.square().mean().sqrt() for method in methods]
    row = torch.stack([method.row / scale for method, scale in zip(methods, scales, strict=True)]).mean(0)
    column = torch.stack([method.column * scale for method, scale in zip(methods, scales, strict=True)]).mean(0)
    return methods[0].shared * (row[:, None] * column)
