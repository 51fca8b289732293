"""A prompt moved to another backbone, by a map that was learned from prompts of other tasks on both.

Su et al. 2022, "On Transferability of Prompt Tuning for Natural Language Processing", arXiv:2111.06719, train a
projector so that projected prompts come near to those of the other model. Deviation: theirs is a network, trained by
gradient; a handful of tasks decides no network, so ours is ridge regression, vector by vector, in closed form, and its
strength is chosen by leaving one task out.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.errors import SoftpromptError
from softprompt.files import write_atomically
from softprompt.plan import make_plan
from softprompt.recipe import Recipe
from softprompt.sections import MethodSection
from softprompt.stages import fingerprint
from softprompt.training import open_backbone, set_threads
from softprompt.transfer.controls import Measured, measured
from softprompt.transfer.similarity import plain
from softprompt.transfer.sources import Source, copied
from softprompt.untrained import build

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # shares of the largest squared singular value
Pair = tuple[Tensor, Tensor]  # vectors of one task on both backbones, [P, H] and [P, G]


@dataclass(frozen=True)
class Projector:
    """y = (x - `center`) `weight` + `target`: from vectors [P, H] of one backbone to [P, G] of another."""

    weight: Tensor  # [H, G]
    center: Tensor  # [H], the mean vector of the pairs on the first backbone
    target: Tensor  # [G], on the second
    ridge: float
    explained: float  # the share of what the nearer of two `means` leaves of a task left out; negative: worse than that

    def __call__(self, vectors: Tensor) -> Tensor:
        """The vectors [P, G] that stand for some [P, H] on the other backbone."""
        return (vectors.double() - self.center) @ self.weight + self.target


@dataclass(frozen=True)
class Projected:
    """A moved prompt, and what it is worth beside its controls on dev, before any training."""

    path: Path
    projector: Projector
    measured: Measured
    pairs: int

    @property
    def helps(self) -> bool:
        """Whether it loses less than every control, beyond the ± of each, and answers better than the majority."""
        return self.measured.helps

    @property
    def sentence(self) -> str:
        """What came of it, in one sentence."""
        if self.helps:
            return "the moved prompt helps: it is ahead of every control, beyond the ±"
        return "the moved prompt does not help: it is not ahead of every control beyond the ±; train from scratch"

    def as_dict(self) -> dict[str, Any]:
        """The outcome as plain values."""
        facts = {"prompt": str(self.path), "pairs": self.pairs, "ridge": self.projector.ridge}
        facts |= {"explained": self.projector.explained} | self.measured.as_dict()
        return facts | {"helps": self.helps, "answer": self.sentence}


def project(
    recipe: Recipe,
    prompt: Source,
    pairs: Sequence[tuple[Source, Source]],
    folder: str | Path,
    *,
    backbone: Backbone | None = None,
) -> Projected:
    """Move a prompt to the backbone of the recipe, whose data are those of the prompt's task; nothing is trained on.

    `pairs` are prompts of other tasks, each trained on the backbone of `prompt` and on the new one. The prompt goes to
    `folder/prompt.safetensors`, a copy of all that it came from to `folder/sources`. Raises `SoftpromptError` SP-E710
    for pairs that no projector can learn from, SP-E711 for a head whose loss says nothing before it is trained.
    """
    place = Path(folder)
    backbone = backbone or open_backbone(recipe)
    set_threads(recipe)
    check(prompt, pairs, backbone)
    projector = fit([(vectors(first), vectors(second)) for first, second in pairs])
    made = projector(vectors(prompt)).float()
    plan = make_plan(recipe.model_copy(update={"method": MethodSection(length=len(made))}), backbone)
    moved, mean = build(plan, backbone), build(plan, backbone)
    moved.method.load_state_dict({"prompt": made})
    targets = [vectors(second) for _, second in pairs]
    same = all(target.shape == made.shape for target in targets)
    if same:
        mean.method.load_state_dict({"prompt": torch.stack(targets).mean(0).float()})
    found = measured(moved, plan, {"mean of the pairs": mean} if same else {})
    parents = tuple(copied(one, place / "sources").name for one in (prompt, *(one for pair in pairs for one in pair)))
    facts = {"metric": plan.recipe.task.metric, "dev": [{"step": 0, "loss": found.loss}]}
    path = place / "prompt.safetensors"
    Artifact.of(moved, plan.recipe.shared(), facts, parents).save(path)
    outcome = Projected(path, projector, found, len(pairs))
    write_atomically(place / "project.json", json.dumps(outcome.as_dict(), indent=1).encode())
    return outcome


def vectors(source: Source) -> Tensor:
    """The vectors [P, H] of a prompt, float64; raises `SoftpromptError` SP-E710 for keys and values."""
    found = plain(source.artifact)
    if found.keys() != {"prompt"}:
        raise refused(f"keys and values in {source.name}", "vectors among the input embeddings", "train prompt_tuning")
    return found["prompt"]


def check(prompt: Source, pairs: Sequence[tuple[Source, Source]], backbone: Backbone) -> None:
    """Raise `SoftpromptError` SP-E710 where a projector could not be learned, or would have seen the answer."""
    if len(pairs) < 2:
        raise refused(f"{len(pairs)} pairs", "two or more, so that one can be left out", "train other tasks on both")
    home, own = prompt.artifact.card.backbone.fingerprint, fingerprint(prompt.artifact)
    for first, second in pairs:
        if first.artifact.card.backbone.fingerprint != home:
            raise refused(f"{first.name} of another backbone", f"that of {prompt.name}", "put it first in its pair")
        second.artifact.check_backbone(backbone)
        if len(vectors(first)) != len(vectors(second)):
            raise refused(f"lengths of {first.name} and {second.name}", "the same", "train both with one length")
        if fingerprint(first.artifact) == own:
            raise refused(f"{prompt.name} among the pairs", "prompts of other tasks", "leave that pair out")


def refused(found: str, expected: str, do: str) -> SoftpromptError:
    """Pairs that a projector cannot learn from."""
    return SoftpromptError("SP-E710", found, expected, do)


def fit(pairs: Sequence[Pair]) -> Projector:
    """The projector of all pairs, with the ridge that predicts a pair best from the others."""
    errors = dict.fromkeys(RIDGES, 0.0)
    alone = [0.0, 0.0]
    for i, (x, y) in enumerate(pairs):
        others = [*pairs[:i], *pairs[i + 1 :]]
        for ridge in RIDGES:
            errors[ridge] += float((solve(others, ridge)(x) - y).square().sum())
        found = means([b for _, b in others], like=y)
        alone = [left + float((mean - y).square().sum()) for left, mean in zip(alone, found, strict=True)]
    best = min(RIDGES, key=lambda ridge: (errors[ridge], -ridge))
    return solve(pairs, best, 1 - errors[best] / min(alone) if min(alone) else 0.0)


def means(targets: Sequence[Tensor], *, like: Tensor) -> tuple[Tensor, Tensor]:
    """What knows nothing of a task: the mean vector [G], and the mean prompt [P, G] where all have the shape of `like`.

    Prompts that began at one text stay near to it, so that any map of that text is far ahead of the mean vector.
    """
    vector = torch.cat(list(targets)).double().mean(0)
    if any(target.shape != like.shape for target in targets):
        return vector, vector
    return vector, torch.stack(list(targets)).double().mean(0)


def solve(pairs: Sequence[Pair], ridge: float, explained: float = 0.0) -> Projector:
    """Ridge regression of the second vectors on the first ones, both without their means."""
    x, y = (torch.cat(parts).double() for parts in zip(*pairs, strict=True))
    center, target = x.mean(0), y.mean(0)
    left, values, right = torch.linalg.svd(x - center, full_matrices=False)
    shrunk = values / (values.square() + ridge * values.square().max().clamp(min=1e-30))
    weight = right.T @ (shrunk[:, None] * (left.T @ (y - target)))
    return Projector(weight, center, target, ridge, explained)


__all__ = ["RIDGES", "Projected", "Projector", "fit", "project", "solve"]
