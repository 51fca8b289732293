"""Which trained prompt a new task should start from: by task similarity, and by what each is worth before any training.

SPoT (Vu et al. 2022, arXiv:2110.07904, section 4.2) ranks sources by the similarity of their prompts to one trained
on the target for as many steps from the same start. Beside it stands what can be measured without training: the loss
of each source on the target's dev examples, against the untrained prompt and the bare model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.metrics import Difference, paired
from softprompt.plan import Plan, make_plan
from softprompt.prompt import without_prompt
from softprompt.recipe import Recipe
from softprompt.run import Listener
from softprompt.stages import stage
from softprompt.training import open_backbone, set_threads
from softprompt.transfer.early import briefly, embedded
from softprompt.transfer.paired import losses, readable
from softprompt.transfer.similarity import Similarity, similarity
from softprompt.transfer.sources import Source, adopt, cautions, distinct, fitting, placed
from softprompt.untrained import build

Order = Literal["loss", "similarity"]
STEPS = 100  # of the short training of the target, where the sources were trained for longer


@dataclass(frozen=True)
class Rank:
    """One source: how near its task is, and what its prompt is worth as it stands."""

    source: Source
    similar: Similarity
    loss: float | None = None  # on the target's dev examples, before any training; None: the head is still untrained
    gains: dict[str, Difference] = field(default_factory=dict)  # how much less than each reference it loses

    @property
    def helps(self) -> bool:
        """Whether it loses less than every reference, beyond the ± of each."""
        return bool(self.gains) and all(gain.difference > gain.error for gain in self.gains.values())

    def order(self, by: Order) -> tuple[float, float]:
        """What ranks: the loss where there is one, then the similarity of all pairs of vectors; or this alone."""
        loss = float("inf") if self.loss is None or by == "similarity" else self.loss
        return (loss, -self.similar.per_token)

    def as_dict(self) -> dict[str, Any]:
        """The rank as plain values."""
        gains = {name: gain._asdict() for name, gain in self.gains.items()}
        facts = {"source": self.source.name, "path": self.source.artifact.where, "steps": self.source.steps}
        return facts | self.similar._asdict() | {"loss": self.loss, "less_than": gains, "helps": self.helps}


@dataclass(frozen=True)
class Suggestion:
    """Sources, the best first, and what they were measured against."""

    ranks: list[Rank]
    references: dict[str, float]  # dev loss of the untrained prompt and of the bare model
    refused: dict[str, str]  # sources that the target cannot start from, and why
    notes: list[str]
    steps: int  # of the short training
    examples: int  # of dev

    @property
    def best(self) -> Rank | None:
        """The first source that helps; None where nothing does."""
        return next((rank for rank in self.ranks if rank.helps), None)

    @property
    def sentence(self) -> str:
        """What to do, in one sentence."""
        if not self.references:
            first = self.ranks[0].source.name
            return f"{first} is nearest; nothing was measured, because the head of the target is still to be trained"
        if self.best is None:
            names = " and ".join(f"the {name}" for name in self.references)
            return f"nothing helps: no source loses less than {names} beyond its ±; train from scratch"
        return f"{self.best.source.name} helps: it loses less than every reference, beyond the ±"

    def as_dict(self) -> dict[str, Any]:
        """The suggestion as plain values."""
        best = self.best and self.best.source.name
        facts: dict[str, Any] = {
            "ranks": [rank.as_dict() for rank in self.ranks],
            "best": best,
            "references": self.references,
        }
        facts |= {"refused": self.refused, "notes": self.notes, "steps": self.steps, "dev_examples": self.examples}
        return facts | {"answer": self.sentence}


def suggest(
    recipe: Recipe,
    sources: Sequence[Source],
    folder: str | Path,
    *,
    steps: int | None = None,
    early: bool = False,
    by: Order = "loss",
    backbone: Backbone | None = None,
    listen: Listener = lambda event: None,
) -> Suggestion:
    """Rank sources for the task of a recipe; the short training on the target goes to `folder/probe`.

    It takes `steps`, or as many as the sources had, at most `STEPS`. With `early`, every source's task is trained for
    as many from the same start, in `folder/early`, and similarity is that of these states, as in the paper. What the
    recipe leaves open (method, start, seed) is taken from the first source. Raises `SoftpromptError` SP-E621 where the
    target can start from no source, SP-E620 for a method whose prompts have no common space, `RecipeError` SP-E852 for
    the same source twice. `by` is what ranks; whether a source helps, its loss says. No test example is looked at.
    """
    backbone = backbone or open_backbone(recipe)
    set_threads(recipe)
    distinct(sources)
    recipe = adopt(recipe, sources, backbone)
    plan = make_plan(recipe, backbone)
    found, refused = fitting(plan, sources, backbone)
    known = [source.steps for source in found if source.steps]  # 0: a prompt that was moved, not trained
    count = steps or min([STEPS, *known])
    probe = stage(briefly(recipe, count), Path(folder) / "probe", backbone=backbone, listen=listen)
    target = Artifact.load(probe.artifact)
    states, stale = embedded(plan, found, count, Path(folder) / "early", backbone, listen) if early else ({}, {})
    near = {source.name: similarity(target, states.get(source.name, source.artifact)) for source in found}
    ranks, references = measured(plan, found, near, backbone)
    ranks.sort(key=lambda rank: rank.order(by))
    later = [source for source in found if source.name not in states]
    notes = [*remarks(later, target, count), *cautions(plan, found)]
    notes += [f"no early state of {name}, so its prompt is compared as it is: {why}" for name, why in stale.items()]
    return Suggestion(ranks, references, refused, notes, count, len(plan.dev))


def measured(
    plan: Plan, sources: Sequence[Source], near: dict[str, Similarity], backbone: Backbone
) -> tuple[list[Rank], dict[str, float]]:
    """Every source with its loss on dev and its lead over the references; without, where the head must be trained."""
    untrained = build(plan, backbone)
    if not readable(untrained):
        return [Rank(source, near[source.name]) for source in sources], {}
    size = 2 * plan.recipe.train.batch_size
    beside = {
        "untrained prompt": losses(untrained, plan.dev, size),
        "bare model": losses(without_prompt(untrained), plan.dev, size),
    }
    ranks = []
    for source in sources:
        own = losses(placed(plan, source.path, backbone), plan.dev, size)
        gains = {name: paired(values, own) for name, values in beside.items()}
        ranks.append(Rank(source, near[source.name], mean(own), gains))
    return ranks, {name: mean(values) for name, values in beside.items()}


def mean(values: Sequence[float]) -> float:
    """The mean of some numbers."""
    return sum(values) / len(values)


def remarks(sources: Sequence[Source], target: Artifact, steps: int) -> list[str]:
    """Why similarities may say less than they seem to: sources of another start, or trained for longer."""
    own = Source("target", target).start
    other = [source.name for source in sources if source.start != own]
    longer = [source.name for source in sources if source.steps is not None and source.steps != steps]
    unknown = [source.name for source in sources if source.steps is None]
    notes = []
    if other:
        notes.append(f"began elsewhere than the probe, so similarity says less: {', '.join(other)}")
    if longer:
        notes.append(f"not trained for {steps} steps as the probe was, so similarity says less: {', '.join(longer)}")
    if unknown:
        notes.append(f"the card does not say for how many steps: {', '.join(unknown)}")
    return notes


__all__ = ["STEPS", "Order", "Rank", "Suggestion", "suggest"]
