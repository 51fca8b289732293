"""Prompts with fewer vectors, or with vectors of fewer pieces: what is least important goes, nothing is trained again.

Ma et al. 2022, XPrompt, arXiv:2210.04457, section 4, without its rewinding; `softprompt prune` trains the rest again.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from softprompt.core import Example
from softprompt.prompt import Prompt
from softprompt.pruning import importance, masked, narrowed, strongest
from softprompt.vectors import variant


def strongest_first(scores: Tensor, keep: int) -> list[bool]:
    """Which of P vectors to keep: the `keep` highest scores [P], earlier ones of equals."""
    kept = torch.zeros(len(scores), dtype=torch.bool)
    kept[scores.argsort(descending=True, stable=True)[:keep]] = True
    return kept.tolist()


def tokens(prompt: Prompt, vectors: Tensor, scores: Tensor, keep: int) -> Prompt:
    """The prompt with the `keep` vectors that score highest, each where it stood; the others' slots are gone."""
    kept = strongest_first(scores, keep)
    return variant(prompt, vectors[torch.tensor(kept)], kept)


def pieces(prompt: Prompt, vectors: Tensor, examples: Sequence[Example], count: int, ratio: float) -> Prompt:
    """The prompt with that share of its pieces (`count` equal ones a vector) at zero; vectors without one are gone.

    Saves no bytes by itself: zeros are stored as any other number.
    """
    scores = importance(variant(prompt, vectors), examples, count)
    mask = narrowed(torch.ones_like(scores, dtype=torch.bool), strongest(scores, ratio))
    kept = mask.any(1)
    return variant(prompt, masked(vectors, mask)[kept], kept.tolist())
