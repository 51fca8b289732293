"""Language models of one stack, whose batches can run as one row, and whose last layer runs at labels alone.

Above the attention of the last layer, only the places with a label are ever looked at. So the last layer runs twice:
over all tokens until its keys and values are there, and then whole, but with the states of labels alone, whose queries
meet these keys. That is the layer's own code both times, so nothing has to be known of a family; whether it comes out
right is tried once, at load (`softprompt.backbones.probe`), and in the trial before the first step.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from softprompt.backbones.base import close
from softprompt.backbones.layers import bare, copied
from softprompt.backbones.text import Text, prefix_length, shared, tokens_only
from softprompt.core import TEXT, Batch, Below, Injection, Output, Packing
from softprompt.errors import Unsupported
from softprompt.packed import KeysMade, Packed, Several


class OneStack(Text):
    """What causal models and encoders share: a batch as one row (`core.Packing`)."""

    windows = 0  # layers that see a sliding window only; -1 where that is not all there is to some layer
    trims = False  # whether the last layer runs at labels alone; found out at load

    def windowed(self, first: int) -> int:
        """As `windows`, of the layers from `first` on."""
        return 0

    def words(self, model: Any, given: dict[str, Any], places: Tensor) -> Tensor:
        """Logits [J, 1, V] at places [J] of a row, of one forward of `model`."""
        raise TypeError(f"{type(self).__name__} must say how it speaks")

    @override
    def unpackable(self, batch: Batch, injection: Injection) -> str:
        if not self.attention_modules or not self.takes_positions:
            return self.unsupported.get("prefix") or "it takes no positions"
        if self.windows < 0:
            return "not all of its layers attend to everything or to a window"
        return one_row(self, batch, injection)

    @override
    def packed(self, batch: Batch, injection: Injection, *, logits: bool) -> Output:
        return self.together([batch], [injection], logits=logits)[0]

    @override
    def together(self, batches: Sequence[Batch], injections: Sequence[Injection], *, logits: bool) -> list[Output]:
        below = lower([batch.packing.below for batch in batches if batch.packing is not None])
        first = 0 if below is None else below.layer
        modules, windows = self.attention_modules[first:], self.windowed(first)
        states, rows, places, tokens = [], [], [], [0]
        for batch, injection in zip(batches, injections, strict=True):
            self.accept(batch, injection)
            packing = batch.packing
            assert packing is not None
            prefix = injection.prefix and injection.prefix[first:]
            states.append(Packed(packing, modules, prefix, windows, causal=self.causal))
            rows.append(self.row(batch, packing, injection))
            places.append(packing.places + sum(tokens))
            tokens.append(packing.columns.shape[1])
        state = Several(states, self.attention_modules[-1])
        given: dict[str, Any] = {"packed": state, "attention_mask": state.mask}
        given["inputs_embeds"], given["position_ids"] = (torch.cat(parts, 1) for parts in zip(*rows, strict=True))
        model = self.reader(below)
        if logits:
            wanted = torch.cat(places)
            said = self.words(self.shortened(model, state, wanted), given, wanted)
            parts = torch.split(said, state.labels)
            outputs = [Output(logits=part, columns=torch.zeros_like(wanted[:1])) for part in parts]
        else:
            hidden = model.base_model(**given).last_hidden_state.split(tokens[1:], 1)
            outputs = [Output(hidden=unpacked(part, batch)) for part, batch in zip(hidden, batches, strict=True)]
        state.check()
        return outputs

    def shortened(self, model: Any, state: Several, places: Tensor) -> Any:
        """The model with a last layer that answers at places [J] alone, where that spares anything."""
        if not self.trims or 2 * len(places) > sum(state.tokens) or not all(state.labels):
            return model
        assert self.layers is not None
        return self.layers.with_last(model, lambda layer: at_places(layer, state, places))

    def row(self, batch: Batch, packing: Packing, injection: Injection) -> tuple[Tensor, Tensor]:
        """Embeddings [1, N, H] and positions [1, N] of a packed row."""
        offset = None if injection.offset is None else injection.offset[:, packing.columns[0]]
        row = Batch(packing.input_ids, packing.columns >= 0, packing.slots, vectors=batch.vectors)
        before = self.first + prefix_length(injection.prefix or ())
        return self.embed(row, replace(injection, offset=offset)), packing.columns + before


def one_row(backbone: Text, batch: Batch, injection: Injection) -> str:
    """Why rows of a batch cannot stand in one row, whatever the model; empty where they can."""
    if batch.packing is None:
        return "a batch of one row has nothing to share"
    if injection.lesson is not None:
        return "what the method teaches is predicted in every row by itself"
    if batch.packing.fronted:
        return "only its front is to be shared"
    if batch.packing.front and not backbone.causal:
        return "a front is shared where every token sees the whole row"
    return "" if shared(injection) else "what the method adds depends on the row"


def at_places(layer: nn.Module, state: Several, places: Tensor) -> nn.Module:
    """A last layer that answers at places [J] of its row alone; what it answers elsewhere is zero.

    Its hooks run around both runs, once: a layer that lies in parts on several ranks has to stay whole between them.
    """
    made, layer = copied(layer), bare(layer)
    made.training = layer.training = False  # not run again in the backward pass: it could not break off twice

    def forward(*args: Any, **kwargs: Any) -> Any:
        states = args[0] if args else kwargs["hidden_states"]
        state.armed = True
        try:
            return layer(*args, **kwargs)  # with a window, it attends as any other
        except KeysMade as made:
            state.held = made.pair
        finally:
            state.armed = False
        chosen = narrowed(states.shape[1], places)
        answer = layer(*map(chosen, args), **{name: chosen(value) for name, value in kwargs.items()})
        state.held = None
        few = answer[0] if isinstance(answer, tuple) else answer
        whole = torch.zeros_like(states, dtype=few.dtype).index_copy(1, places, few)
        return (whole, *answer[1:]) if isinstance(answer, tuple) else whole

    made.__dict__["forward"] = forward
    return made


def narrowed(tokens: int, places: Tensor) -> Callable[[Any], Any]:
    """What makes of anything with a place for each of `tokens` tokens the same for `places` alone."""

    def choose(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(choose(part) for part in value)
        if isinstance(value, Tensor) and value.dim() > 1 and value.shape[:2] == (1, tokens):
            return value.index_select(1, places)
        return value

    return choose


def trimmable(backbone: OneStack, ids: Tensor) -> bool:
    """Whether logits at the ends of two rows, `ids` [1, T] and its first half, need a last layer at these alone."""
    tokens, half = ids.shape[1], ids.shape[1] // 2
    batch = tokens_only(torch.cat([ids, ids]))
    columns = torch.tensor([[*range(tokens), *range(half)]], device=ids.device)
    places = torch.tensor([tokens - 1, tokens + half - 1], device=ids.device)
    row, spans = ids[:, columns[0]], ((0, tokens), (tokens, tokens + half))
    home = torch.zeros_like(batch.input_ids)  # of hidden states, which nobody asks for here
    packing = Packing(row, torch.full_like(row, TEXT), columns, 0, spans, home, places, row[0, places, None])
    batch = replace(batch, packing=packing)
    if backbone.unpackable(batch, Injection()) or backbone.layers is None:
        return False
    try:
        whole = backbone.packed(batch, Injection(), logits=True).logits
        backbone.trims = True
        short = backbone.packed(batch, Injection(), logits=True).logits
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError, Unsupported):
        return False
    finally:
        backbone.trims = False
    assert whole is not None
    assert short is not None
    return close(short, whole)


def lower(parts: list[Below | None]) -> Below | None:
    """The states of packed rows one after the other; raises `ValueError` unless all begin at one layer, or none."""
    given = [part for part in parts if part is not None]
    if len(given) not in (0, len(parts)) or len({part.layer for part in given}) > 1:
        raise ValueError("rows that begin at different layers")
    return replace(given[0], states=torch.cat([part.states for part in given], 1)) if given else None


def unpacked(states: Tensor, batch: Batch) -> Tensor:
    """Hidden states [1, N, H] of a packed row in the places [B, T, H] of its batch."""
    packing = batch.packing
    assert packing is not None
    front = states[:, : packing.front].expand(len(batch), -1, -1)
    rest = states[0].index_select(0, packing.home.flatten()).view(*packing.home.shape, -1)
    return torch.cat([front, rest], 1)
