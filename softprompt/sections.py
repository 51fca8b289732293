"""The sections of a recipe, key by key: types, bounds, defaults and what each key means."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from softprompt.data import TaskKind


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
