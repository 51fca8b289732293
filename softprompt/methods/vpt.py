"""Visual prompt tuning: vectors beside the patches of an image, new ones in every layer (deep) or at the input alone.

Jia, Tang, Chen, Cardie, Belongie, Hariharan, Lim 2022, "Visual Prompt Tuning", arXiv:2203.12119, section 3.2: the
layers read [CLS; P; patches], positions are added to patches alone; deep: layer i reads its own P_i in place of what
layer i - 1 made of P_{i-1} (equation 6).
"""

import torch
from torch import Tensor, nn
from typing_extensions import override

from softprompt.core import Batch, Injection, Spec, Start
from softprompt.errors import Unsupported
from softprompt.methods.base import Group, Method


class VisualPromptTuning(Method):
    """P vectors in each of L layers; with `deep=False`, P vectors at the input, which the layers go on with.

    `dropout` acts on the vectors in training (paper: 0.1 where deep, 0 where not). Raises `Unsupported` for text: there
    shallow is prompt tuning, and no text family takes hidden states at every layer.
    """

    paper = 'Jia, Tang, Chen, Cardie, Belongie, Hariharan, Lim 2022, "Visual Prompt Tuning", 2203.12119'
    summary = "P vectors after CLS, new ones in every layer; for images"
    slots = False
    default_init = "random"
    default_head = "classifier"

    def __init__(self, spec: Spec, start: Start, *, deep: bool = True, dropout: float = 0.0) -> None:
        super().__init__(spec, start)
        if spec.kind != "vision":
            do = "use prompt_tuning or prefix"
            raise Unsupported("SP-E410", f"method vpt on a {spec.kind} model", "a model of images", do)
        self.deep, self.dropout, self.slots = deep, dropout, not deep
        self.unit = rms(start.embeds)
        layers = [start.embeds]
        for _ in range(spec.layers - 1 if deep else 0):
            layers.append(torch.empty_like(start.embeds).uniform_(-1, 1) * self.unit * 3**0.5)
        self.prompts = nn.Parameter(torch.stack(layers))  # [L, P, H]; [1, P, H] where shallow
        self.drop = nn.Dropout(dropout)

    @classmethod
    @override
    def stands_in_text(cls, options: dict[str, object]) -> bool:
        return options.get("deep") is False

    @classmethod
    @override
    def starts_from_keys(cls, options: dict[str, object]) -> bool:
        return False  # deep or not, it begins at vectors

    @override
    def forward(self, batch: Batch, text: Tensor) -> Injection:
        made = self.drop(self.prompts)
        return Injection(deep=tuple(made.split(1))) if self.deep else Injection(embeds=made)

    @override
    def groups(self) -> list[Group]:
        return [Group([self.prompts], self.unit)]

    @property
    @override
    def length(self) -> int:
        return self.prompts.shape[1]


def rms(made: Tensor) -> float:
    """The scale of vectors [P, H]; never 0, so that a rate in this unit moves something."""
    return max(1e-6, made.square().mean().sqrt().item())
