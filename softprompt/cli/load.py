"""From the arguments of a command to a prompt in use and examples for it. Imports torch: for use inside commands."""

from dataclasses import replace
from pathlib import Path

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone, load_backbone
from softprompt.backbones.load import choose_device
from softprompt.backbones.quantize import check_quantize, quantize_linear
from softprompt.core import Example
from softprompt.data import Columns, Dataset, read, read_inputs
from softprompt.errors import BackboneError, RecipeError
from softprompt.prompt import Prompt
from softprompt.recipe import load_recipe
from softprompt.sections import BackboneSection
from softprompt.store import Store, is_reference
from softprompt.template import parse

TABLES = (".jsonl", ".ndjson", ".json", ".parquet", ".pq", ".conll", ".bio", ".iob", ".iob2")  # that can hold words


def load(path: str) -> Artifact:
    """The artifact of a file, or of a reference to the store (`sentiment@prod`), checked; a file goes first."""
    if is_reference(path) and not Path(path).exists():
        return Store().load(path)
    return Artifact.load(path)


def bound(artifact: Artifact, model: str | None, *, int8: bool = False) -> Prompt:
    """The prompt on its backbone: the one given, or the one that the run or the card names.

    With `int8`, the backbone's linear layers are rounded once it is known to be the right one. Raises `RecipeError`
    SP-E255 where no name leads to a model, SP-E252 where it is rounded already, and `ArtifactError` for another model.
    """
    if not int8:
        return artifact.bind(open_model(artifact, model))
    if weights(artifact) in ("int8", "int4"):
        found = f"--int8 for a prompt that was trained on {weights(artifact)} weights, and is scored on them"
        raise RecipeError("SP-E252", found, "a prompt trained on whole weights", "leave --int8 out")
    check_quantize("int8", choose_device("auto"))  # before the weights are read
    prompt = artifact.bind(open_model(artifact, model))
    quantize_linear(prompt.backbone.model, "int8", prompt.backbone.device)
    return prompt


def weights(artifact: Artifact) -> str:
    """What the backbone's linear layers were held in when the prompt was trained: int8, int4, or a number type."""
    rounded = told(artifact, "backbone", "quantize") or "none"
    return artifact.card.backbone.dtype if rounded == "none" else rounded


def open_model(artifact: Artifact, model: str | None) -> Backbone:
    """The backbone, in the type that the prompt was trained in, since another one rounds in another way.

    Raises `RecipeError` SP-E255 where no name leads to a model, or none to the LoRA adapter that it had.
    """
    name, dtype = model or named(artifact), artifact.card.backbone.dtype
    given = ran(artifact)
    adapter = given.adapter if given else told(artifact, "backbone", "adapter")
    quantize = told(artifact, "backbone", "quantize") or "none"
    try:
        return load_backbone(name, dtype=dtype, adapter=adapter, quantize=quantize)
    except BackboneError as error:
        if error.code == "SP-E409" and adapter and not Path(adapter).is_dir():
            found = f"no folder {adapter!r} here, the LoRA adapter that the prompt was trained on"
            do = f"copy it from the run that made the prompt to {Path(adapter).absolute()}, or run this where it is"
            raise RecipeError("SP-E255", found, "that folder", do) from error
        if model or error.code != "SP-E401":
            raise
        found = f"no model {name!r} here or on the hub, which is all that the prompt says of its backbone"
        raise RecipeError("SP-E255", found, "a model folder or a hub name", "add --model M") from error


def named(artifact: Artifact) -> str:
    """The name of the backbone: from the folder of the run, which knows the path, or from the card."""
    given = ran(artifact)
    return given.name if given else told(artifact, "backbone", "name") or artifact.card.backbone.name


def ran(artifact: Artifact) -> BackboneSection | None:
    """The backbone under the prompt of the run whose folder it stands in; None elsewhere."""
    run = Path(artifact.where).parent
    if (run / "run.json").is_file() and (run / "recipe.yaml").is_file():
        return load_recipe(run / "recipe.yaml").under(run)
    return None


def told(artifact: Artifact, section: str, key: str) -> str | None:
    """A text in the recipe of a card, where there is one: other versions have other keys, imported prompts none."""
    values = artifact.card.recipe.get(section)
    value = values.get(key) if isinstance(values, dict) else None
    return value if isinstance(value, str) else None


def fields(artifact: Artifact) -> tuple[str, ...]:
    """The columns that the prompt's template reads."""
    pieces = parse(artifact.card.template.text, artifact.card.method.length)
    return tuple(dict.fromkeys(piece.value for piece in pieces if piece.kind == "field"))


def labelled(artifact: Artifact, source: str) -> Dataset:
    """Examples with labels, read the way the prompt's training data were."""
    card = artifact.card
    columns = Columns(fields(artifact), told(artifact, "data", "label"), told(artifact, "data", "image"))
    return read(source, columns=columns, kind=card.task.kind, labels=card.task.labels or None)


def unlabelled(artifact: Artifact, source: str) -> Dataset:
    """Examples to answer; labels, where there are some, are not looked at.

    For tagging, plain text is split at white space: one line is one sentence.
    """
    kind = artifact.card.task.kind
    columns = Columns(fields(artifact), None, told(artifact, "data", "image"))
    split = kind == "tagging" and not source.lower().endswith(TABLES)
    data = read_inputs(source, columns, kind="generation" if split else kind)
    return replace(data, examples=[words(example) for example in data.examples]) if split else data


def words(example: Example) -> Example:
    """The example with its texts split at white space."""
    return replace(example, fields={name: tuple(str(text).split()) for name, text in example.fields.items()})


def one_text(artifact: Artifact, text: str) -> Example:
    """The example of a text from the command line; raises `RecipeError` where the prompt reads several columns."""
    names = fields(artifact)
    if len(names) != 1:
        found = f"one text for a prompt that reads {len(names)} columns ({', '.join(names)})"
        do = 'send JSON Lines to standard input, such as {"column": "text"}'
        raise RecipeError("SP-E256", found, "a value for each", do)
    if not text.strip():
        raise RecipeError("SP-E256", "an empty text", "a text", "leave it out to read standard input")
    example = Example({names[0]: text}, where="<command line>")
    return words(example) if artifact.card.task.kind == "tagging" else example
