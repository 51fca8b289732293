"""Residual prompt tuning: prompt vectors, each with a small network around it that is discarded after training.

Razdaibiedina, Mao, Hou, Khabsa, Lewis, Ba, Almahairi 2023, "Residual Prompt Tuning: Improving Prompt Tuning with
Residual Reparameterization", arXiv:2305.03937, section 3: P'_i = P_i + LayerNorm(W_up relu(W_down P_i)).
"""

import torch
from torch import Tensor, nn
from typing_extensions import override

from softprompt.core import Batch, Injection, Spec, Start
from softprompt.methods.base import Group, Method, network_unit
from softprompt.methods.prompt_tuning import PromptTuning


class ResidualPromptTuning(Method):
    """Vectors P [P, H] and one network for all of them, or with `separate` one for each; stored as P' [P, H] alone."""

    paper = 'Razdaibiedina, Mao, Hou, Khabsa, Lewis, Ba, Almahairi 2023, "Residual Prompt Tuning", 2305.03937'
    summary = "P vectors among the input embeddings, with an MLP and a skip connection around them in training"

    def __init__(self, spec: Spec, start: Start, *, bottleneck: int = 800, separate: bool = False) -> None:
        super().__init__(spec, start)
        if bottleneck < 1:
            raise ValueError(f"bottleneck={bottleneck}, which must be at least 1")
        self.bottleneck, self.separate = bottleneck, separate
        self.prompt = nn.Parameter(start.embeds.clone())  # P [P, H]
        several = len(start.embeds) if separate else 1
        self.networks = nn.ModuleList(Network(spec, bottleneck) for _ in range(several))
        # Deviation: the paper begins wherever a random network puts the prompt. What it makes of the first P is taken
        # off, so that training begins at the given vectors, and everything has a gradient from the first step.
        self.register_buffer("begin", self.residue().detach())  # [P, H], saved: P' is wrong without it

    @override
    def forward(self, batch: Batch, text: Tensor) -> Injection:
        return Injection(embeds=self.encode()[None])

    def residue(self) -> Tensor:
        """What the networks make of the prompt, [P, H]. They see it at unit scale, whatever that of the embeddings."""
        x = self.prompt / self.spec.rms
        if not self.separate:
            made: Tensor = self.networks[0](x)
            return made
        return torch.stack([network(row) for network, row in zip(self.networks, x, strict=True)])

    def encode(self) -> Tensor:
        """The prompt vectors P' [P, H] that the model reads."""
        return self.prompt + (self.residue() - self.get_buffer("begin"))

    @override
    def groups(self) -> list[Group]:
        networks = [network for network in self.networks if isinstance(network, Network)]
        norms = [weight for network in networks for weight in network.norm.parameters()]
        down = [weight for network in networks for weight in network.down.parameters()]
        up = [weight for network in networks for weight in network.up.parameters()]
        return [
            Group([self.prompt, *norms], self.spec.rms),  # gain and bias of the norm are in the scale of embeddings
            Group(down, network_unit(self.spec.hidden)),
            Group(up, network_unit(self.bottleneck)),
        ]

    @override
    def fold(self) -> Method:
        return PromptTuning(self.spec, Start(self.encode().detach()))

    @property
    @override
    def length(self) -> int:
        return len(self.prompt)


class Network(nn.Module):
    """LayerNorm(W_up relu(W_down x)) of x [..., H].

    The gain begins at the scale of the embeddings: at torch's 1 the network would be faint beside T5's embeddings and
    fifty times as loud as Llama's.
    """

    def __init__(self, spec: Spec, bottleneck: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(spec.hidden, bottleneck), nn.Linear(bottleneck, spec.hidden)
        self.norm = nn.LayerNorm(spec.hidden)
        nn.init.constant_(self.norm.weight, spec.rms)

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape as x."""
        made: Tensor = self.norm(self.up(torch.relu(self.down(x))))
        return made
