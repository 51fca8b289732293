"""Prompt tuning: trainable vectors among the input embeddings.

Lester, Al-Rfou, Constant 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning", arXiv:2104.08691, section 2.
"""

from torch import Tensor, nn
from typing_extensions import override

from softprompt.core import Batch, Injection, Spec, Start
from softprompt.methods.base import Method


class PromptTuning(Method):
    """P vectors in the slots of the text; nothing else is trained."""

    paper = 'Lester, Al-Rfou, Constant 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning", 2104.08691'
    summary = "P vectors among the input embeddings"

    def __init__(self, spec: Spec, start: Start) -> None:
        super().__init__(spec, start)
        self.prompt = nn.Parameter(start.embeds.clone())  # [P, H]

    @override
    def forward(self, batch: Batch, text: Tensor) -> Injection:
        return Injection(embeds=self.prompt[None])

    @property
    @override
    def length(self) -> int:
        return len(self.prompt)
