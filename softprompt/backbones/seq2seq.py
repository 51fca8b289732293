"""Encoder-decoder backbones: T5, BART and their kin.

On the encoder's side of an injection: `embeds`, `offset`, `prefix`. On the decoder's (`Injection.decoder`): `prefix`,
and `cross`, in front of the keys and values that the decoder's cross-attention makes of the encoder's states.
BART's kin count positions inside the model and cannot be told of a prefix: there a text starts at position 0 after it.
"""

import copy
import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache
from typing_extensions import override

from softprompt.attention import Bias, Prefixes, Stack
from softprompt.backbones.base import Recorded, stray_mask
from softprompt.backbones.layers import swapped
from softprompt.backbones.packing import one_row, unpacked
from softprompt.backbones.text import PROBE, Text, positions, tokens_only
from softprompt.core import IGNORE, Batch, Injection, Kind, Output, Packing
from softprompt.errors import Unsupported
from softprompt.packed import Packed


class Seq2Seq(Text):
    """An encoder-decoder: T5, BART and their kin. `batch.decoder` holds the decoder's tokens."""

    kind: Kind = "seq2seq"
    causal = False

    def __init__(self, model: Any, tokenizer: Any = None, name: str = "") -> None:
        super().__init__(model, tokenizer, name)
        self.unsupported.pop("decoder", None)
        self.unsupported["cross"] = "it belongs to `decoder`, the decoder's side of the injection"
        start = tokens_only(torch.arange(PROBE, device=self.device)[None] + 1)
        prefixes = Prefixes(record=True)
        with torch.no_grad():
            self.decode(start, start, Injection(), self.run(start, Injection(), None), prefixes)
        found = self.attentions(prefixes)
        self.decoder_modules = [module for module in found if module.is_causal]
        self.cross_modules = [module for module in found if not module.is_causal]
        if found and not len(self.decoder_modules) == len(self.cross_modules) == len(found) / 2:
            self.refuse(("prefix",), "its decoder does not alternate self-attention and cross-attention")
        self.spec = replace(self.spec, decoder_layers=len(self.decoder_modules))

    def new_cache(self) -> Any:
        """An empty cache for `forward`: what the decoder made of its tokens, and of the encoder's states."""
        return EncoderDecoderCache(DynamicCache(), DynamicCache())

    def stack(self) -> Any:
        """The encoder."""
        return self.model.get_encoder()

    def prefixes(self, injection: Injection) -> Prefixes | None:
        """Stacks of the encoder, of the decoder and of cross-attention."""
        side = injection.decoder or Injection()
        stacks = []
        if injection.prefix is not None:
            bias = relative_bias(self.attention_modules)
            adjoins(bias, injection.prefix_mask)
            stacks.append(Stack(self.attention_modules, injection.prefix, False, bias, injection.prefix_mask))
        if side.prefix is not None:
            bias = relative_bias(self.decoder_modules)
            adjoins(bias, side.prefix_mask)
            stacks.append(Stack(self.decoder_modules, side.prefix, True, bias, side.prefix_mask))
        if side.cross is not None:  # cross-attention has no order, so no bias
            stacks.append(Stack(self.cross_modules, side.cross, False, keep=side.prefix_mask))
        return Prefixes(stacks) if stacks else None

    def accept(self, batch: Batch, injection: Injection) -> None:
        """As `Backbone.accept`, on both sides."""
        super().accept(batch, injection)
        side = injection.decoder
        # With positions by distance, a prefix in front of padding would be as much further away as the padding is wide.
        by_distance = relative_bias(self.attention_modules) is not None
        if by_distance and injection.prefix is not None:
            self.refuse_left_padding(batch)
        if batch.decoder is not None and (not self.pads_left or (by_distance and side and side.prefix is not None)):
            self.refuse_left_padding(batch.decoder)
        if side is None:
            return
        if batch.decoder is None:
            raise Unsupported(
                "SP-E415", "an injection for the decoder", "a batch with a decoder side", "give `decoder`"
            )
        if side.prefix_mask is not None and side.prefix is None and side.cross is None:
            raise stray_mask()
        for field in ("embeds", "offset", "deep", "decoder", "penalty", "lesson"):
            if getattr(side, field) is not None:
                raise Unsupported(
                    "SP-E410",
                    f"'{field}' on the decoder of {self.name or 'this backbone'}",
                    "prefix and cross on the decoder",
                    "put prompt vectors into the encoder's text",
                )

    def forward(
        self,
        batch: Batch,
        injection: Injection,
        *,
        columns: Tensor | None = None,
        memory: Tensor | None = None,
        cache: Any = None,
    ) -> Output:
        """Encoder states [B, T, H], or decoder logits [B, J, V] at `columns`.

        `memory` [B, T, H] are encoder states of an earlier call, `cache` the decoder's keys and values so far.
        """
        self.accept(batch, injection)
        if columns is not None and batch.decoder is None:
            raise Unsupported("SP-E415", "no decoder tokens", "a batch with a decoder side", "give `decoder`")
        if columns is None and injection.decoder is not None:
            raise Unsupported(
                "SP-E415",
                "an injection for a decoder that does not run",
                "a head that reads the decoder's logits",
                "use a verbalizer or language-model head, or let the prefix reach the encoder only",
            )
        # With a memory the encoder does not run again: its prefix, if there is one, is in the states already.
        prefixes = self.prefixes(injection if memory is None else replace(injection, prefix=None, prefix_mask=None))
        if memory is None:
            memory = self.run(batch, injection, prefixes)
        output = Output(hidden=memory)
        if columns is not None and batch.decoder is not None:
            logits = self.decode(batch, batch.decoder, injection, memory, prefixes, cache)
            output = Output(logits=logits[:, columns], columns=columns)
        if prefixes is not None:
            prefixes.check()
        return output

    @override
    def unpackable(self, batch: Batch, injection: Injection) -> str:
        if not self.attention_modules or relative_bias(self.attention_modules) is None:
            return "its encoder counts positions by itself"
        if injection.prefix is not None:
            return "a prefix of its encoder is at another distance in every row"
        if self.device.type != "cpu":
            return "a bias by distance is added on the CPU alone"
        return one_row(self, batch, replace(injection, decoder=None))

    @override
    def packed(self, batch: Batch, injection: Injection, *, logits: bool) -> Output:
        self.accept(batch, injection)
        assert batch.packing is not None
        memory = unpacked(self.encoded(batch, batch.packing, injection), batch)
        if not logits:
            return Output(hidden=memory)
        assert batch.decoder is not None
        assert batch.decoder.labels is not None
        columns = (batch.decoder.labels != IGNORE).any(0).nonzero()[:, 0]
        return self.forward(batch, injection, columns=columns, memory=memory)

    @override
    def together(self, batches: Sequence[Batch], injections: Sequence[Injection], *, logits: bool) -> list[Output]:
        return [self.packed(b, given, logits=logits) for b, given in zip(batches, injections, strict=True)]

    def encoded(self, batch: Batch, packing: Packing, injection: Injection) -> Tensor:
        """Encoder states [1, N, H] of a packed row.

        Left alone, the first layer would make a table of all pairs in the row. Rows need it for their longest only: the
        bias knows nothing but distances.
        """
        first: Any = self.attention_modules[0]
        with torch.no_grad():
            table = first.compute_bias(packing.longest, packing.longest, device=self.device)
        brief = copy.copy(first)
        brief.__dict__["compute_bias"] = lambda *_, **__: table
        path = next(name for name, module in self.stack().named_modules() if module is first).split(".")
        state = Packed(packing, [brief, *self.attention_modules[1:]], None, 0, causal=False, biased=True)
        offset = None if injection.offset is None else injection.offset[:, packing.columns[0]]
        row = Batch(packing.input_ids, packing.columns >= 0, packing.slots, vectors=batch.vectors)
        embeds = self.embed(row, replace(injection, offset=offset))
        stack: Any = swapped(self.stack(), tuple(path[:-1]), {path[-1]: brief})
        states: Tensor = stack(inputs_embeds=embeds, attention_mask=state.mask, packed=state).last_hidden_state
        state.check()
        return states

    def decode(
        self,
        batch: Batch,
        target: Batch,
        injection: Injection,
        memory: Tensor,
        prefixes: Prefixes | None,
        cache: Any = None,
    ) -> Tensor:
        """Logits [B, T', V] of the decoder over encoder states `memory` [B, T, H]."""
        given: dict[str, Any] = {} if prefixes is None else {"prefixes": prefixes}
        accepted = inspect.signature(self.model.get_decoder().forward).parameters
        if "position_ids" in accepted:
            given["decoder_position_ids"] = positions(target, injection.decoder or Injection())
        logits: Tensor = self.model(
            encoder_outputs=(memory,),
            attention_mask=batch.mask.long(),
            decoder_input_ids=target.input_ids,
            decoder_attention_mask=target.mask.long(),
            past_key_values=cache,
            use_cache=cache is not None,
            **given,
        ).logits
        return logits

    @torch.no_grad()
    def record(self, batch: Batch) -> Recorded:
        """Encoder, decoder and cross-attention keys and values of a text (the decoder reads the same tokens)."""
        self.accept(batch, Injection(prefix=()))
        prefixes = Prefixes(record=True)
        memory = self.run(batch, Injection(), prefixes)
        self.decode(batch, tokens_only(batch.input_ids, batch.mask), Injection(), memory, prefixes)
        return Recorded(
            prefixes.pairs(self.attention_modules),
            prefixes.pairs(self.decoder_modules),
            prefixes.pairs(self.cross_modules),
        )


def adjoins(bias: Bias | None, keep: Tensor | None) -> None:
    """Raise where a bias by distance would be wrong: masked places must come before the real ones of their row."""
    if bias is not None and keep is not None and bool((keep[:, :-1] & ~keep[:, 1:]).any()):
        raise Unsupported(
            "SP-E418",
            "a prefix_mask that hides places between a prefix and its text",
            "short prefixes filled up in front, for a model with positions by distance",
            "put the masked places first",
        )


def relative_bias(modules: list[nn.Module]) -> Bias | None:
    """T5's bias by distance for the places of a prefix, as if real tokens stood there; None for other families."""
    first: Any = modules[0] if modules else None
    if first is None or not getattr(first, "has_relative_attention_bias", False):
        return None

    def bias(length: int, queries: int, keys: int) -> Tensor:
        device = first.relative_attention_bias.weight.device
        seen = length + keys - queries  # real tokens before the first query, the prefix included
        whole: Tensor = first.compute_bias(queries, length + keys, device=device, past_seen_tokens=seen)
        return whole[..., :length]

    return bias
