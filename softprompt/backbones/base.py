"""The frozen model and the one place where an `Injection` meets it."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from softprompt.attention import NAME, Prefixes
from softprompt.core import TEXT, Batch, Below, Injection, Output, Prefix, Spec
from softprompt.errors import Unsupported


@dataclass(frozen=True)
class Recorded:
    """Keys and values per layer, [B, K, T, D] each: of the (first) stack, the decoder, and its cross-attention."""

    prefix: Prefix
    decoder: Prefix | None = None
    cross: Prefix | None = None


SAMPLES = 256  # values of every weight tensor that enter the fingerprint


class Backbone(nn.Module):
    """A frozen transformers model. `forward(batch, injection)` is the only way in.

    `unsupported` maps a field of `Injection` to the reason why this model cannot take it; it is filled by probing once,
    at load (`softprompt.backbones.probe`).
    """

    spec: Spec
    model: Any  # a transformers model; typed where transformers types it, which is nowhere we look
    sharded = False  # True: its layers lie in parts on all ranks, which have to run as many forwards (`sharding`)

    def __init__(self, model: Any, tokenizer: Any = None, name: str = "") -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.tokenizer, self.name = tokenizer, name
        self.unsupported: dict[str, str] = {}
        self.pads_left = True  # False where positions depend on padding

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in eval mode: a frozen backbone has no dropout."""
        return super().train(False)

    def recompute(self, on: bool) -> None:
        """Activation checkpointing: layers are run again in the backward pass instead of being remembered.

        transformers recomputes only layers in train mode. The flag is set on the layers alone, their parts stay in eval
        mode, and rates of dropout that a layer applies itself become zero: a frozen backbone has no dropout.
        """
        if not on:
            self.model.eval()
            return
        self.model.gradient_checkpointing_enable({"use_reentrant": False})
        for layer in self.model.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.training = True
                for rate in ("dropout", "activation_dropout"):
                    if isinstance(getattr(layer, rate, None), float):
                        setattr(layer, rate, 0.0)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The type that the weights are computed in."""
        dtype: torch.dtype = next(self.model.parameters()).dtype
        return dtype

    def seam(self, trial: Callable[[], Tensor]) -> Tensor:
        """Route the model's attention through `softprompt.attention`, where a trial forward shows that it can be.

        Returns the result of `trial` by the model's own attention; marks keys and values as not supported where the
        model refuses, and where its answer changes.
        """
        before = self.model.config._attn_implementation
        if before == NAME:  # wrapped before: what the model does by itself has to be asked again
            before = "sdpa"
            self.model.set_attn_implementation(before)
        with torch.no_grad():
            own = trial()
            try:
                self.model.set_attn_implementation(NAME)
                why = "" if close(trial(), own) else "its attention does more than the registry says"  # GPT-OSS's sinks
            except ValueError as refusal:  # Gemma 2 caps its scores, which no fused attention can
                why = str(refusal).splitlines()[0]
        if why:
            self.model.set_attn_implementation(before)
            self.refuse(("prefix", "cross", "deep", "prefix_mask"), why)
        return own

    def attentions(self, prefixes: Prefixes) -> list[nn.Module]:
        """The attention modules that were recorded, in the order in which they ran; empty where they cannot be used."""
        if "prefix" in self.unsupported:
            return []
        modules = [module for module, _ in prefixes.record]
        shared = len({id(module) for module in modules}) < len(modules)
        if shared or not modules:
            why = "its layers share one attention module" if shared else "its attention is not in the registry"
            self.refuse(("prefix", "cross", "deep", "prefix_mask"), why)
            return []
        return modules

    def refuse(self, fields: tuple[str, ...], reason: str) -> None:
        """Mark fields of `Injection` as not supported by this model."""
        self.unsupported |= {field: self.unsupported.get(field, reason) for field in fields}

    def forward(self, batch: Batch, injection: Injection, *, columns: Tensor | None = None) -> Output:
        """Hidden states [B, T, H], or, with `columns` [J], logits [B, J, V] at those positions.

        Raises `Unsupported` where this family cannot take a field of the injection.
        """
        raise TypeError(f"{type(self).__name__} must say how it runs")

    def unpackable(self, batch: Batch, injection: Injection) -> str:
        """Why this batch cannot run as one row with this injection; empty where it can (`packed`)."""
        return "only causal models let a batch share its front"

    def packed(self, batch: Batch, injection: Injection, *, logits: bool) -> Output:
        """As `forward`, through `batch.packing`: hidden states [B, T, H], or logits [J, 1, V] where labels are."""
        raise TypeError(f"{type(self).__name__} does not pack")

    def unfronted(self, batch: Batch, injection: Injection) -> str:
        """Why padded rows of this batch cannot share their front with this injection; empty where they can."""
        return "only causal models let a batch share its front"

    def behind(self, batch: Batch, injection: Injection, columns: Tensor | None) -> Output:
        """As `forward`, with what all rows begin with (`batch.packing.front`) run once for all of them."""
        raise TypeError(f"{type(self).__name__} shares no front")

    def undivided(self, below: Below, injection: Injection) -> str:
        """Why a batch cannot begin at `below` with this injection; empty where it can (`Batch.below`)."""
        return "only language models of one stack run their upper layers alone"

    def below(self, batch: Batch, layer: int, before: int) -> Tensor:
        """What `layer` reads [B, T, H] of tokens that stand after `before` places; see `core.Below`."""
        raise TypeError(f"{type(self).__name__} does not run its lower layers alone")

    def together(self, batches: Sequence[Batch], injections: Sequence[Injection], *, logits: bool) -> list[Output]:
        """As `packed`, of several batches, each with an injection of its own, in one forward."""
        raise TypeError(f"{type(self).__name__} does not pack")

    def embed(self, batch: Batch, injection: Injection) -> Tensor:
        """Token embeddings with prompt vectors in the slots. Returns [B, T, H]."""
        x: Tensor = self.tokens(batch.input_ids)
        in_slot = (batch.slots != TEXT)[..., None]
        if injection.offset is not None:
            x = torch.where(in_slot, x, x + injection.offset.to(x.dtype))
        if injection.embeds is None:
            return x
        vectors = injection.embeds.to(x.dtype).expand(len(x), -1, -1)
        index = batch.slots.clamp(min=0)[..., None].expand(-1, -1, x.shape[-1])
        return torch.where(in_slot, vectors.gather(1, index), x)

    def tokens(self, input_ids: Tensor) -> Tensor:
        """The frozen embeddings of token ids [B, T]; [B, T, H]."""
        embedded: Tensor = self.model.get_input_embeddings()(input_ids)
        return embedded

    def accept(self, batch: Batch, injection: Injection) -> None:
        """Raise where something given would be ignored, or something needed is missing."""
        for field, reason in self.unsupported.items():
            if getattr(injection, field) is not None:
                raise Unsupported(
                    "SP-E410",
                    f"'{field}' for {self.name or 'this backbone'} ({self.model.config.model_type}): {reason}",
                    "a method that this family supports",
                    "run `softprompt methods --model ...` to see which methods work here",
                )
        if batch.below is not None and (why := self.undivided(batch.below, injection)):
            do = "leave train.cache to auto, or set it to none"
            raise Unsupported("SP-E424", f"states to start from, and {why}", "states that hold", do)
        if not self.pads_left:
            self.refuse_left_padding(batch)
        if injection.prefix_mask is not None and injection.prefix is None and injection.deep is None:
            raise stray_mask()
        given = 0 if injection.embeds is None else injection.embeds.shape[1]
        if batch.vectors != given:
            raise Unsupported(
                "SP-E412",
                f"{given} prompt vectors and slots for {batch.vectors}",
                "as many slots in the template as the method has vectors",
                "write {soft:N} into the template, or leave the template out",
            )

    def refuse_left_padding(self, batch: Batch) -> None:
        """Raise where a row starts with padding, for families that count padding as text."""
        if not bool(batch.mask[:, 0].all()):
            raise Unsupported(
                "SP-E417",
                "padding on the left",
                f"rows padded on the right: positions of {self.model.config.model_type} depend on the padding",
                "pad on the right, or generate with --batch-size 1",
            )

    def record(self, batch: Batch) -> Recorded:
        """Keys and values [B, K, T, D] that every attention layer makes of a batch."""
        raise TypeError(f"{type(self).__name__} must say how it records")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the architecture and a sample of every weight, the same for float32 and bfloat16 copies."""
        digest = hashlib.sha256(type(self.model).__name__.encode())
        for name, weight in sorted(self.model.state_dict().items()):
            flat = weight.detach().reshape(-1)
            count = min(SAMPLES, len(flat))
            # In whole numbers: float32 cannot count the places of a large table, and devices round differently.
            index = torch.arange(count, device=flat.device) * (len(flat) - 1) // max(1, count - 1)
            values = flat[index].to(torch.bfloat16).float().cpu()
            digest.update(f"{name}{tuple(weight.shape)}".encode() + values.numpy().tobytes())
        return digest.hexdigest()


def stray_mask() -> Unsupported:
    """The error for a `prefix_mask` without a prefix that it could cover."""
    return Unsupported(
        "SP-E418", "a prefix_mask without a prefix", "a prefix that the mask covers", "leave the mask out"
    )


def gap(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the scale of `b`."""
    return ((a.float() - b.float()).abs().max() / b.float().abs().max().clamp(min=1e-9)).item()


def close(a: Tensor, b: Tensor) -> bool:
    """Equal up to rounding in the type at hand."""
    loose = 5e-2 if a.dtype in (torch.bfloat16, torch.float16) else 1e-4
    return gap(a, b) <= loose
