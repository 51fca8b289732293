"""IDPG: a small network makes a prompt of its own for every row.

Wu, Wang, Gu, Hou, Dong, Vydiswaran, Ma 2022, "IDPG: An Instance-Dependent Prompt Generation Method", NAACL 2022,
arXiv:2204.04497, section 3: P(x) = W2 relu(W1 x + b1) + b2, plain or with PHM layers (Zhang et al. 2021, 2102.08597).
"""

import torch
from torch import Tensor, nn
from typing_extensions import override

from softprompt.core import Batch, Injection, Spec, Start
from softprompt.methods.base import Group, Method, network_unit
from softprompt.methods.smop import mean_embedding, reads_text


class IDPG(Method):
    """A generator with M = `bottleneck` hidden units; its last bias b2 [P, H] is the prompt that all rows share.

    With `phm` = n both weights are sums of n Kronecker products A_i (x) B_i, the A_i [n, n] shared by the two layers;
    n must divide M, H and P H. Raises `ValueError` where it does not, `Unsupported` for images.
    """

    paper = 'Wu, Wang, Gu, Hou, Dong, Vydiswaran, Ma 2022, "IDPG: An Instance-Dependent ...", 2204.04497'
    summary = "P vectors that a bottleneck network makes of the row's mean embedding"

    def __init__(self, spec: Spec, start: Start, *, bottleneck: int = 16, phm: int = 0) -> None:
        super().__init__(spec, start)
        reads_text(spec)
        self.bottleneck, self.phm = bottleneck, phm
        n, width, out = max(1, phm), spec.hidden, start.embeds.numel()
        if bottleneck < 1 or phm < 0 or bottleneck % n or width % n or out % n:
            raise ValueError(f"phm={phm} must divide bottleneck={bottleneck}, {width} and {out}")
        self.mixing = nn.Parameter(torch.randn(n, n, n) / n**0.5) if phm else None  # A
        # Deviation: W1 begins at zero and b1 above it, so that every row begins at the given vectors, all hidden units
        # are active, and every parameter has a gradient from the first step (W2 = 0 would leave W1 without one).
        self.inner = nn.Parameter(torch.zeros(n, bottleneck // n, width // n))  # W1, or its B_i
        self.inner_bias = nn.Parameter(torch.rand(bottleneck))
        outer = (torch.rand(n, out // n, bottleneck // n) * 2 - 1) * bottleneck**-0.5 * spec.rms
        self.outer = nn.Parameter(outer)  # W2, or its B_i
        constant = self.inner_bias.detach() @ self.weight(self.outer).detach().T
        self.shared = nn.Parameter(start.embeds - constant.view_as(start.embeds))  # b2

    @override
    def forward(self, batch: Batch, text: Tensor) -> Injection:
        # The generator sees embeddings at unit scale: those of rms 0.02 would hardly move it.
        mean = mean_embedding(batch, text) / self.spec.rms
        hidden = nn.functional.linear(mean, self.weight(self.inner), self.inner_bias).relu()
        made = hidden @ self.weight(self.outer).T
        return Injection(embeds=made.view(-1, *self.shared.shape) + self.shared)

    def weight(self, parts: Tensor) -> Tensor:
        """The matrix that a layer multiplies by: the sum of A_i (x) B_i, or B_1 alone."""
        if self.mixing is None:
            return parts[0]
        whole = torch.einsum("iab,icd->acbd", self.mixing, parts)
        return whole.reshape(whole.shape[0] * whole.shape[1], -1)

    @override
    def groups(self) -> list[Group]:
        wide, narrow = network_unit(self.spec.hidden), network_unit(self.bottleneck)
        made = [
            Group([self.inner, self.inner_bias], wide),
            Group([self.outer], narrow * self.spec.rms),
            Group([self.shared], self.spec.rms),
        ]
        return made if self.mixing is None else [*made, Group([self.mixing], self.phm**-0.5)]

    @property
    @override
    def length(self) -> int:
        return len(self.shared)
