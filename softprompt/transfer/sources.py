"""Source prompts, and recipes that start from one."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.core import Example
from softprompt.errors import RecipeError, SoftpromptError
from softprompt.files import read_regular, write_atomically
from softprompt.methods import find
from softprompt.plan import Plan
from softprompt.prompt import Prompt
from softprompt.recipe import Recipe, make_recipe
from softprompt.sections import MethodSection
from softprompt.stages import fingerprint
from softprompt.sweep.grid import free
from softprompt.untrained import build

LIMIT = 8 << 30  # bytes of a prompt file
MIXTURE = "mixture.json"  # which data a mixture is of, beside its run


@dataclass(frozen=True)
class Source:
    """A trained prompt of another task."""

    name: str
    artifact: Artifact

    @property
    def path(self) -> Path:
        """Its file."""
        return Path(self.artifact.where)

    @property
    def steps(self) -> int | None:
        """How long it was trained, as its card says; None where it does not."""
        return trained_for(self.artifact.card.report)

    @property
    def files(self) -> set[str]:
        """SHA-256 of the data that it was trained and chosen on, where it stands in the folder of its run."""
        folder = self.path.parent
        places = (folder / "run.json", folder / "rounds.json", folder.parent / MIXTURE)
        known = [json.loads(place.read_text(encoding="utf-8")).get("data") for place in places if place.is_file()]
        return {sha256 for data in known for sha256 in hashes(data)}

    @property
    def start(self) -> dict[str, Any]:
        """Where its training began, as its card says: kind, text, seed."""
        values = self.artifact.card.recipe
        init, train = values.get("init", {}), values.get("train", {})
        return {"init": init, "seed": train.get("seed", 0) if isinstance(train, dict) else 0}


def hashes(data: object) -> Iterator[str]:
    """The hashes of train and dev in what a run says of its data, or of the data of every task by name."""
    for part, value in data.items() if isinstance(data, dict) else ():
        if isinstance(value, dict):
            yield from hashes(value)
        elif part in ("train", "dev"):
            yield str(value)


def trained_for(report: Mapping[str, Any]) -> int | None:
    """The last step at which a run looked at dev, or all steps of a start; None where its report does not say."""
    history = report.get("dev")
    steps = [event.get("step") for event in history if isinstance(event, dict)] if isinstance(history, list) else []
    for kind in ("meta", "multitask"):
        facts = report.get(kind)
        known = facts if isinstance(facts, dict) else {}
        parts = [known.get(name, 1) for name in ("rounds", "tasks", "steps") if isinstance(known.get(name, 1), int)]
        steps += [math.prod(parts)] if "steps" in known else []
    return max((step for step in steps if isinstance(step, int)), default=None)


def distinct(sources: Sequence[Source]) -> None:
    """Raise `RecipeError` SP-E852 where the same prompt is given twice: it would count twice, and help no more."""
    seen: dict[str, str] = {}
    for source in sources:
        before = seen.setdefault(fingerprint(source.artifact), source.name)
        if before != source.name:
            found, do = f"the same prompt twice: {before} and {source.name}", "leave one out"
            raise RecipeError("SP-E852", found, "different source prompts", do)


def cautions(plan: Plan, sources: Sequence[Source]) -> list[str]:
    """What makes a source look better than it is: that it learned from the target's own files."""
    own = [source.name for source in sources if set(plan.sha256.values()) & source.files]
    if not own:
        return []
    return [f"trained on the target's own data, maybe on its dev and test, so a gain is no transfer: {', '.join(own)}"]


