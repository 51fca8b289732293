"""ATTEMPT: a prompt of its own, and a mixture of frozen prompts of other tasks, weighed anew for every row.

Asai, Salehi, Peters, Hajishirzi 2022, "ATTEMPT: Parameter-Efficient Multi-task Tuning via Attentional Mixtures of Soft
Prompts", arXiv:2205.11961, section 3: P(x) = P' + sum_j a_j P_j over the N sources and P' itself. a is the softmax of
the products of h = LayerNorm(W_up silu(W_down x)) with the keys; x and the keys are maxima over tokens and vectors.
"""

import torch
from torch import Tensor, nn
from typing_extensions import override

from softprompt.core import Batch, Injection, Spec, Start
from softprompt.methods.base import Group, Method, network_unit
from softprompt.methods.smop import reads_text


class Attempt(Method):
    """A prompt P' [P, H] and an attention network, which are trained, and sources [N, P, H], which are only stored.

    `sources` is N; 0: as many as the start brings. A method that is about to be loaded is given the number alone.
    `bottleneck` is the width of the network, `temperature` what scores are divided by. Raises `ValueError` where the
    start brings another number of sources, `Unsupported` for images.
    """

    paper = 'Asai, Salehi, Peters, Hajishirzi 2022, "ATTEMPT: ... Attentional Mixtures of Soft Prompts", 2205.11961'
    summary = "P vectors, and a mixture of frozen prompts of other tasks that an attention network weighs by the row"
    borrows = True

    def __init__(
        self, spec: Spec, start: Start, *, sources: int = 0, bottleneck: int = 100, temperature: float = 1.0
    ) -> None:
        super().__init__(spec, start)
        reads_text(spec)
        if bottleneck < 1 or temperature <= 0:
            raise ValueError(f"bottleneck={bottleneck}, which must be positive, as temperature={temperature}")
        given = start.embeds.new_zeros(sources, *start.embeds.shape) if start.sources is None else start.sources
        if sources not in (0, len(given)):
            raise ValueError(f"sources={sources}, but {len(given)} source prompts")
        self.sources, self.bottleneck, self.temperature = len(given), bottleneck, temperature
        self.prompt = nn.Parameter(start.embeds.clone())  # P'
        # P_1..P_N, saved because rows read them. A survey asks a method without any; files hold no empty tensor.
        self.register_buffer("library", given.clone(), persistent=len(given) > 0)
        self.down = nn.Linear(spec.hidden, bottleneck, bias=False)
        self.up = nn.Linear(bottleneck, spec.hidden, bias=False)
        self.norm = nn.LayerNorm(spec.hidden)  # trained, as the paper counts it; the authors' code leaves it frozen

    @override
    def forward(self, batch: Batch, text: Tensor) -> Injection:
        candidates = torch.cat([self.get_buffer("library"), self.prompt[None]])  # [N + 1, P, H]
        shares = self.shares(self.query(largest(batch, text)), keys(candidates))
        return Injection(embeds=self.prompt + torch.einsum("bn,nph->bph", shares, candidates))

    def query(self, x: Tensor) -> Tensor:
        """What a row looks for, h [B, H], from the maximum of its embeddings [B, H], which is seen at unit scale."""
        made: Tensor = self.norm(self.up(nn.functional.silu(self.down(x.to(self.up.weight.dtype) / self.spec.rms))))
        return made

    def shares(self, query: Tensor, key: Tensor) -> Tensor:
        """How much of every candidate a row reads, [B, N + 1]; a row sums to 1.

        Deviation: the paper divides raw products by d e, which fits the prompts of T5 (rms 50) and makes all shares
        alike elsewhere. Queries and keys of unit scale, divided by sqrt(H), mean the same on every backbone.
        """
        scores: Tensor = query @ key.T / (self.temperature * query.shape[1] ** 0.5)
        return scores.softmax(-1)

    @override
    def groups(self) -> list[Group]:
        return [
            Group([self.prompt], self.spec.rms),
            Group([*self.down.parameters(), *self.norm.parameters()], network_unit(self.spec.hidden)),
            Group(list(self.up.parameters()), network_unit(self.bottleneck)),
        ]

    @property
    @override
    def length(self) -> int:
        return len(self.prompt)


def keys(candidates: Tensor) -> Tensor:
    """The maximum [N, H] over the vectors of every candidate [N, P, H], at unit root mean square."""
    key = candidates.amax(1)
    return key / key.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12)


def largest(batch: Batch, text: Tensor) -> Tensor:
    """The maximum [B, H] of the frozen embeddings of what a row asks; zero where it asks nothing.

    Deviation: the authors' code takes it over padding too, so that a row depends on the longest in its batch. An answer
    that is being taught does not count either: it is not there when the answer is yet to be written.
    """
    asked = batch.question[..., None]
    most = text.float().masked_fill(~asked, -torch.inf).amax(1)
    return most.masked_fill(~asked.any(1), 0.0)
