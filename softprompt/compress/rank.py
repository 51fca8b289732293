"""Prompts of lower rank: two factors in the place of the vectors, fewer bytes, as many places in the text.

The best approximation of a rank (Eckart, Young 1936), stored as method `dpt` stores what it trains: [P, R] and [R, H].
"""

from typing import Any

from torch import Tensor

from softprompt.core import Start
from softprompt.methods import find
from softprompt.prompt import Prompt


def low_rank(prompt: Prompt, vectors: Tensor, rank: int) -> Prompt:
    """The prompt with its vectors [P, H] as two factors of a rank; raises `ValueError` for a rank that none has."""
    decomposed: Any = find("dpt")
    method = decomposed(prompt.backbone.spec, Start(vectors.float()), rank=rank)
    return Prompt(prompt.backbone, method, prompt.head, prompt.template, prompt.task).eval()


def saves(vectors: Tensor, rank: int) -> bool:
    """Whether the factors have fewer numbers than the vectors [P, H]."""
    length, hidden = vectors.shape
    return rank * (length + hidden) < length * hidden
