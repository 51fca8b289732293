"""A prompt that starts from a source, beside one that does not: same budget, one pass, and a paired test.

SPoT (Vu et al. 2022, arXiv:2110.07904, sections 3 and 4.2): best of the top k, the average of the top k weighted by
similarity, or one prompt trained on a mixture of them. A part of what SPoT gains is longer training, since a source had
steps of its own; they are reported.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.errors import SoftpromptError, TrainingError
from softprompt.files import write_atomically
from softprompt.methods import find
from softprompt.plan import Plan, make_plan
from softprompt.recipe import Recipe, load_recipe
from softprompt.run import Listener
from softprompt.sections import MethodSection
from softprompt.stages import fingerprint
from softprompt.sweep import train_all
from softprompt.sweep.results import Entry
from softprompt.training import open_backbone, set_threads
from softprompt.transfer.mixture import CAP, pretrain
from softprompt.transfer.paired import Compared, compare
from softprompt.transfer.similarity import plain, space
from softprompt.transfer.sources import Source, adopt, cautions, copied, distinct, fitting, starting_from
from softprompt.transfer.suggest import Order, Suggestion, suggest

Combine = Literal["best", "average", "mixture"]
SCRATCH = "scratch"


@dataclass(frozen=True)
class Transferred:
    """The prompt from a source and its control, on the same test examples."""

    folder: Path
    scratch: Entry
    members: list[Entry]  # each from a source, or the one from several
    chosen: Entry  # the best of them on dev
    test: Compared  # chosen against scratch
    steps: dict[str, int | None]  # that each source had before
    suggestion: Suggestion | None = None
    refused: dict[str, str] = field(default_factory=dict)  # sources that the target cannot start from, and why
    notes: list[str] = field(default_factory=list)

    @property
    def kept(self) -> Entry:
        """The prompt to use: that from a source only where its lead is more than chance."""
        return self.chosen if self.test.verdict == "gain" else self.scratch

    @property
    def sentence(self) -> str:
        """What came of it, in one sentence."""
        found = f"{self.test.difference:+.3f} ±{self.test.error:.3f} (p = {self.test.p:.2g}, n = {self.test.n})"
        answers = {
            "gain": f"gain: {self.chosen.name} is ahead of scratch by {found}",
            "no gain": f"no gain: keep the scratch prompt; {self.chosen.name} is {found} from it",
            "harm": f"negative transfer: keep the scratch prompt; {self.chosen.name} is {found} from it",
        }
        return answers[self.test.verdict]

    def as_dict(self) -> dict[str, Any]:
        """The outcome as plain values."""
        facts: dict[str, Any] = {"run": str(self.folder), "scratch": self.scratch.as_dict()}
        facts |= {"from_sources": [entry.as_dict() for entry in self.members], "best_on_dev": self.chosen.name}
        facts |= {"paired_test": self.test.as_dict(), "steps_of_sources": self.steps, "keep": self.kept.name}
        facts |= {"prompt": str(self.kept.prompt), "answer": self.sentence}
        facts |= {"refused": self.refused, "notes": self.notes}
        return facts | ({"suggestion": self.suggestion.as_dict()} if self.suggestion else {})


def transfer(
    recipe: Recipe,
    sources: Sequence[Source],
    folder: str | Path,
    *,
    top_k: int | None = None,
    early: bool = False,
    by: Order = "loss",
    combine: Combine = "best",
    cap: int = CAP,
    backbone: Backbone | None = None,
    listen: Listener = lambda event: None,
) -> Transferred:
    """Train the recipe from sources and from scratch in one pass, and test the difference on the test examples.

    `top_k` ranks the sources first (`suggest`, with `early` and `by`) and takes the best. `combine`: a member for each
    source, of which dev chooses one; or one member from their average (weighted by similarity where they were ranked);
    or one from a prompt trained on a mixture of their tasks with the target. A method that reads several prompts
    (`attempt`, `ctpt`) has one member with all of them, beside plain vectors. A repeated call goes on where it was
    stopped. Raises `SoftpromptError` SP-E621 and SP-E622 for sources that cannot be started from, or not so combined,
    `RecipeError` SP-E852 for the same one twice.
    """
    place = Path(folder)
    backbone = backbone or open_backbone(recipe)
    set_threads(recipe)
    distinct(sources)
    recipe = adopt(recipe, sources, backbone)
    several = find(recipe.method.name).borrows
    alone = by_itself(recipe) if several else recipe
    plan = make_plan(alone, backbone)
    (found, refused), ranked = fitting(plan, sources, backbone), None
    if top_k is not None:
        ranked = suggest(alone, found, place / "suggest", early=early, by=by, backbone=backbone, listen=listen)
        found = [rank.source for rank in ranked.ranks[:top_k]]
    starts = {source.name: copied(source, place / "sources") for source in found}
    if combine == "average":
        starts = {"average": average(found, weights(found, ranked), place / "sources" / "average.safetensors")}
    if combine == "mixture":
        starts = {"mixture": mixture(alone, found, place / "mixture", cap, backbone, listen)}
    members = {f"from-{name}": starting_from(recipe, path) for name, path in starts.items()}
    if several:
        init = recipe.init.model_copy(update={"sources": tuple(map(str, starts.values()))})
        members = {"from-all": recipe.model_copy(update={"init": init})}
    swept = train_all({SCRATCH: alone} | members, place / "runs", backbone=backbone, listen=listen)
    steps = {source.name: source.steps for source in found}
    made = judged(place, plan, backbone, swept.entries, steps, ranked)
    made = replace(made, refused=refused, notes=cautions(plan, found))
    write_atomically(place / "transfer.json", json.dumps(made.as_dict(), indent=1).encode())
    return made


def by_itself(recipe: Recipe) -> Recipe:
    """The control of a method that reads other prompts: as many plain vectors, on the same budget."""
    init = recipe.init.model_copy(update={"sources": ()})
    return recipe.model_copy(update={"method": MethodSection(length=recipe.method.length), "init": init})


def judged(
    place: Path,
    plan: Plan,
    backbone: Backbone,
    entries: Sequence[Entry],
    steps: dict[str, int | None],
    ranked: Suggestion | None,
) -> Transferred:
    """The members of a pass, the first the control, as an outcome.

    Raises `TrainingError` where the control or every other member broke off.
    """
    scratch, *others = entries
    done = [entry for entry in others if entry.report is not None]
    if scratch.report is None or not done:
        error = (scratch.error if scratch.report is None else others[0].error) or {}
        raise TrainingError(error["code"], error["found"], error["expected"], error["do"], where=str(place))
    chosen = max(done, key=lambda entry: entry.key)  # on dev: test has no part in the choice
    moved, control = (Artifact.load(entry.prompt).bind(backbone) for entry in (chosen, scratch))
    return Transferred(place, scratch, others, chosen, compare(moved, control, plan), steps, ranked)


def weights(sources: Sequence[Source], ranked: Suggestion | None) -> list[float]:
    """How much each source counts in an average: its similarity where they were ranked, else the same."""
    if ranked is None:
        return [1.0] * len(sources)
    near = {rank.source.name: max(0.0, rank.similar.per_token) for rank in ranked.ranks}
    found = [near[source.name] for source in sources]
    if not sum(found):
        expected, do = "one that is similar to the target", "use --combine best"
        raise SoftpromptError("SP-E622", "no source of positive similarity to average", expected, do)
    return found


def average(sources: Sequence[Source], shares: Sequence[float], path: Path) -> Path:
    """A prompt whose vectors are the weighted mean of those of sources, written to `path`.

    Vectors of different prompts can be averaged only where they began at the same place: else vector i of one has
    nothing to do with vector i of the other. Raises `SoftpromptError` SP-E622 where their cards say otherwise, or
    where they differ in shape.
    """
    first = sources[0]
    for source in sources[1:]:
        if source.start != first.start or space(source.artifact) != space(first.artifact):
            found = f"{source.name}, which began elsewhere than {first.name} or has another shape"
            do = "train them from one start and seed, or use --combine best"
            raise SoftpromptError("SP-E622", found, "sources of one start, to average", do)
    vectors = [plain(source.artifact) for source in sources]
    tensors = {
        f"method.{name}": sum(
            (share / sum(shares) * own[name] for share, own in zip(shares, vectors, strict=True)), torch.zeros(())
        ).float()
        for name in vectors[0]
    }
    card = first.artifact.card
    parents = tuple(f"{source.name}.safetensors" for source in sources)
    kept = card.model_copy(update={"report": {}, "canaries": [], "parents": parents})
    made = Artifact(tensors, kept)
    if not path.exists() or fingerprint(Artifact.load(path)) != fingerprint(made):
        path.parent.mkdir(parents=True, exist_ok=True)
        made.save(path)
    return path


def mixture(
    recipe: Recipe, sources: Sequence[Source], folder: Path, cap: int, backbone: Backbone, listen: Listener
) -> Path:
    """A prompt trained on the tasks of sources together with the target; raises SP-E622 where their data are unknown.

    A source in the folder of its run knows its data.
    """
    recipes = {}
    for source in sources:
        known = source.path.parent / "recipe.yaml"
        if not known.is_file():
            found = f"{source.name}, of which only the file is here"
            do = "give the folder of its run, or use --combine best"
            raise SoftpromptError("SP-E622", found, "a source whose training data are known, to mix", do)
        recipes[source.name] = load_recipe(known)
    tasks = recipes | {"target": recipe}
    return pretrain(tasks, folder, like=recipe, cap=cap, backbone=backbone, listen=listen).artifact


__all__ = ["Combine", "Transferred", "average", "judged", "transfer"]
