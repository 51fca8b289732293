"""A run as data: what is trained, on what, and how. Unknown keys are refused; the resolved recipe repeats the run."""

import difflib
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from softprompt.errors import RecipeError
from softprompt.plain import LIMIT, read_yaml, write_yaml
from softprompt.sections import (
    BackboneSection,
    DataSection,
    InitSection,
    LoraSection,
    MethodSection,
    OptimSection,
    Section,
    TaskSection,
    TrainSection,
)

ADAPTER = "lora"  # where a run keeps the LoRA that it trained
PATHS = (
    ("backbone", "name"),
    ("backbone", "adapter"),
    ("data", "train"),
    ("data", "dev"),
    ("data", "test"),
    ("init", "source"),
    ("init", "sources"),
    ("train", "cache_folder"),
)


class Recipe(Section):
    """One run."""

    backbone: BackboneSection = BackboneSection()
    data: DataSection = DataSection()
    task: TaskSection = TaskSection()
    method: MethodSection = MethodSection()
    init: InitSection = InitSection()
    optim: OptimSection = OptimSection()
    lora: LoraSection = LoraSection()
    train: TrainSection = TrainSection()

    def shared(self) -> dict[str, Any]:
        """Plain values for a card that may be shared: what differs from the defaults, paths as bare file names."""
        values: dict[str, Any] = self.model_dump(mode="json", exclude_defaults=True)
        for section, key in PATHS:
            path = values.get(section, {}).get(key)
            if path:
                values[section][key] = bare_name(path) if isinstance(path, str) else [bare_name(p) for p in path]
        if self.lora.rank:  # the prompt is bound to the backbone with it
            values["backbone"] = values.get("backbone", {}) | {"adapter": ADAPTER}
        return values

    def under(self, run: Path) -> BackboneSection:
        """The backbone that the prompt of a run stands on: with the LoRA, where one was trained beside it."""
        return self.backbone.model_copy(update={"adapter": str(run / ADAPTER)}) if self.lora.rank else self.backbone

    def rooted(self) -> "Recipe":
        """The same recipe with absolute paths, which means the same from every folder."""
        values = self.model_dump()
        for section, key in PATHS:
            path = values[section][key]
            if path:
                values[section][key] = rooted(path) if isinstance(path, str) else [rooted(p) for p in path]
        return Recipe.model_validate(values)

    def to_yaml(self, *, full: bool = False) -> str:
        """The recipe as YAML; without `full`, only what differs from the defaults."""
        return write_yaml(self.complete() if full else self.model_dump(mode="json", exclude_defaults=True))

    def complete(self) -> dict[str, Any]:
        """Every setting as plain values."""
        values = self.model_dump(mode="json")
        values["backbone"]["shard"] = self.backbone.shard
        return values


def rooted(name: str) -> str:
    """The absolute path of a file or folder that is there; any other name as it is."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def bare_name(name: str) -> str:
    """A name for a card: of a path only the file or folder, because the rest is nobody's business; hub names stay."""
    place = Path(name)
    hub = name.startswith("hub:") or (name.count("/") <= 1 and not name.startswith(("/", ".", "~")))
    return name if hub and not place.exists() else place.resolve().name


def load_recipe(path: str | Path) -> Recipe:
    """A recipe from a YAML file; raises `RecipeError` with the key that is wrong and what was meant."""
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise RecipeError("SP-E201", "no regular file", "a YAML file", "check the path", where=str(path))
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(LIMIT + 1)
    except (OSError, ValueError) as error:  # of the second kind: text that is not UTF-8
        raise RecipeError("SP-E201", f"{error}", "a readable YAML file", "check the path", where=str(path)) from error
    try:
        values = read_yaml(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise RecipeError("SP-E202", f"{error}"[:200], "valid YAML", "mend the line", where=str(path)) from error
    if not isinstance(values, dict):
        raise RecipeError(
            "SP-E202",
            f"{type(values).__name__}",
            "sections such as `data:`",
            "see `softprompt recipe schema`",
            where=str(path),
        )
    return make_recipe(values, where=str(path))


def make_recipe(values: dict[str, Any], where: str | None = None) -> Recipe:
    """A recipe from plain values; raises `RecipeError` for unknown keys and wrong types."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = [str(part) for part in first["loc"]]
        key = ".".join(path)
        if first["type"] == "extra_forbidden":
            raise RecipeError(
                "SP-E203",
                f"unknown key {key[:80]!r}{meant(key)}",
                "a key of the schema",
                "see `softprompt recipe schema`",
                where=where,
            ) from error
        short, found = ".".join(path[:2])[:80], repr(first["input"])[:80]
        expected = first["msg"].removeprefix("Value error, ")
        raise RecipeError("SP-E204", f"{short} = {found}", expected, f"change {short}", where=where) from error


def meant(key: str) -> str:
    """`" (did you mean 'optim.lr'?)"` for the known key that is most like an unknown one, in its section or another."""
    known = known_keys()
    ends = {name.partition(".")[2]: name for name in reversed(known)}
    last = key.rpartition(".")[2]
    whole = [ends[last]] if last in ends else difflib.get_close_matches(key, [*Recipe.model_fields, *known], n=1)
    close = whole or [ends[end] for end in difflib.get_close_matches(last, list(ends), n=1)]
    return f" (did you mean '{close[0]}'?)" if close else ""


def known_keys() -> list[str]:
    """Every key of a recipe, dotted."""
    sections = {name: field.annotation for name, field in Recipe.model_fields.items()}
    return [
        f"{section}.{key}"
        for section, model in sections.items()
        if isinstance(model, type) and issubclass(model, Section)
        for key in model.model_fields
    ]


def override(values: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """Plain values with `a.b=c` settings applied; raises `RecipeError` for other forms.

    Values are read as YAML, but for keys that hold text: there `--set task.template={text}` means what it says.
    """
    result = deepcopy(values)
    for setting in settings:
        key, equals, text = setting.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts) or len(parts) < 2:
            raise RecipeError("SP-E205", f"--set {setting!r}", "section.key=value", "write it as --set optim.lr=0.1")
        try:
            value = text if holds_text(parts) and text != "null" else read_yaml(text) if text else ""
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise RecipeError("SP-E205", f"--set {setting!r}", "a plain value", "quote the value") from error
        place = result
        for part in parts[:-1]:
            inner = place.setdefault(part, {})
            if not isinstance(inner, dict):
                raise RecipeError("SP-E205", f"--set {setting!r}", f"{part} to be a section", "see `recipe schema`")
            place = inner
        place[parts[-1]] = value
    return result


def holds_text(parts: list[str]) -> bool:
    """Whether a key holds text, so that its value is taken as it stands."""
    section = Recipe.model_fields.get(parts[0])
    known: dict[str, Any] = {} if section is None else type(section.default).model_fields
    field = known.get(parts[1])
    wanted: tuple[Any, ...] = (str, str | None) if len(parts) == 2 else (dict[str, str],)
    return field is not None and field.annotation in wanted
