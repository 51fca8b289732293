"""The two files of a PEFT adapter, `adapter_config.json` and `adapter_model.safetensors`, read as strangers' files."""

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from softprompt.container import read_foreign, write_foreign
from softprompt.errors import ArtifactError, near
from softprompt.files import read_regular, write_atomically

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
TENSOR = "prompt_embeddings"
CONFIG_LIMIT = 1 << 20  # bytes
TYPES = ["PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"]


class Adapter(BaseModel):
    """What is read of `adapter_config.json`; its other keys say how an adapter was trained, not what it does."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    peft_type: str
    task_type: str | None = None
    num_virtual_tokens: int = Field(ge=1, le=10_000)
    num_transformer_submodules: int | None = None  # 2 for an encoder-decoder
    num_layers: int | None = None
    num_attention_heads: int | None = None  # of a prefix: heads of keys and values
    token_dim: int | None = None  # of a prefix: the width of a layer's keys


def read_config(folder: Path) -> Adapter:
    """`adapter_config.json`, read strictly; raises `ArtifactError` for other JSON and for other kinds of adapter."""
    path = folder / CONFIG
    data = read_regular(path, CONFIG_LIMIT)
    try:
        content = json.loads(data, object_pairs_hook=unique, parse_constant=no_constant)
        if isinstance(content, dict) and content.get("peft_type") not in TYPES:
            kind = str(content.get("peft_type"))[:40]
            raise refuse(
                "SP-E331",
                f"an adapter of type {kind!r}{near(kind, TYPES)}",
                f"one of {', '.join(TYPES)}",
                "other adapters change the model itself, and cannot be read as a prompt",
                path,
            )
        return Adapter.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        found = f"{'.'.join(str(part) for part in first['loc']) or 'content'}: {first['msg']}"
        raise refuse("SP-E330", found, "the configuration of a PEFT prompt", "get the adapter again", path) from error
    except (ValueError, RecursionError) as error:
        raise refuse(
            "SP-E330", f"no valid JSON ({error})"[:200], "a JSON object", "get the adapter again", path
        ) from error


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys all differ; raises `ValueError` for any other."""
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key more than once")
    return dict(pairs)


def no_constant(name: str) -> float:
    """Refuse NaN and Infinity, which are not JSON."""
    raise ValueError(f"{name} is not JSON")


def read_tensor(folder: Path) -> Tensor:
    """The one tensor of an adapter, in float32; raises `ArtifactError` for pickles and for adapters that hold more."""
    if (folder / PICKLE).exists() and not (folder / WEIGHTS).exists():
        raise refuse(
            "SP-E332",
            f"{PICKLE}, a pickle, which could run code; not opened",
            WEIGHTS,
            "save the adapter again with safe_serialization=True",
            folder,
        )
    tensors = read_foreign(folder / WEIGHTS)
    others = sorted(name for name in tensors if name != TENSOR)
    if others or TENSOR not in tensors:
        raise refuse(
            "SP-E332",
            f"tensor {others[0]!r}" if others else "no tensor",
            f"{TENSOR!r} alone: a trained head reads what PEFT pools, which is not what ours read",
            "train a prompt for this task",
            folder / WEIGHTS,
        )
    return tensors[TENSOR].float()


def write_adapter(folder: Path, tensor: Tensor, config: dict[str, Any]) -> None:
    """Both files, each whole or absent; the configuration last, because PEFT looks for it first."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refuse("SP-E338", f"{error.strerror}", "to make the folder", "choose another folder", folder) from error
    write_foreign(folder / WEIGHTS, {TENSOR: tensor})
    write_atomically(folder / CONFIG, json.dumps(config, indent=2, sort_keys=True).encode())


def dealt(layer: int, depth: int) -> int:
    """Which stored pair a decoder layer of an encoder-decoder gets from PEFT.

    PEFT repeats the pairs and deals them out by two, one for self-attention and one for cross-attention, which it then
    throws away: layer i gets pair 2i, counted round. With an even number of layers, two layers share a pair.
    """
    return 2 * layer % depth


def undealt(made: Tensor, where: str) -> Tensor:
    """Keys and values [L, 2, K, P, D] in PEFT's order; raises `ArtifactError` where two layers would need one place."""
    depth = len(made)
    stored = torch.zeros_like(made)  # PEFT reads no place that stays empty
    for layer in range(depth):
        stored[dealt(layer, depth)] = made[layer]
    if not all(torch.equal(stored[dealt(layer, depth)], made[layer]) for layer in range(depth)):
        raise refuse(
            "SP-E336",
            f"a prefix for {depth} decoder layers",
            "an odd number: with an even one PEFT gives two layers the same keys and values",
            "use softprompt itself for this prompt",
            where,
        )
    return stored


def refuse(code: str, found: str, expected: str, do: str, where: str | Path) -> ArtifactError:
    """An adapter or a prompt that has no equal on the other side."""
    return ArtifactError(code, found, expected, do, where=str(where) or None)
