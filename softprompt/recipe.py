"""A run as data: what is trained, on what, and how. Unknown keys are refused; the resolved recipe repeats the run."""

import difflib
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from softprompt.data import TaskKind
from softprompt.errors import RecipeError
from softprompt.plain import LIMIT, read_yaml, write_yaml


class Section(BaseModel):
    """A part of a recipe. Mistyped keys are errors, not silence."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def no_truth_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse `epochs: yes`, which is no number although Python says that True is 1."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("true or false is no value for this key; quote it if it is meant as a word")
        return value


class BackboneSection(Section):
    """The frozen model."""

    name: str = Field("softprompt/tiny", description="local folder, name on the hub, or a model that comes with us")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = Field("auto", description="cpu, cuda, cuda:N or auto")
    revision: str | None = None
    adapter: str | None = Field(None, description="folder of a LoRA adapter of PEFT, merged into the model")
    quantize: Literal["none", "int8", "int4"] = Field("none", description="weights of linear layers, after loading")
    shard: Literal["none", "layers"] = Field("none", description="layers: each rank of a run keeps a part of every one")

    @model_serializer(mode="wrap")
    def unless_whole(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Plain values, without `shard` where there is none: what began before there was one still is the same."""
        values: dict[str, Any] = write(self)
        return {key: value for key, value in values.items() if key != "shard" or value != "none"}


class DataSection(Section):
    """Where examples come from. Without `dev` or `test`, parts of `train` are set aside."""

    train: str = ""
    dev: str | None = None
    test: str | None = None
    format: str | None = Field(
        None, description="csv, tsv, jsonl, parquet, conll, images, idx, hub; by extension if not given"
    )
    encoding: str = Field("utf-8", description="of text files")
    text: tuple[str, ...] = Field((), description="columns that the template may read; inferred if empty")
    label: str | None = Field(None, description="column of the label; inferred if not given")
    image: str | None = None
    split: tuple[float, float, float] = Field((0.8, 0.1, 0.1), description="train, dev, test where files are missing")
    shots: int | None = Field(None, ge=1, description="examples per class, sampled from train")
    few_shot: int | None = Field(None, ge=1, description="examples per class, and as many others for dev, from train")
    seed: int = 0
    on_bad_row: Literal["fail", "skip", "report"] = "fail"
    allow_leakage: bool = False

    @field_validator("split")
    @classmethod
    def shares(cls, split: tuple[float, float, float]) -> tuple[float, float, float]:
        """Check that the shares are shares."""
        if min(split) < 0 or split[0] == 0 or abs(sum(split) - 1) > 1e-6:
            raise ValueError("shares of train (more than 0), dev and test that sum to 1, such as [0.8, 0.1, 0.1]")
        return split


class TaskSection(Section):
    """What is asked for and how the question is put."""

    kind: Literal["auto"] | TaskKind = "auto"
    template: str = Field("auto", description="{soft:20}{text}...; auto: chosen for the head")
    head: Literal["auto", "verbalizer", "lm", "classifier", "regressor", "tagger"] = "auto"
    labels: tuple[str, ...] = ()
    words: dict[str, str] = Field({}, description="the word that stands for a class, by class name")
    synonyms: dict[str, tuple[str, ...]] = Field({}, description="more words for a class, scored beside its word")
    join: Literal["mean", "sum"] = Field(
        "mean", description="of several words: mean of their log-probabilities, or sum of their probabilities"
    )
    calibrate: Literal["none", "content_free", "domain"] = Field(
        "none", description="take off what class words score without a text, or on the mean training text"
    )
    demonstrations: bool = Field(False, description="one training example a class in front of every text")
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
    sources: tuple[str, ...] = Field((), description="artifacts of other tasks, for methods that read several")

    @property
    def files(self) -> tuple[str, ...]:
        """Every artifact that a run reads before its first step."""
        return (*filter(None, [self.source]), *self.sources)


class OptimSection(Section):
    """The optimiser. A rate is in units of what it moves: 0.1 moves a vector by a tenth of an embedding."""

    name: Literal["adamw", "adafactor"] = "adamw"
    lr: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto", description="in units of the embedding rms (a prefix: of its own rms)"
    )
    head_lr: float = Field(
        4.0, gt=0, description="rate of a trained head: how far a logit may move in a step, per mean state"
    )
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup: float = Field(0.06, ge=0, lt=1, description="share of the steps")
    clip: float | None = Field(1.0, gt=0, description="largest norm of the gradient, in the units of the rates")


class LoraSection(Section):
    """A LoRA of the backbone that is trained together with the prompt; there is none where the rank is 0."""

    rank: int = Field(0, ge=0, le=10_000)
    alpha: float | None = Field(None, gt=0, description="its scale is alpha / rank; twice the rank if not given")
    targets: tuple[str, ...] = Field((), description="linear layers, such as q_proj; all but the output if empty")
    lr: float = Field(1e-3, gt=0, description="absolute: weights, unlike embeddings, are of about the same size")

    @model_validator(mode="after")
    def of_a_rank(self) -> Self:
        """Refuse settings of a LoRA that is not there."""
        if not self.rank and self.model_dump(exclude_defaults=True):
            raise ValueError("lora.rank beside them, such as 8")
        return self


class TrainSection(Section):
    """The loop."""

    epochs: int = Field(10, ge=1)
    steps: int | None = Field(None, ge=1, description="instead of epochs")
    batch_size: int = Field(16, ge=1)
    accumulate: int = Field(1, ge=1, description="batches per optimiser step")
    evaluate_every: int | None = Field(None, ge=1, description="steps; an epoch if not given")
    patience: int | None = Field(3, ge=1, description="evaluations without a better dev score before stopping")
    checkpointing: bool = Field(False, description="recompute activations in the backward pass: less memory, more time")
    engine: Literal["auto", "plain", "packed"] = Field(
        "auto", description="packed: a batch as one row, the prompt run once; plain: padded; auto: packed where exact"
    )
    cache: Literal["auto", "memory", "file", "none"] = Field(
        "auto", description="states below the layer where the prompt enters, kept over epochs; auto: memory, if of use"
    )
    cache_folder: str | None = Field(None, description="for cache=file, shared by runs; the run's own if not given")
    cache_bytes: int = Field(2_000_000_000, ge=0, description="nothing is kept where it would be more")
    precision: Literal["auto", "bfloat16"] = Field("auto", description="auto: the backbone's type; bfloat16: mixed")
    save_seconds: float = Field(1.0, gt=0, description="longest time between saved training states")
    seed: int = 0
    threads: int | None = Field(None, ge=1, description="CPU threads; results are bit-identical for the same number")
    track: tuple[Literal["tensorboard", "trackio"], ...] = ()
    compare: tuple[Literal["full", "lora", "head"], ...] = Field(
        (), description="train these on the same plan and report them beside the prompt"
    )

    @field_validator("cache_folder")
    @classmethod
    def of_a_file(cls, folder: str | None, info: ValidationInfo) -> str | None:
        """Refuse a folder that nothing would be written to."""
        if folder is not None and info.data.get("cache") != "file":
            raise ValueError("no folder, or train.cache=file beside it")
        return folder


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
