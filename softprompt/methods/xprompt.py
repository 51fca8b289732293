"""XPrompt: prompt vectors that are cut into pieces, of which only the useful ones are kept.

Ma et al. 2022, "XPrompt: Exploring the Extreme of Prompt Tuning", EMNLP, arXiv:2210.04457, section 4: hierarchical
structured pruning, P = zeta * P with one zeta for each of k equal pieces of a vector, then training from the rewound P.
This file is the masked prompt; `softprompt.pruning` finds the masks.
"""

import torch
from torch import Tensor, nn
from typing_extensions import override

from softprompt.core import Batch, Injection, Spec, Start
from softprompt.methods.base import Method
from softprompt.methods.prompt_tuning import PromptTuning


class XPrompt(Method):
    """P vectors [P, H] in the slots of the text, each in `pieces` equal pieces; those that `keep` leaves out are zero.

    `keep` has a word for each vector and a digit for each piece ("1101 0111": two vectors of four pieces); empty: all.
    There is no mask for whole vectors: one of zeros would still be attended to, so a pruned vector is one that is not
    there (`method.length`), and a word without a 1 is a `ValueError`, as is a `keep` or `pieces` that does not fit.
    """

    paper = 'Ma, Zhang, Ren, Wang, Wang, Wu, Quan, Song 2022, "XPrompt", EMNLP, 2210.04457'
    summary = "P vectors among the input embeddings, pruned by importance (`softprompt prune`)"

    def __init__(self, spec: Spec, start: Start, *, pieces: int = 16, keep: str = "") -> None:
        super().__init__(spec, start)
        length, hidden = start.embeds.shape
        if pieces < 1 or hidden % pieces:
            raise ValueError(f"pieces={pieces} does not divide the {hidden} numbers of a vector")
        self.pieces, self.keep = pieces, keep
        # Not saved: `keep` says the same. Repeated over coordinates, [P, H], because every forward wants it so.
        mask = read(keep, length, pieces).repeat_interleave(hidden // pieces, 1)
        self.register_buffer("mask", mask, persistent=False)
        # Zeros from the start, and not only in the forward pass, so that weight decay has nothing to move either.
        self.prompt = nn.Parameter(start.embeds * mask)

    @override
    def forward(self, batch: Batch, text: Tensor) -> Injection:
        return Injection(embeds=self.masked()[None])

    def masked(self) -> Tensor:
        """The vectors [P, H] that the model reads. The product also keeps gradients from pruned pieces."""
        return self.prompt * self.get_buffer("mask")

    @override
    def fold(self) -> Method:
        return PromptTuning(self.spec, Start(self.masked().detach()))

    @property
    @override
    def length(self) -> int:
        return len(self.prompt)


def read(keep: str, length: int, pieces: int) -> Tensor:
    """The mask [P, pieces] of 0. and 1. that a text such as "1101 0111" means; raises `ValueError` for any other."""
    words = keep.split() or ["1" * pieces] * length
    if len(words) != length or any(len(word) != pieces or set(word) - {"0", "1"} for word in words):
        raise ValueError(f"keep must be {length} words of {pieces} digits 0 or 1")
    if not all("1" in word for word in words):
        raise ValueError("a vector without a piece would still be attended to: take it out of keep and of the length")
    return torch.tensor([[float(digit) for digit in word] for word in words])
