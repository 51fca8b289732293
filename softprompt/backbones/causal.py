"""Decoder-only backbones."""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from typing_extensions import override

from softprompt.backbones.packing import OneStack
from softprompt.backbones.text import shared
from softprompt.core import Batch, Injection, Kind, Output


class Causal(OneStack):
    """A decoder-only language model: Llama, GPT-2, Qwen and their kin."""

    kind: Kind = "causal"
    causal = True

    def __init__(self, model: Any, tokenizer: Any = None, name: str = "") -> None:
        super().__init__(model, tokenizer, name)
        self.windows = self.windowed(0)

    @override
    def windowed(self, first: int) -> int:
        """How many layers from `first` on see a sliding window only; -1 where that is not all there is to them."""
        return sliding(self.model.config.get_text_config(), len(self.attention_modules), first)

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
            output = Output(hidden=self.reader(batch.below).base_model(**given).last_hidden_state)
        else:  # the model's own head, at the columns alone: models scale or cap their logits
            output = Output(logits=self.reader(batch.below)(**given, logits_to_keep=columns).logits, columns=columns)
        if prefixes is not None:
            prefixes.check()
        return output

    @override
    def unfronted(self, batch: Batch, injection: Injection) -> str:
        if self.sharded:
            return "ranks that share a backbone run as many forwards, and not every batch has a front"
        if batch.packing is None or not batch.packing.front:
            return "rows that begin alike"
        if batch.below is not None or injection.prefix is not None:
            return "nothing in front of the rows but tokens and prompt vectors"
        if injection.lesson is not None:
            return "what the method teaches is predicted in every row by itself"
        return "" if shared(injection) else "what the method adds depends on the row"

    @override
    def behind(self, batch: Batch, injection: Injection, columns: Tensor | None) -> Output:
        self.accept(batch, injection)
        assert batch.packing is not None
        length = batch.packing.front
        embeds, given = self.embed(batch, injection), self.arguments(batch, injection, None)
        cache = self.new_cache()
        first = {"inputs_embeds": embeds[:1, :length], "attention_mask": given["attention_mask"][:1, :length]}
        rest = {"inputs_embeds": embeds[:, length:], "attention_mask": given["attention_mask"]}
        if "position_ids" in given:
            first["position_ids"] = given["position_ids"][:1, :length]
            rest["position_ids"] = given["position_ids"][:, length:]
        front = self.model.base_model(**first, past_key_values=cache, use_cache=True).last_hidden_state
        cache.batch_repeat_interleave(len(batch))  # gradients of all copies come together at the one front
        rest |= {"past_key_values": cache, "use_cache": True}
        if columns is None:
            hidden = self.model.base_model(**rest).last_hidden_state
            return Output(hidden=torch.cat([front.expand(len(batch), -1, -1), hidden], 1))
        return Output(logits=self.model(**rest, logits_to_keep=columns - length).logits, columns=columns)

    @override
    def words(self, model: Any, given: dict[str, Any], places: Tensor) -> Tensor:
        logits: Tensor = model(**given, use_cache=False, logits_to_keep=places).logits
        return logits.transpose(0, 1)


def sliding(config: Any, depth: int, first: int) -> int:
    """How many of layers `first` to `depth` see a window only; -1 where some layer does not attend, or otherwise."""
    kinds = getattr(config, "layer_types", None)
    if getattr(config, "attention_chunk_size", None) or set(kinds or ()) - {"full_attention", "sliding_attention"}:
        return -1
    if kinds is not None:
        return list(kinds)[first:].count("sliding_attention")
    window = getattr(config, "sliding_window", None)
    return depth - first if window and getattr(config, "use_sliding_window", True) else 0
