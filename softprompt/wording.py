"""From scores of class words to scores of classes: several words a class, a prior to take off, label vectors.

Of several words, either the mean of their log-probabilities decides (Hu et al. 2022, "Knowledgeable Prompt-tuning",
arXiv:2108.02035, equation 5) or the sum of their probabilities. A prior is what the classes score where there is no
text; its logarithm is subtracted (Zhao et al. 2021, "Calibrate Before Use", arXiv:2102.09690, section 5).
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

Join = Literal["mean", "sum"]
SCALE = 0.125  # a logit is some eight times as large as a state, which rates of heads are made for


class Wording(nn.Module):
    """What a verbalizer makes of word scores [B, E], the first C of which are those of the classes' own words.

    `more[c]` are further words of class c (as tokens), `prior` C log-probabilities, `rows` tokens whose output
    embeddings label vectors are made of. Raises `ValueError` for another number of any of them, or another join.
    """

    def __init__(
        self,
        classes: int,
        more: Sequence[Sequence[list[int]]] = (),
        join: Join = "mean",
        prior: Sequence[float] = (),
        rows: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if join not in get_args(Join) or len(more) not in (0, classes) or len(prior) not in (0, classes):
            raise ValueError(f"join {join!r}, more words for {len(more)} and a prior for {len(prior)} of {classes}")
        self.classes, self.join, self.prior = classes, join, list(prior)
        self.more, self.rows = [[list(word) for word in own] for own in more], list(rows)
        owner = [*range(classes), *(c for c, own in enumerate(self.more) for _ in own)]
        self.register_buffer("owner", torch.tensor(owner), persistent=False)  # [E]
        self.register_buffer("log_prior", torch.tensor(prior or [0.0] * classes), persistent=False)  # [C]
        self.register_buffer("index", torch.tensor(self.rows, dtype=torch.long), persistent=False)  # [N]
        self.change = nn.Parameter(torch.zeros(classes, len(self.rows))) if self.rows else None

    def forward(self, scores: Tensor) -> Tensor:
        """Log-probabilities of the classes [B, C] from log-probabilities (or logits) of all their words [B, E]."""
        if self.more:
            scores = self.joined(scores)
        scores = scores.log_softmax(-1)
        return (scores - self.get_buffer("log_prior")).log_softmax(-1) if self.prior else scores

    def joined(self, scores: Tensor) -> Tensor:
        """One score a class [B, C]: the mean of its words' log-probabilities, or the log of the sum of them."""
        member = self.get_buffer("owner") == torch.arange(self.classes, device=scores.device)[:, None]  # [C, E]
        if self.join == "sum":
            return scores[:, None].masked_fill(~member, -torch.inf).logsumexp(-1)
        return (scores[:, None] * member).sum(-1) / member.sum(-1)

    def moved(self, logits: Tensor) -> Tensor:
        """How far label vectors are from the class words: what their change adds to the scores [B, C].

        With hidden state x and output embeddings W, a vector w_c + d_c scores x·w_c + x·d_c. The change d_c is made of
        the rows' output embeddings less their mean, so x·d_c can be read from the logits [B, V]: no model has to be
        opened for it, and with as many rows as the width of W it can be any vector.
        """
        assert self.change is not None
        chosen = logits[:, self.get_buffer("index")]
        return SCALE * (chosen - chosen.mean(-1, keepdim=True)) @ self.change.T

    def options(self) -> dict[str, Any]:
        """The arguments beside the number of classes, as far as they differ from the defaults."""
        given = {"more": self.more, "join": self.join, "prior": self.prior, "rows": self.rows}
        return {name: value for name, value in given.items() if value and value != "mean"}


__all__ = ["Join", "Wording"]
