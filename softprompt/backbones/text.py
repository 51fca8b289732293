"""Causal and encoder backbones, and what all language models share.

`embeds` are token embeddings before the family adds positions, types or a norm, so a vector that equals the embedding
of a token is that token. A prefix counts as P tokens before the row: text positions go on after it.
"""

import inspect
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from typing_extensions import override

from softprompt.attention import Prefixes, Stack
from softprompt.backbones.base import Backbone, Recorded
from softprompt.core import TEXT, Batch, Injection, Kind, Output, Prefix, Spec
from softprompt.errors import Unsupported
from softprompt.packed import Packed

PROBE = 4  # tokens of the forward that discovers the attention modules


def tokens_only(input_ids: Tensor, mask: Tensor | None = None) -> Batch:
    """A batch of plain tokens [B, T] without slots."""
    mask = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask
    return Batch(input_ids, mask, torch.full_like(input_ids, TEXT), vectors=0)


def positions(batch: Batch, injection: Injection, first: int = 0) -> Tensor:
    """Position ids [B, T] over real tokens, after the row's own prefix.

    Padding side, padding length and the other rows of the batch do not matter.
    """
    shift: Tensor | int = first
    if injection.prefix_mask is not None:
        shift = first + injection.prefix_mask.sum(-1, keepdim=True)
    elif injection.prefix is not None:
        shift = first + prefix_length(injection.prefix)
    counted = (batch.mask.cumsum(-1) - 1).clamp(min=0) + shift
    return counted[:, -batch.input_ids.shape[1] :]


def prefix_length(prefix: Prefix) -> int:
    """P, the number of places that a prefix takes."""
    return next((pair[0].shape[2] for pair in prefix if pair is not None), 0)


class Text(Backbone):
    """What all language models share: one stack that reads the batch."""

    kind: Kind
    causal: bool

    def __init__(self, model: Any, tokenizer: Any = None, name: str = "") -> None:
        super().__init__(model, tokenizer, name)
        self.first = first_position(self.stack())
        self.takes_positions = "position_ids" in inspect.signature(self.stack().forward).parameters
        prefixes = Prefixes(record=True)
        probe = tokens_only(torch.arange(PROBE, device=self.device)[None] + 1)
        states = self.seam(lambda: self.run(probe, Injection(), prefixes))
        self.attention_modules = self.attentions(prefixes)
        self.refuse(("cross", "decoder"), "it has no decoder of its own")
        self.refuse(("deep",), "only vision models take hidden states at every layer; give keys and values instead")
        self.spec = self.measure(prefixes, states.shape[-1])

    def measure(self, prefixes: Prefixes, states: int) -> Spec:
        """The sizes of this model, from what it did rather than from the names in its configuration."""
        rows = self.model.get_input_embeddings().weight.shape[0]
        sample = torch.linspace(0, rows - 1, min(rows, 4096), device=self.device).long()
        table = self.tokens(sample[None])[0].float()  # as the model scales it: Gemma multiplies by sqrt(H)
        key = prefixes.record[0][1][0] if self.attention_modules else table.new_zeros(1, 0, 1, 0)
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return Spec(
            kind=self.kind,
            hidden=table.shape[1],
            states=states,
            layers=len(self.attention_modules),
            kv_heads=key.shape[1],
            head_dim=key.shape[3],
            rms=table.square().mean().sqrt().item(),
            positions=limit and limit - self.first,
        )

    def stack(self) -> Any:
        """The stack that reads the batch, without a head."""
        return self.model.base_model

    def prefixes(self, injection: Injection) -> Prefixes | None:
        """What the attention function needs to know of this injection."""
        if injection.prefix is None:
            return None
        return Prefixes([Stack(self.attention_modules, injection.prefix, self.causal, keep=injection.prefix_mask)])

    def arguments(self, batch: Batch, injection: Injection, prefixes: Prefixes | None) -> dict[str, Any]:
        """The keywords of one forward of the stack."""
        given: dict[str, Any] = {"inputs_embeds": self.embed(batch, injection), "attention_mask": batch.mask.long()}
        if self.takes_positions:
            given["position_ids"] = positions(batch, injection, self.first)
        if prefixes is not None:
            given["prefixes"] = prefixes
        return given

    def run(self, batch: Batch, injection: Injection, prefixes: Prefixes | None) -> Tensor:
        """Hidden states [B, T, H] of the stack that reads the batch."""
        hidden: Tensor = self.stack()(**self.arguments(batch, injection, prefixes)).last_hidden_state
        return hidden

    @torch.no_grad()
    def record(self, batch: Batch) -> Recorded:
        """Keys and values that the layers make of a batch; raises `Unsupported` where they cannot be read."""
        self.accept(batch, Injection(prefix=()))
        prefixes = Prefixes(record=True)
        self.run(batch, Injection(), prefixes)
        return Recorded(prefixes.pairs(self.attention_modules))


