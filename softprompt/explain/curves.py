"""How fast a prompt loses what it can when its vectors are moved: by noise, by scale, towards words, by swapping."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from softprompt.core import Example
from softprompt.prompt import Prompt
from softprompt.vectors import measure, variant

NOISE = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)  # in units of each vector's own rms
SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
TOWARDS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
DRAWS = 3  # directions of noise


def noise(prompt: Prompt, vectors: Tensor, examples: Sequence[Example], metric: str) -> list[dict[str, Any]]:
    """Loss and score with Gaussian noise of so many times each vector's rms; means over DRAWS directions."""
    rms = vectors.square().mean(1, keepdim=True).sqrt()
    points = []
    for level in NOISE:
        found = []
        for seed in range(DRAWS if level else 1):
            drawn = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(seed))
            found.append(point(prompt, vectors + level * rms * drawn, examples, metric, level))
        points.append(mean(found))
    return points


def scale(prompt: Prompt, vectors: Tensor, examples: Sequence[Example], metric: str) -> list[dict[str, Any]]:
    """Loss and score with all vectors times a factor: whether direction alone matters."""
    return [point(prompt, vectors * factor, examples, metric, factor) for factor in SCALES]


def towards(
    prompt: Prompt, vectors: Tensor, other: Tensor, examples: Sequence[Example], metric: str
) -> list[dict[str, Any]]:
    """Loss and score on the straight line from the vectors to `other` [P, H]."""
    return [point(prompt, torch.lerp(vectors, other, way), examples, metric, way) for way in TOWARDS]


def swap(
    prompt: Prompt, vectors: Tensor, other: Tensor, examples: Sequence[Example], metric: str
) -> list[dict[str, Any]]:
    """Loss and score with vector i of another task's prompt `other` [P', H] in the place of ours, one i at a time.

    Last of all, `at` -1: with all that both have. What both tasks need survives the swap; what one needs does not.
    """
    count = min(len(vectors), len(other))
    found = []
    for i in range(count):
        changed = vectors.clone()
        changed[i] = other[i]
        found.append(point(prompt, changed, examples, metric, i))
    every = torch.cat([other[:count], vectors[count:]])
    return [*found, point(prompt, every, examples, metric, -1)]


def point(prompt: Prompt, vectors: Tensor, examples: Sequence[Example], metric: str, at: float) -> dict[str, Any]:
    """What the prompt scores with these vectors."""
    found = measure(variant(prompt, vectors), examples, metric, draws=2)
    return {"at": at, "loss": found.loss, "score": None if found.score is None else found.score.value}


def mean(points: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of points at one place, and how far apart they are."""
    losses = [one["loss"] for one in points]
    scores = [one["score"] for one in points if one["score"] is not None]
    return {
        "at": points[0]["at"],
        "loss": sum(losses) / len(losses),
        "score": sum(scores) / len(scores) if scores else None,
        "spread": max(scores or losses) - min(scores or losses),
    }
