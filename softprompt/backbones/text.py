"""What all language models share: the one way in for tokens, prompt vectors, keys and values.

`embeds` are token embeddings before the family adds positions, types or a norm, so a vector that equals the embedding
of a token is that token. A prefix counts as P tokens before the row: text positions go on after it.
"""

import inspect
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from softprompt.attention import Prefixes, Stack
from softprompt.backbones.base import Backbone, Recorded
from softprompt.backbones.layers import Layers, find_layers
from softprompt.core import TEXT, Batch, Below, Injection, Kind, Prefix, Spec, entry

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

    @cached_property
    def layers(self) -> Layers | None:
        """Where the stack keeps its layers, for families whose upper layers can be run alone."""
        if self.kind == "seq2seq":
            return None
        probe = self.arguments(tokens_only(torch.arange(PROBE, device=self.device)[None] + 1), Injection(), None)
        with torch.no_grad():
            return find_layers(self.model, self.attention_modules, lambda model: model.base_model(**probe))

    def reader(self, below: Below | None) -> Any:
        """The model; or, with states to start from, its layers above them."""
        if below is None:
            return self.model
        assert self.layers is not None
        return self.layers.above(self.model, below.layer, below.states)

    @override
    def undivided(self, below: Below, injection: Injection) -> str:
        if self.layers is None:
            return "this model has no list of layers that could be told apart"
        if entry(injection) < below.layer:
            return f"something that enters at layer {entry(injection)}, below layer {below.layer}"
        length = prefix_length(injection.prefix or ())
        return "" if length == below.before else f"a prefix of {length} places, not of {below.before}"

    @override
    @torch.no_grad()
    def below(self, batch: Batch, layer: int, before: int) -> Tensor:
        assert self.layers is not None
        given = self.arguments(batch, Injection(), None)
        if self.takes_positions:
            given["position_ids"] = positions(batch, Injection(), self.first + before)
        return self.layers.below(self.model, layer, lambda model: model.base_model(**given))

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
        stack = self.stack() if batch.below is None else self.reader(batch.below).base_model
        hidden: Tensor = stack(**self.arguments(batch, injection, prefixes)).last_hidden_state
        return hidden

    @torch.no_grad()
    def record(self, batch: Batch) -> Recorded:
        """Keys and values that the layers make of a batch; raises `Unsupported` where they cannot be read."""
        self.accept(batch, Injection(prefix=()))
        prefixes = Prefixes(record=True)
        self.run(batch, Injection(), prefixes)
        return Recorded(prefixes.pairs(self.attention_modules))


def shared(injection: Injection) -> bool:
    """True where every row gets the same, and gets it as vectors or as keys and values."""
    others = (injection.cross, injection.deep, injection.prefix_mask, injection.decoder)
    pairs = [tensor for pair in injection.prefix or () if pair is not None for tensor in pair]
    given = [tensor for tensor in (injection.embeds, injection.offset, *pairs) if tensor is not None]
    return all(other is None for other in others) and all(len(tensor) == 1 for tensor in given)


def first_position(stack: nn.Module) -> int:
    """The position id of a row's first token: RoBERTa's kin count from `padding_idx + 1`, all others from 0."""
    for name, module in stack.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.padding_idx + 1
    return 0
