"""Rounded prompts: the vectors of a trained prompt as 8-bit codes with one scale each, a quarter of the bytes.

Symmetric rounding to the nearest of 255 levels, absmax a vector: what Dettmers et al. 2022, "LLM.int8()", NeurIPS,
arXiv:2208.07339, section 2.1, do to rows of activations. `softprompt compress` makes such prompts.
"""

import torch
from torch import Tensor, nn
from typing_extensions import override

from softprompt.core import Batch, Injection, Spec, Start
from softprompt.methods.base import Group, Method

MIDDLE, LEVELS = 128, 127  # the code of zero, and levels on either side of it


class Rounded(Method):
    """P vectors (codes - 128) * scale, with `codes` [P, H] of one byte and `scale` [P, 1].

    Training moves the scales alone: codes are whole numbers and have no gradient.
    """

    paper = 'Dettmers, Lewis, Belkada, Zettlemoyer 2022, "LLM.int8()", NeurIPS, 2208.07339'
    summary = "P vectors among the input embeddings, held in 8 bits (`softprompt compress`)"

    def __init__(self, spec: Spec, start: Start) -> None:
        super().__init__(spec, start)
        codes, scale = encode(start.embeds)
        self.register_buffer("codes", codes)
        self.scale = nn.Parameter(scale)

    @override
    def forward(self, batch: Batch, text: Tensor) -> Injection:
        return Injection(embeds=decode(self.get_buffer("codes"), self.scale)[None])

    @override
    def groups(self) -> list[Group]:
        return [Group([self.scale], self.spec.rms / LEVELS)]  # a step then moves a vector by as much as a plain one

    @property
    @override
    def length(self) -> int:
        return len(self.scale)


@torch.no_grad()
def encode(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [P, H] uint8 and scales [P, 1] float32 of vectors [P, H]; the largest coordinate of each is exact."""
    scale = vectors.float().abs().amax(1, keepdim=True) / LEVELS
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # a vector of zeros has no scale
    return ((vectors.float() / scale).round() + MIDDLE).to(torch.uint8), scale


def decode(codes: Tensor, scale: Tensor) -> Tensor:
    """The vectors [P, H] that codes and scales stand for."""
    return (codes.to(scale.dtype) - MIDDLE) * scale
