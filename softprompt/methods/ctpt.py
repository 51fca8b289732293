"""CTPT: a prompt that attends to prompts of other tasks, with all that is trained in a space of few dimensions.

Xu, Zeng, Shen 2023, "Efficient Cross-Task Prompt Tuning for Few-Shot Conversational Emotion Recognition", Findings of
EMNLP 2023, arXiv:2310.14614. The paper could not be read: this is reconstructed from its abstract and from descriptions
of others (attention across task prompts, dimension reduction, no gradients) on the base of black-box tuning (Sun et al.
2022, arXiv:2201.03514: p = A z + p_0 with a fixed random A). `transfer.blackbox` trains it without gradients.
"""

import torch
from torch import Tensor, nn
from typing_extensions import override

from softprompt.core import Batch, Injection, Spec, Start
from softprompt.methods.base import Group, Method
from softprompt.methods.prompt_tuning import PromptTuning


class CrossTask(Method):
    """z [2 k + 1] is trained; stored as the vectors P = P_t + c MHA(P_t, sources) [P, H] that it makes.

    P_t = p_0 + A z_1 with z_1 [k]; queries, keys and values of the attention are the vectors times gains 1 + B z_2, for
    `heads` heads; c is the last number of z. `dimension` is k, `seed` that of A and B. At z = 0, P is the start. Raises
    `ValueError` where H cannot be divided into the heads, or for a dimension below 1.
    """

    paper = 'Xu, Zeng, Shen 2023, "Efficient Cross-Task Prompt Tuning ...", 2310.14614 (reconstructed)'
    summary = "P vectors that attend to prompts of other tasks, from a few dozen numbers; trainable without gradients"
    borrows = True

    def __init__(self, spec: Spec, start: Start, *, dimension: int = 32, heads: int = 4, seed: int = 0) -> None:
        super().__init__(spec, start)
        if dimension < 1 or heads < 1 or spec.hidden % heads:
            raise ValueError(
                f"dimension={dimension}, which must be positive; heads={heads} for a width of {spec.hidden}"
            )
        self.dimension, self.heads, self.seed = dimension, heads, seed
        given = start.embeds.new_zeros(0, *start.embeds.shape) if start.sources is None else start.sources
        self.z = nn.Parameter(torch.zeros(2 * dimension + 1))
        # Not saved: what is stored is the vectors. A and B follow from the seed.
        self.register_buffer("first", start.embeds.clone(), persistent=False)  # p_0
        self.register_buffer("library", given.flatten(0, 1).clone(), persistent=False)  # [N P, H]
        generator = torch.Generator().manual_seed(seed)
        scale = dimension**-0.5  # so that z of unit scale moves a vector by as much as an embedding, a gain by 1
        moves = torch.randn(start.embeds.numel(), dimension, generator=generator) * scale * spec.rms
        self.register_buffer("moves", moves, persistent=False)  # A
        gains = torch.randn(3 * spec.hidden, dimension, generator=generator) * scale
        self.register_buffer("gains", gains, persistent=False)  # B

    @override
    def forward(self, batch: Batch, text: Tensor) -> Injection:
        return Injection(embeds=self.product()[None])

    def product(self) -> Tensor:
        """The prompt vectors [P, H] that the model reads."""
        own = self.get_buffer("first") + (self.get_buffer("moves") @ self.z[: self.dimension]).view(self.length, -1)
        return own + self.z[-1] * self.attended(own) if len(self.get_buffer("library")) else own

    def attended(self, own: Tensor) -> Tensor:
        """What vectors [P, H] read of all vectors of all sources, [P, H], head by head.

        Queries and keys are seen at unit scale, so that shares mean the same on every backbone.
        """
        library, width = self.get_buffer("library"), own.shape[1] // self.heads
        query, key, value = 1 + (self.get_buffer("gains") @ self.z[self.dimension : -1]).view(3, -1)
        q, k = (x / x.square().mean(1, keepdim=True).sqrt().clamp_min(1e-12) for x in (own, library))
        q, k, v = (x.unflatten(1, (self.heads, width)).transpose(0, 1) for x in (q * query, k * key, library * value))
        shares = (q @ k.transpose(1, 2) / width**0.5).softmax(-1)  # [heads, P, N P]
        read: Tensor = (shares @ v).transpose(0, 1).flatten(1)
        return read

    @override
    def groups(self) -> list[Group]:
        return [Group([self.z], 1.0)]

    @override
    def fold(self) -> Method:
        return PromptTuning(self.spec, Start(self.product().detach().clone()))

    @property
    @override
    def length(self) -> int:
        return len(self.get_buffer("first"))
