"""DART: template vectors and label vectors that are trained, with a loss that keeps the template fluent.

Zhang, Li, Chen, Deng, Bi, Tan, Huang, Chen 2022, "Differentiable Prompt Makes Pre-trained Language Models Better
Few-shot Learners", arXiv:2108.13161, section 3. Its prompts are rows of the vocabulary that are overwritten; ours are
parameters of their own. The template is here, label vectors are in the head (`softprompt.wording`).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from softprompt.core import IGNORE, Batch, Injection, Lesson, Spec, Start
from softprompt.errors import Unsupported
from softprompt.methods.base import Method
from softprompt.methods.prompt_tuning import PromptTuning

USUAL = 0.5  # of a fluency, the middle of the authors' grid (0, 0.5, 1)


class DART(Method):
    """P vectors in the slots, by default those of a text; label vectors made of `rows` rows of the vocabulary.

    In training the model also predicts the text around the vectors, which counts `fluency` times the class loss: a
    causal model every token from what is before it, an encoder the share `mask` of them that is hidden. None: 0.5
    where the model predicts its text, 0 elsewhere.

    Raises `ValueError` for a fluency or rows below 0 and a share outside (0, 1), `Unsupported` SP-E410 with a fluency
    above 0 on models that predict no text where the vectors stand.
    """

    paper = (
        'Zhang et al. 2022, "Differentiable Prompt Makes Pre-trained Language Models Better Few-shot Learners", '
        "2108.13161"
    )
    summary = "vectors in the template and for the labels, kept fluent"
    default_init = "text"

    def __init__(
        self, spec: Spec, start: Start, *, fluency: float | None = None, mask: float = 0.1, rows: int = 64
    ) -> None:
        super().__init__(spec, start)
        self.fluency, self.mask, self.rows = fluency, mask, rows
        tells = spec.kind in ("causal", "encoder")
        self.weight = (USUAL if tells else 0.0) if fluency is None else fluency
        if self.weight < 0 or rows < 0 or not 0 < mask < 1:
            raise ValueError(f"fluency={fluency}, rows={rows}, mask={mask}; 0 or more, and a share inside (0, 1)")
        if self.weight and not tells:
            found, do = f"a fluency loss on a {spec.kind} model", "set method.options.fluency=0"
            raise Unsupported("SP-E410", found, "a model that predicts the text where the vectors stand", do)
        self.prompt = nn.Parameter(start.embeds.clone())  # [P, H]

    @classmethod
    @override
    def label_rows(cls, options: dict[str, Any]) -> int:
        return int(options.get("rows", 64))

    @override
    def forward(self, batch: Batch, text: Tensor) -> Injection:
        if not self.training or not self.weight:
            return Injection(embeds=self.prompt[None])
        if self.spec.kind == "causal":
            return Injection(embeds=self.prompt[None], lesson=self.weighed(batch, following(batch)))
        labels, offset = hidden(batch, text, self.mask)
        return Injection(embeds=self.prompt[None], lesson=self.weighed(batch, labels), offset=offset)

    def weighed(self, batch: Batch, labels: Tensor) -> Lesson:
        """What each place predicts [B, T], and how much it counts: the mean over a row's tokens, `weight` times."""
        told = labels != IGNORE
        weights = told * (self.weight / told.sum(1, keepdim=True).clamp(min=1))
        return labels, weights

    @override
    def fold(self) -> Method:
        return PromptTuning(self.spec, Start(self.prompt.detach().clone()))

    @property
    @override
    def length(self) -> int:
        return len(self.prompt)


def following(batch: Batch) -> Tensor:
    """The text token that comes next, [B, T] with IGNORE: what a causal model predicts of a text."""
    labels = batch.input_ids.masked_fill(~batch.question, IGNORE)
    follows = batch.mask[:, :-1] & batch.mask[:, 1:]
    return F.pad(labels[:, 1:].masked_fill(~follows, IGNORE), (0, 1), value=IGNORE)


def hidden(batch: Batch, text: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Which tokens an encoder has to guess, [B, T] with IGNORE, and what hides them, [B, T, H].

    A place is hidden by moving its embedding to that of the mask token, which stands where the answer goes; where no
    answer is asked for, nothing is hidden.
    """
    asked = torch.zeros_like(batch.mask) if batch.labels is None else batch.labels != IGNORE  # [B, T]
    drawn = torch.rand(batch.input_ids.shape, device=text.device) < share
    chosen = drawn & batch.question & ~asked & asked.any(1, keepdim=True)
    mask = text[torch.arange(len(text), device=text.device), asked.int().argmax(1)]  # [B, H]
    offset = (mask[:, None] - text) * chosen[..., None]
    return batch.input_ids.masked_fill(~chosen, IGNORE), offset
