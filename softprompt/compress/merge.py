"""Prompts with fewer vectors, of which alike ones are joined instead of thrown away.

Bolya et al. 2023, "Token Merging", ICLR, arXiv:2210.09461, joins tokens of high cosine by their mean, weighed by how
many each stands for. Deviation: one pair at a time, the most alike of all, and weighed by importance.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from softprompt.prompt import Prompt
from softprompt.vectors import variant

LEAST = 1e-12  # the weight of a vector without importance: a mean of none would have no value


def merge(prompt: Prompt, vectors: Tensor, scores: Tensor, keep: int) -> Prompt:
    """The prompt with `keep` vectors, each the weighed mean of a group, in the slot of the group's most important."""
    groups = grouped(vectors, scores, keep)
    weight = scores.double().clamp(min=LEAST)
    heads = {max(group, key=lambda i: (weight[i].item(), -i)): group for group in groups}
    kept = [i in heads for i in range(len(vectors))]
    return variant(prompt, torch.stack([mean(vectors, weight, heads[i]) for i in sorted(heads)]), kept)


def grouped(vectors: Tensor, scores: Tensor, keep: int) -> list[list[int]]:
    """Groups of vectors [P, H]: the two groups whose means are most alike are joined until `keep` are left."""
    weight = scores.double().clamp(min=LEAST)
    groups = [[i] for i in range(len(vectors))]
    while len(groups) > keep:
        means = F.normalize(torch.stack([mean(vectors, weight, group) for group in groups]), dim=1)
        alike = (means @ means.T).fill_diagonal_(-torch.inf)
        first, second = sorted(divmod(int(alike.argmax()), len(groups)))
        groups[first] = groups[first] + groups.pop(second)
    return groups


def mean(vectors: Tensor, weight: Tensor, group: list[int]) -> Tensor:
    """The weighed mean [H] of a group of vectors."""
    shares = weight[group] / weight[group].sum()
    return (shares[:, None] * vectors[group].double()).sum(0).to(vectors.dtype)