class Causal(Text):
    """A decoder-only language model: Llama, GPT-2, Qwen and their kin."""

    kind: Kind = "causal"
    causal = True

    def __init__(self, model: Any, tokenizer: Any = None, name: str = "") -> None:
        super().__init__(model, tokenizer, name)
        self.windows = sliding(self.model.config.get_text_config(), len(self.attention_modules))

    def new_cache(self) -> Any:
        """An empty cache for `forward`, which fills it; it holds keys and values of tokens, never those of a prefix."""
        return DynamicCache(config=self.model.config)

    def forward(
        self, batch: Batch, injection: Injection, *, columns: Tensor | None = None, cache: Any = None
    ) -> Output:
        """As `Backbone.forward`. With a `cache`, `batch.input_ids` are the new tokens and `batch.mask` covers all."""
        self.accept(batch, injection)
        prefixes = self.prefixes(injection)
        given = self.arguments(batch, injection, prefixes)
        given |= {"past_key_values": cache, "use_cache": cache is not None}
        if columns is None:
            output = Output(hidden=self.stack()(**given).last_hidden_state)
        else:  # the model's own head, at the columns alone: models scale or cap their logits
            output = Output(logits=self.model(**given, logits_to_keep=columns).logits, columns=columns)
        if prefixes is not None:
            prefixes.check()
        return output

    @override
    def unpackable(self, batch: Batch, injection: Injection) -> str:
        if not self.attention_modules or not self.takes_positions:
            return self.unsupported.get("prefix") or "it takes no positions"
        if self.windows < 0:
            return "not all of its layers attend to everything or to a window"
        if batch.packing is None:
            return "a batch of one row has nothing to share"
        return "" if shared(injection) else "what the method adds depends on the row"

    @override
    def packed(self, batch: Batch, injection: Injection, *, logits: bool) -> Output:
        self.accept(batch, injection)
        packing = batch.packing
        assert packing is not None
        offset = None if injection.offset is None else injection.offset[:, packing.columns[0]]
        row = Batch(packing.input_ids, packing.columns >= 0, packing.slots, vectors=batch.vectors)
        state = Packed(packing, self.attention_modules, injection.prefix, self.windows)
        before = self.first + prefix_length(injection.prefix or ())
        given: dict[str, Any] = {"packed": state, "attention_mask": state.mask, "use_cache": False}
        given["inputs_embeds"] = self.embed(row, replace(injection, offset=offset))
        given["position_ids"] = packing.columns + before
        if logits:
            made = self.model(**given, logits_to_keep=packing.places).logits
            output = Output(logits=made.transpose(0, 1), columns=torch.zeros_like(packing.places[:1]))
        else:
            states = self.stack()(**given).last_hidden_state
            front = states[:, : packing.front].expand(len(batch), -1, -1)
            rest = states[0].index_select(0, packing.home.flatten()).view(*packing.home.shape, -1)
            output = Output(hidden=torch.cat([front, rest], 1))
        state.check()
        return output


class Encoder(Text):
    """A bidirectional encoder: BERT, RoBERTa, ELECTRA, DistilBERT; with or without its masked-language head."""

    kind: Kind = "encoder"
    causal = False

    def forward(self, batch: Batch, injection: Injection, *, columns: Tensor | None = None) -> Output:
        """As `Backbone.forward`; logits need a checkpoint with a masked-language head."""
        self.accept(batch, injection)
        prefixes = self.prefixes(injection)
        if columns is None:
            output = Output(hidden=self.run(batch, injection, prefixes))
        elif self.model is self.stack():
            raise Unsupported(
                "SP-E414",
                f"no masked-language head in {self.name or 'this encoder'}",
                "a backbone that predicts words",
                "train a classifier head instead (`--set task.head=classifier`)",
            )
        else:
            logits = self.model(**self.arguments(batch, injection, prefixes)).logits
            output = Output(logits=logits[:, columns], columns=columns)
        if prefixes is not None:
            prefixes.check()
        return output


def shared(injection: Injection) -> bool:
    """True where every row gets the same, and gets it as vectors or as keys and values."""
    others = (injection.cross, injection.deep, injection.prefix_mask, injection.decoder)
    pairs = [tensor for pair in injection.prefix or () if pair is not None for tensor in pair]
    given = [tensor for tensor in (injection.embeds, injection.offset, *pairs) if tensor is not None]
    return all(other is None for other in others) and all(len(tensor) == 1 for tensor in given)


def sliding(config: Any, depth: int) -> int:
    """How many of `depth` layers see a sliding window only; -1 where some layers do what is neither that nor full."""
    kinds = getattr(config, "layer_types", None)
    if getattr(config, "attention_chunk_size", None) or set(kinds or ()) - {"full_attention", "sliding_attention"}:
        return -1
    if kinds is not None:
        return list(kinds).count("sliding_attention")
    window = getattr(config, "sliding_window", None)
    return depth if window and getattr(config, "use_sliding_window", True) else 0


def first_position(stack: nn.Module) -> int:
    """The position id of a row's first token: RoBERTa's kin count from `padding_idx + 1`, all others from 0."""
    for name, module in stack.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.padding_idx + 1
    return 0
