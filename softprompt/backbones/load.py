"""`load_backbone`: from a name or a folder to a frozen, probed backbone."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from torch import nn

from softprompt.backbones.base import Backbone
from softprompt.backbones.causal import Causal
from softprompt.backbones.embedded import locate
from softprompt.backbones.encoder import Encoder
from softprompt.backbones.lora import merge
from softprompt.backbones.precision import check_precision
from softprompt.backbones.probe import probe
from softprompt.backbones.quantize import check_quantize, quantize_linear
from softprompt.backbones.seq2seq import Seq2Seq
from softprompt.backbones.sharding import check_shard, several, shard_over_ranks
from softprompt.backbones.vision import Vision
from softprompt.errors import BackboneError, Unsupported

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
UNUSED = ("pooler", "mask_token")  # weights that checkpoints may lack: hidden states do not pass them
VISION = {"vit", "deit", "dinov2", "clip", "clip_vision_model"}  # of CLIP, the vision tower alone


def load_backbone(
    name: str | Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    adapter: str | Path | None = None,
    quantize: str = "none",
    shard: str = "none",
) -> Backbone:
    """A frozen backbone with its tokenizer (or image processor): a local folder, a hub name, or `softprompt/minilm`.

    `dtype` is float32, bfloat16, float16 or auto (float32 on the CPU, bfloat16 on CUDA); `device` is cpu, cuda, cuda:1
    or auto. `adapter` is a LoRA folder of PEFT, merged into the weights; `quantize` (int8, int4) comes after it. Either
    makes another backbone with another fingerprint. With `shard="layers"`, every rank of a run keeps a part of each
    layer; one process by itself keeps them whole. Raises `BackboneError` where there is no such model or adapter,
    `Unsupported` for families that cannot be steered or quantised, `RecipeError` for those that cannot be sharded.
    """
    place = choose_device(device)
    if shard != "none":
        check_shard(shard, quantize)
    if quantize != "none":
        check_quantize(quantize, place)
    wanted = choose_dtype(dtype, place)
    path = locate(str(name))
    if Path(path).exists() and not (Path(path) / "config.json").exists():
        raise BackboneError(
            "SP-E401", f"no config.json in {path}", "a folder in the transformers layout", "check --model"
        )

    def whole(where: torch.device, *more: str) -> Backbone:
        model, tokenizer, changes = opened(path, revision, wanted, adapter)
        return changed(wrap(model.to(where), tokenizer, str(name)), [*changes, *more])

    if shard != "none" and several():  # a device need not have room for the whole
        return shard_over_ranks(lambda: whole(torch.device("cpu")), place)
    if quantize == "none":
        return whole(place)
    backbone = whole(torch.device("cpu"), quantize)  # known by its weights before rounding
    quantize_linear(backbone.model, quantize, place)
    return backbone


def opened(
    path: str, revision: str | None, dtype: torch.dtype, adapter: str | Path | None
) -> tuple[nn.Module, Any, list[str]]:
    """A model with its LoRA merged in, its tokenizer or image processor, and what was done to its weights."""
    try:
        config = tf.AutoConfig.from_pretrained(path, revision=revision)
        model = read_weights(path, config, revision, dtype)
        reader = tf.AutoImageProcessor if config.model_type in VISION else tf.AutoTokenizer
        tokenizer = reader.from_pretrained(path, revision=revision)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise BackboneError(
            "SP-E401",
            f"{path}: {error}"[:300],
            "a local model folder or a model on the hub",
            "check --model and --revision",
        ) from error
    if adapter is None:
        return model, tokenizer, []
    model, digest = merge(model, Path(adapter))
    return model, tokenizer, [digest]


def changed(backbone: Backbone, changes: list[str]) -> Backbone:
    """The backbone under a fingerprint of its own for what was done to its weights: samples might not show it."""
    if changes:
        told = " ".join([backbone.fingerprint, *changes])
        backbone.__dict__["fingerprint"] = hashlib.sha256(told.encode()).hexdigest()  # the place of a cached property
    return backbone


def wrap(model: nn.Module, tokenizer: Any = None, name: str = "") -> Backbone:
    """The backbone of a loaded transformers model: frozen, routed through the seam, and probed."""
    try:
        backbone = family(model.config)(model, tokenizer, name)
        probe(backbone)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:  # ours are none of these
        raise unknown(model.config, f", which cannot be run: {error}"[:300]) from error
    return backbone


def family(config: Any) -> type[Backbone]:
    """Which of the four kinds of backbone a configuration asks for."""
    if config.model_type in VISION:
        return Vision
    if config.is_encoder_decoder and type(config) in tf.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        return Seq2Seq
    if type(config) in tf.MODEL_FOR_CAUSAL_LM_MAPPING and not reads_both_ways(config):
        return Causal
    if type(config) in tf.MODEL_FOR_MASKED_LM_MAPPING and not config.is_encoder_decoder:
        return Encoder
    raise unknown(config)


def unknown(config: Any, detail: str = "") -> Unsupported:
    """The error for a model that is none of the four kinds."""
    return Unsupported(
        "SP-E416",
        f"model type {config.model_type}{detail}",
        "a causal, encoder, encoder-decoder or vision model of transformers",
        "see docs/backbones.md for the families that were tested",
    )


def reads_both_ways(config: Any) -> bool:
    """True for encoders: BERT and its kin have a causal class too, used only with `is_decoder`."""
    return type(config) in tf.MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)


def read_weights(path: str, config: Any, revision: str | None, dtype: torch.dtype) -> nn.Module:
    """The weights in a class that the checkpoint fills: with a masked-language head only where one was trained.

    Raises `BackboneError` where a weight that is used would be left at random.
    """
    kind = family(config)
    trained_for = " ".join(config.architectures or [])
    loader: Any = tf.AutoModel
    if kind is Causal:
        loader = tf.AutoModelForCausalLM
    elif kind is Seq2Seq:
        loader = tf.AutoModelForSeq2SeqLM
    elif kind is Encoder and ("MaskedLM" in trained_for or "PreTraining" in trained_for):
        loader = tf.AutoModelForMaskedLM
    elif config.model_type in ("clip", "clip_vision_model"):
        loader = tf.CLIPVisionModel

    def read(loader: Any) -> tuple[nn.Module, list[str]]:
        options = {"revision": revision, "dtype": dtype, "use_safetensors": True, "output_loading_info": True}
        with quiet():
            model, report = loader.from_pretrained(path, **options)
        unused = {key for key in report["missing_keys"] if any(part in key for part in UNUSED)}
        held = model.state_dict()
        for key in unused & held.keys():
            held[key].zero_()  # random otherwise, so that no fingerprint would ever be met again
        return model, sorted(set(report["missing_keys"]) - unused)

    model, missing = read(loader)
    if missing and loader is tf.AutoModelForMaskedLM:  # ELECTRA's discriminator: pre-trained, but not to name words
        model, missing = read(tf.AutoModel)
    if missing:
        raise BackboneError(
            "SP-E405",
            f"no {missing[0]} ({len(missing)} weights missing) in {path}",
            "a checkpoint that holds every weight of its model",
            "check --model, or download it again",
        )
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Without the library's progress bar over weight files."""
    shown = tf.utils.logging.is_progress_bar_enabled()
    tf.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            tf.utils.logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def choose_device(device: str) -> torch.device:
    """The device that was asked for; raises `BackboneError` where it is absent."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise BackboneError("SP-E403", f"device {device!r}", "cpu, cuda, cuda:N or auto", "check --device") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise BackboneError("SP-E403", "no CUDA device", "a GPU that torch can see", "use --device cpu")
    return place


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The type that was asked for; raises `BackboneError` for unknown ones, `Unsupported` where a CPU emulates it."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise BackboneError("SP-E404", f"dtype {dtype!r}", f"auto or one of {', '.join(DTYPES)}", "check --dtype")
    check_precision(DTYPES[dtype], device, "backbone.dtype")
    return DTYPES[dtype]
