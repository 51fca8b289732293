"""A run as data: what is trained, on what, and how. Unknown keys are refused; the resolved recipe repeats the run."""

import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from softprompt.data import TaskKind
from softprompt.errors import RecipeError


class Section(BaseModel):
    """A part of a recipe. Mistyped keys are errors, not silence."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class BackboneSection(Section):
    """The frozen model."""

    name: str = Field("", description="local folder or name on the hub")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = Field("auto", description="cpu, cuda, cuda:N or auto")
    revision: str | None = None


class DataSection(Section):
    """Where examples come from. Without `dev` or `test`, parts of `train` are set aside."""

    train: str = ""
    dev: str | None = None
    test: str | None = None
    format: str | None = Field(
        None, description="csv, tsv, jsonl, parquet, conll, images, hub; by extension if not given"
    )
    text: tuple[str, ...] = Field((), description="columns that the template may read; inferred if empty")
    label: str | None = Field(None, description="column of the label; inferred if not given")
    image: str | None = None
    split: tuple[float, float, float] = Field((0.8, 0.1, 0.1), description="train, dev, test where files are missing")
    shots: int | None = Field(None, ge=1, description="examples per class, sampled from train")
    seed: int = 0
    on_bad_row: Literal["fail", "skip", "report"] = "fail"
    allow_leakage: bool = False


class TaskSection(Section):
    """What is asked for and how the question is put."""

    kind: Literal["auto"] | TaskKind = "auto"
    template: str = Field("auto", description="{soft:20}{text}...; auto: chosen for the head")
    head: Literal["auto", "verbalizer", "lm", "classifier", "regressor", "tagger"] = "auto"
    labels: tuple[str, ...] = ()
    words: dict[str, str] = Field({}, description="the word that stands for a class, by class name")
    metric: str = "auto"
    pool: Literal["auto", "mean", "cls", "last"] = "auto"
    max_tokens: int | None = Field(None, ge=8, description="most tokens of a row, prompt and answer included")
    truncate: Literal["tail", "head", "error"] = "tail"
    new_tokens: int = Field(64, ge=1, description="most tokens of a generated answer")


class MethodSection(Section):
    """Which method, how long, and its own options (`softprompt methods` lists them)."""

    name: str = "prompt_tuning"
    length: int = Field(20, ge=1, le=10_000, description="P, the number of prompt vectors")
    options: dict[str, Any] = {}


class InitSection(Section):
    """Where training begins."""

    kind: Literal["auto", "vocabulary", "text", "labels", "random", "prompt"] = "auto"
    text: str | None = Field(None, description="text to start from; training text if not given")
    source: str | None = Field(None, description="artifact to start from (kind=prompt)")


class OptimSection(Section):
    """The optimiser. A rate is in units of what it moves: 0.1 moves a vector by a tenth of an embedding."""

    name: Literal["adamw", "adafactor"] = "adamw"
    lr: float | Literal["auto"] = Field("auto", description="in units of the embedding rms (a prefix: of its own rms)")
    head_lr: float = Field(2e-3, gt=0, description="absolute rate of a trained head")
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup: float = Field(0.06, ge=0, lt=1, description="share of the steps")
    clip: float | None = Field(1.0, gt=0, description="largest norm of the gradient, in the units of the rates")


class TrainSection(Section):
    """The loop."""

    epochs: int = Field(10, ge=1)
    steps: int | None = Field(None, ge=1, description="instead of epochs")
    batch_size: int = Field(16, ge=1)
    accumulate: int = Field(1, ge=1, description="batches per optimiser step")
    evaluate_every: int | None = Field(None, ge=1, description="steps; an epoch if not given")
    patience: int | None = Field(3, ge=1, description="evaluations without a better dev score before stopping")
    checkpointing: bool = Field(False, description="recompute activations in the backward pass: less memory, more time")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    save_seconds: float = Field(1.0, gt=0, description="longest time between saved training states")
    seed: int = 0
    threads: int | None = Field(None, ge=1, description="CPU threads; results are bit-identical for the same number")
    track: tuple[Literal["tensorboard", "trackio"], ...] = ()


class Recipe(Section):
    """One run."""

    backbone: BackboneSection = BackboneSection()
    data: DataSection = DataSection()
    task: TaskSection = TaskSection()
    method: MethodSection = MethodSection()
    init: InitSection = InitSection()
    optim: OptimSection = OptimSection()
    train: TrainSection = TrainSection()

    def shared(self) -> dict[str, Any]:
        """Plain values for a card that may be shared: what differs from the defaults, paths as bare file names."""
        values: dict[str, Any] = self.model_dump(mode="json", exclude_defaults=True)
        for section, key in (
            ("backbone", "name"),
            ("data", "train"),
            ("data", "dev"),
            ("data", "test"),
            ("init", "source"),
        ):
            path = values.get(section, {}).get(key)
            if path and Path(path).exists():
                values[section][key] = Path(path).name
        return values

    def to_yaml(self, *, full: bool = False) -> str:
        """The recipe as YAML; without `full`, only what differs from the defaults."""
        return yaml.safe_dump(
            self.model_dump(mode="json", exclude_defaults=not full), sort_keys=False, allow_unicode=True
        )


def load_recipe(path: str | Path) -> Recipe:
    """A recipe from a YAML file; raises `RecipeError` with the key that is wrong and what was meant."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        values = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError("SP-E201", f"{error}", "a readable YAML file", "check the path", where=str(path)) from error
    except (yaml.YAMLError, RecursionError) as error:
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
            known = known_keys()
            close = difflib.get_close_matches(key, known, n=1) or difflib.get_close_matches(
                path[-1], [k.split(".")[-1] for k in known], n=1
            )
            hint = f" (did you mean '{close[0]}'?)" if close else ""
            raise RecipeError(
                "SP-E203",
                f"unknown key {key!r}{hint}",
                "a key of the schema",
                "see `softprompt recipe schema`",
                where=where,
            ) from error
        found = repr(first["input"])[:80]
        raise RecipeError("SP-E204", f"{key} = {found}", first["msg"], f"change {key}", where=where) from error


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
    """Plain values with `a.b=c` settings applied; values are read as YAML. Raises `RecipeError` for other forms."""
    result = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    for setting in settings:
        key, equals, text = setting.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts) or len(parts) < 2:
            raise RecipeError("SP-E205", f"--set {setting!r}", "section.key=value", "write it as --set optim.lr=0.1")
        try:
            value = yaml.safe_load(text) if text else ""
        except yaml.YAMLError as error:
            raise RecipeError("SP-E205", f"--set {setting!r}", "a plain value", "quote the value") from error
        place = result
        for part in parts[:-1]:
            inner = place.setdefault(part, {})
            if not isinstance(inner, dict):
                raise RecipeError("SP-E205", f"--set {setting!r}", f"{part} to be a section", "see `recipe schema`")
            place = inner
        place[parts[-1]] = value
    return result