def adopt(recipe: Recipe, sources: Sequence[Source], backbone: Backbone) -> Recipe:
    """The recipe with method, start and seed of a source, where it leaves them open: only equals compare.

    It is the first source of this backbone, and none that reads other prompts; without any, the recipe stays as it is.
    """
    if not sources:
        return recipe
    own = [source for source in sources if source.artifact.card.backbone.fingerprint == backbone.fingerprint]
    source = next((one for one in own or sources if not find(one.artifact.card.method.name).borrows), None)
    if source is None:  # what reads other prompts is nothing to start from: `fitting` says why
        return recipe
    card, given = source.artifact.card, recipe.model_fields_set
    update: dict[str, Any] = {}
    if "method" not in given:
        method = card.method
        update["method"] = MethodSection(name=method.name, length=method.length, options=method.options)
    start = source.start
    borrowed = start["init"].keys() & {"source", "sources"}  # files that may be anywhere by now
    if "init" not in given and not borrowed:
        update["init"] = make_recipe({"init": start["init"]}).init
    if "seed" not in recipe.train.model_fields_set:
        update["train"] = recipe.train.model_copy(update={"seed": start["seed"]})
    return recipe.model_copy(update=update)


def starting_from(recipe: Recipe, path: str | Path) -> Recipe:
    """The recipe, started from the prompt in a file."""
    init = recipe.init.model_copy(update={"kind": "prompt", "source": str(path), "text": None})
    return recipe.model_copy(update={"init": init})


def placed(plan: Plan, path: str | Path, backbone: Backbone) -> Prompt:
    """The prompt of a file on the task of a plan: its vectors, with the plan's template and head.

    Raises `SoftpromptError` for a prompt of another backbone, length or kind of vectors (SP-E320, SP-E231).
    """
    started = Plan(**(vars(plan) | {"recipe": starting_from(plan.recipe, path)}))
    return build(started, backbone)


def fitting(plan: Plan, sources: Sequence[Source], backbone: Backbone) -> tuple[list[Source], dict[str, str]]:
    """The sources that the plan can start from, and why the others cannot.

    Raises `SoftpromptError` SP-E621 where none can, or none is given.
    """
    found, refused = [], {}
    for source in sources:
        try:
            placed(plan, source.path, backbone)
        except SoftpromptError as error:
            refused[source.name] = str(error)
        else:
            found.append(source)
    if not found:
        first = next(iter(refused.items()), None)
        why = f"none of {len(refused)} to start from: {first[0]}: {first[1]}" if first else "no source prompt"
        do = "train one of the same backbone, method and length, or set those of the target"
        raise SoftpromptError("SP-E621", why[:300], "a prompt that the target can start from", do)
    return found, refused


def copied(source: Source, folder: Path) -> Path:
    """The source under its own name in `folder`, so that a run keeps what it began from, and its card names it."""
    path = folder / f"{source.name}.safetensors"
    data = read_regular(source.path, LIMIT)
    if not path.exists() or read_regular(path, LIMIT) != data:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    return path


def named(paths: Sequence[str | Path]) -> list[Source]:
    """Prompt files, or folders of runs, as sources with names of their own."""
    found: dict[str, Source] = {}
    for given in paths:
        path = Path(given) / "prompt.safetensors" if Path(given).is_dir() else Path(given)
        name = free(folder_name(path.parent.resolve()) if path.stem == "prompt" else path.stem, found)
        found[name] = Source(name, Artifact.load(path))
    return list(found.values())


def folder_name(folder: Path) -> str:
    """What a run is called: by its folder, or, where several commands leave theirs in `run`, by the one above."""
    return folder.parent.name if folder.name == "run" and folder.parent.name else folder.name


def flat(example: Example, columns: Sequence[str]) -> str:
    """The text of an example as the default template writes it: several columns are named."""
    values = {name: example.fields.get(name, "") for name in columns}
    texts = {name: value if isinstance(value, str) else " ".join(value) for name, value in values.items()}
    whole = " ".join(f"{name}: {text}" for name, text in texts.items())
    return whole if len(texts) > 1 else next(iter(texts.values()))


__all__ = [
    "MIXTURE",
    "Source",
    "adopt",
    "cautions",
    "copied",
    "distinct",
    "fitting",
    "named",
    "placed",
    "starting_from",
    "trained_for",
]
