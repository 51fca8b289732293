"""Prefix tuning: trainable keys and values in front of those of every layer.

Li, Liang 2021, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", arXiv:2101.00190, section 4, with the
reparameterisation P[i] = MLP(P'[i]); Liu et al. 2022, "P-Tuning v2", arXiv:2110.07602, which is the same without it.
"""

from collections.abc import Mapping
from typing import Literal, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from softprompt.core import Batch, Injection, Pair, Prefix, Spec, Start
from softprompt.errors import RecipeError
from softprompt.methods.base import Group, Method, network_unit, start_at

Reach = Literal["all", "encoder", "decoder", "cross"]


class PrefixTuning(Method):
    """P keys and values a layer; with `bottleneck` they are made by an MLP that is discarded after training.

    `reach` chooses the stacks of an encoder-decoder: the paper trains all three (encoder, decoder, cross-attention).
    `layers` chooses one layer or a range such as "4-5" (from 0, both included) of every stack reached; empty means all.
    """

    paper = 'Li, Liang 2021, "Prefix-Tuning", 2101.00190; without MLP: Liu et al. 2022, "P-Tuning v2", 2110.07602'
    summary = "P keys and values in every layer"
    slots = False
    default_init = "text"
    default_head = "classifier"
    travel = 8.0  # keys and values act in every layer at once: what suits embeddings destroys them (docs/results.md)

    def __init__(
        self,
        spec: Spec,
        start: Start,
        *,
        bottleneck: int = 0,
        reach: Reach = "all",
        layers: str | int = "",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(spec, start)
        self.bottleneck, self.reach, self.layers, self.dropout = bottleneck, reach, str(layers), dropout
        self.chosen = {side: parse_layers(self.layers, depth_of(spec, side)) for side in sides(spec, reach)}
        given = {"encoder": start.prefix, "decoder": start.decoder, "cross": start.cross}
        refuse_loss(start, list(self.chosen))
        refuse_lost_layers({side: given[side] for side in start.stored}, self.chosen)
        self.stacks = nn.ModuleDict()
        for side, chosen in self.chosen.items():
            entries = given[side]
            pairs = None if entries is None else [pair for i in chosen if (pair := entries[i]) is not None]
            self.stacks[side] = Stack(spec, start.embeds, len(chosen), bottleneck, pairs)
        self.drop = nn.Dropout(dropout)

    @override
    def forward(self, batch: Batch, text: Tensor) -> Injection:
        made = {
            side: by_layer(self.drop(stack()), self.chosen[side], depth_of(self.spec, side))
            for side, stack in self.parts().items()
        }
        decoder = Injection(prefix=made.get("decoder"), cross=made.get("cross"))
        return Injection(prefix=made.get("encoder"), decoder=decoder if made.keys() - {"encoder"} else None)

    def parts(self) -> dict[str, "Stack"]:
        """The stacks of keys and values by side."""
        return {side: cast(Stack, stack) for side, stack in self.stacks.items()}

    @override
    def groups(self) -> list[Group]:
        return [group for stack in self.parts().values() for group in stack.groups()]

    @override
    def fold(self) -> Method:
        start = Start(torch.zeros(self.length, self.spec.hidden))
        folded = PrefixTuning(self.spec, start, reach=self.reach, layers=self.layers)
        for side, stack in self.parts().items():
            folded.parts()[side].prefix.data = stack().detach().clone()
        return folded

    @property
    @override
    def length(self) -> int:
        return next(iter(self.parts().values())).length


class Stack(nn.Module):
    """The keys and values [L, 2, K, P, D] of one stack of layers, direct or through P'[P, H] and an MLP.

    What is trained is in units of the start's own scale, layer by layer, keys and values apart: keys are often ten
    times values, and a step that suits one would not move, or blow up, the other. Without a start the unit is 1, so the
    tensor of a folded prompt is the prefix itself.
    """

    def __init__(self, spec: Spec, embeds: Tensor, depth: int, bottleneck: int, start: list[Pair] | None) -> None:
        super().__init__()
        self.length, self.bottleneck = len(embeds), bottleneck
        self.shape = (depth, 2, spec.kv_heads, self.length, spec.head_dim)
        made = torch.randn(self.shape) if start is None else torch.stack([torch.cat(pair) for pair in start])
        if made.shape != self.shape:
            raise ValueError(f"keys and values of shape {tuple(made.shape)} cannot start a prefix of {self.shape}")
        unit = torch.ones(depth, 2, 1, 1, 1) if start is None else rms(made)
        self.register_buffer("unit", unit)  # saved with the rest: numbers without their unit would be wrong in silence
        if not bottleneck:
            self.prefix = nn.Parameter(made / unit)
            return
        width = made.numel() // self.length
        self.source = nn.Parameter(embeds / spec.rms)  # P' at unit scale, so that tanh bends but does not saturate
        self.inner, self.outer = nn.Linear(spec.hidden, bottleneck), nn.Linear(bottleneck, width)
        # Deviation: the authors fit the MLP to keys and values of a word by 500 Adam steps (low-data setting).
        target = (made / unit).permute(3, 0, 1, 2, 4).reshape(self.length, width)
        start_at(self.outer, self.features().detach(), target)

    def features(self) -> Tensor:
        """What the last layer reads, [P, bottleneck]."""
        return torch.tanh(self.inner(self.source))

    def forward(self) -> Tensor:
        """Keys and values [L, 2, K, P, D]."""
        unit = self.get_buffer("unit")
        if not self.bottleneck:
            return self.prefix * unit
        depth, two, heads, length, width = self.shape
        flat: Tensor = self.outer(self.features())
        return flat.view(length, depth, two, heads, width).permute(1, 2, 3, 0, 4) * unit

    def groups(self) -> list[Group]:
        """Keys and values move in units of their own scale, a network in units of its weights."""
        if not self.bottleneck:
            return [Group([self.prefix], 1.0)]
        inner = [*self.inner.parameters(), self.source]
        outer = Group(list(self.outer.parameters()), network_unit(self.bottleneck))
        return [Group(inner, network_unit(len(self.source[0]))), outer]


def rms(made: Tensor) -> Tensor:
    """The scale [L, 2, 1, 1, 1] of keys and values [L, 2, K, P, D]."""
    return made.square().mean((2, 3, 4), keepdim=True).sqrt().clamp(min=1e-6)


def sides(spec: Spec, reach: Reach) -> list[str]:
    """The stacks that get a prefix; a model with one stack has only the first, whatever it is called."""
    if not spec.decoder_layers:
        return ["encoder"]
    return ["encoder", "decoder", "cross"] if reach == "all" else [reach]


def refuse_loss(start: Start, reached: list[str]) -> None:
    """Raise `RecipeError` where a stored prompt to start from has keys and values for a stack that is not reached."""
    lost = [side for side in start.stored if side not in reached]
    if lost:
        found = f"keys and values for {' and '.join(lost)} in a start that only {' and '.join(reached)} would read"
        do = "set method.options.reach as that prompt has it, with a head of the same kind, or leave init.source out"
        raise RecipeError("SP-E231", found, "a start of which nothing is left behind", do)


def refuse_lost_layers(stored: Mapping[str, Prefix | None], chosen: Mapping[str, range]) -> None:
    """Raise `RecipeError` where stored keys and values of a layer would be left behind."""
    for side, entries in stored.items():
        lost = [i for i, pair in enumerate(entries or ()) if pair is not None and i not in chosen[side]]
        if lost:
            found = f"keys and values for layers {lost[0]} to {lost[-1]} in a start that only {list(chosen[side])} read"
            do = "leave method.options.layers out, or init.source"
            raise RecipeError("SP-E231", found, "a start of which nothing is left behind", do)


def depth_of(spec: Spec, side: str) -> int:
    """L, the number of layers of a stack."""
    return spec.layers if side == "encoder" else spec.decoder_layers


def by_layer(made: Tensor, chosen: range, depth: int) -> Prefix:
    """Keys and values [L', 2, K, P, D] of the chosen layers as one entry for each of `depth` layers."""
    place = {layer: i for i, layer in enumerate(chosen)}
    return tuple((made[place[i]][0][None], made[place[i]][1][None]) if i in place else None for i in range(depth))


def parse_layers(text: str, depth: int) -> range:
    """The layers named by "4-5" or "3", counted from 0; all of them for an empty text. Raises `ValueError`."""
    if not text:
        return range(depth)
    first, _, last = text.partition("-")
    chosen = range(int(first), int(last or first) + 1)
    if not len(chosen) or chosen[0] < 0 or chosen[-1] >= depth:
        raise ValueError(f"layers {text!r} are not within 0-{depth - 1}")
    return chosen
