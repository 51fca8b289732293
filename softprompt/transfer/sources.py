"""Source prompts, and recipes that start from one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.core import Example
from softprompt.errors import SoftpromptError
from softprompt.files import read_regular, write_atomically
from softprompt.plan import Plan
from softprompt.prompt import Prompt
from softprompt.recipe import Recipe, make_recipe
from softprompt.sections import MethodSection
from softprompt.sweep.grid import free
from softprompt.untrained import build

LIMIT = 8 << 30  # bytes of a prompt file


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
    def start(self) -> dict[str, Any]:
        """Where its training began, as its card says: kind, text, seed."""
        values = self.artifact.card.recipe
        init, train = values.get("init", {}), values.get("train", {})
        return {"init": init, "seed": train.get("seed", 0) if isinstance(train, dict) else 0}


def trained_for(report: Mapping[str, Any]) -> int | None:
    """The last step at which a run looked at dev; None where its report does not say."""
    history = report.get("dev")
    steps = [event.get("step") for event in history if isinstance(event, dict)] if isinstance(history, list) else []
    return max((step for step in steps if isinstance(step, int)), default=None)


def adopt(recipe: Recipe, sources: Sequence[Source], backbone: Backbone) -> Recipe:
    """The recipe with method, start and seed of a source, where it leaves them open: only equals compare.

    It is the first source of this backbone; without sources, the recipe stays as it is.
    """
    if not sources:
        return recipe
    own = [source for source in sources if source.artifact.card.backbone.fingerprint == backbone.fingerprint]
    source = (own or sources)[0]
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
        why = f"{len(refused)} prompts, none to start from: {first[0]}: {first[1]}" if first else "no source prompt"
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
        name = free(path.parent.resolve().name if path.stem == "prompt" else path.stem, found)
        found[name] = Source(name, Artifact.load(path))
    return list(found.values())


def flat(example: Example, columns: Sequence[str]) -> str:
    """The text of an example as the default template writes it: several columns are named."""
    values = {name: example.fields.get(name, "") for name in columns}
    texts = {name: value if isinstance(value, str) else " ".join(value) for name, value in values.items()}
    whole = " ".join(f"{name}: {text}" for name, text in texts.items())
    return whole if len(texts) > 1 else next(iter(texts.values()))


__all__ = ["Source", "adopt", "copied", "fitting", "named", "placed", "starting_from", "trained_for"]
