"""How near two tasks are, read from their trained prompts.

Vu, Lester, Constant, Al-Rfou, Cer 2022, "SPoT: Better Frozen Model Adaptation through Soft Prompt Transfer",
arXiv:2110.07904, section 4.1: the prompt of a task, after a fixed number of steps from the same start, is its
embedding; tasks are compared by the cosine of averaged vectors, or by the mean cosine over all pairs of vectors.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from softprompt.artifact import Artifact
from softprompt.errors import SoftpromptError

STACK = ("stacks.", ".prefix")


class Similarity(NamedTuple):
    """Two cosines of two prompts, each from -1 to 1."""

    averaged: float  # of the mean vectors
    per_token: float  # the mean over all pairs of vectors


def plain(artifact: Artifact) -> dict[str, Tensor]:
    """The vectors [P, H], or the keys and values [L, 2, K, P, D] by stack, in the scale that the model reads; float64.

    Raises `SoftpromptError` SP-E620 for prompts that hold anything else: networks and factors have no common space.
    """
    stored = artifact.method_tensors()
    if stored.keys() == {"prompt"}:
        return {"prompt": stored["prompt"].double()}
    sides = [name for name in sorted(stored) if name.startswith(STACK[0]) and name.endswith(STACK[1])]
    units = {name: name.removesuffix("prefix") + "unit" for name in sides}
    if not sides or stored.keys() - set(sides) - set(units.values()):
        found = f"{', '.join(sorted(stored))[:120]} in {artifact.where or 'a prompt'}"
        raise SoftpromptError("SP-E620", found, "plain vectors, or keys and values", "use prompts that are stored so")
    return {name: stored[name].double() * stored.get(units[name], torch.ones(())).double() for name in sides}


def embedding(artifact: Artifact) -> Tensor:
    """The vectors of a prompt [P, F] float64: embeddings, or keys and values of all layers side by side.

    Raises `SoftpromptError` SP-E620 as `plain` does.
    """
    parts = [x if x.dim() == 2 else x.permute(3, 0, 1, 2, 4).flatten(1) for x in plain(artifact).values()]
    return torch.cat(parts, 1)


def similarity(first: Artifact, second: Artifact) -> Similarity:
    """Both cosines of two prompts; raises `SoftpromptError` SP-E620 where they are not of one space."""
    a, b = embedding(first), embedding(second)
    facts = [
        ("backbone", first.card.backbone.fingerprint, second.card.backbone.fingerprint),
        ("vectors", space(first), space(second)),
    ]
    for what, mine, theirs in facts:
        if mine != theirs:
            found = f"{what} {str(theirs)[:80]} in {second.where or 'the second prompt'}"
            expected = f"{str(mine)[:80]}, as in {first.where or 'the first'}"
            raise SoftpromptError("SP-E620", found, expected, "compare prompts of one backbone, method and length")
    return Similarity(averaged(a, b), per_token(a, b))


def space(artifact: Artifact) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """What the vectors of a prompt are: the names and shapes of its tensors."""
    return tuple((name, tuple(value.shape)) for name, value in plain(artifact).items())


def averaged(a: Tensor, b: Tensor) -> float:
    """The cosine of the mean vectors of [P, F] and [P, F]."""
    return float(F.cosine_similarity(a.mean(0), b.mean(0), dim=0))


def per_token(a: Tensor, b: Tensor) -> float:
    """The mean over i and j of cos(a_i, b_j), in O(P F): the sum of inner products is the inner product of sums."""
    return float(F.normalize(a, dim=1).mean(0) @ F.normalize(b, dim=1).mean(0))


__all__ = ["Similarity", "averaged", "embedding", "per_token", "plain", "similarity", "space"]
