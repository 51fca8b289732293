"""The forward of models that are built like a Llama, without what transformers does around it.

Masks, containers, keywords and calls of modules take a third of a step of a small model. The weights are the model's
own tensors, read where they lie. In the last layer, what follows attention runs only for tokens whose output is wanted:
nobody else reads it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softprompt.serve.engine.ragged import Ragged

FEW = range(12, 49)  # rows of which MKL multiplies weights by rows faster than rows by weights (by a tenth to a third)
BLOCK = 256  # rows whose inner states stay in the cache of one core
PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}


@dataclass(frozen=True, eq=False)
class Layer:
    """The modules of one layer."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear
    gate: nn.Linear
    up: nn.Linear
    down: nn.Linear
    norms: tuple[Any, Any]  # before attention, and before the rest
    scale: float


class Lean:
    """A stack of such layers and the head on it."""

    def __init__(self, stack: Any, head: nn.Linear, layers: list[Layer], size: int) -> None:
        self.rotary: Callable[..., tuple[Tensor, Tensor]] = stack.rotary_emb
        self.norm, self.head, self.layers, self.size = stack.norm, head, layers, size

    def run(self, embedded: Tensor, positions: Tensor, state: Ragged, places: Tensor | None) -> Tensor:
        """Last states [N, H] of embeddings [1, N, H] at `positions` [1, N], or logits [J, V] at `places` [J]."""
        states, turns = embedded[0], self.turns(embedded, positions)
        for i, layer in enumerate(self.layers):
            mixed = self.attention(i, layer, rms(states, layer.norms[0]), turns, state)
            if places is not None and i == len(self.layers) - 1:
                states, mixed = states[places], mixed[places]
            states = states + linear(mixed, layer.out)
            states = states + mlp(layer, rms(states, layer.norms[1]))
        states = rms(states, self.norm)
        return (
            states if places is None else few(states, self.head.weight) if fits(states) else linear(states, self.head)
        )

    def turns(self, embedded: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [N, 1, D] of the positions, the first half of the sines negative."""
        cos, sin = self.rotary(embedded, position_ids=positions)
        sin = sin[0, :, None].clone()
        sin[..., : self.size // 2].neg_()
        return cos[0, :, None], sin

    def attention(
        self, number: int, layer: Layer, states: Tensor, turns: tuple[Tensor, Tensor], state: Ragged
    ) -> Tensor:
        """What the tokens [N, H] of a layer gather from others, [N, heads * D]."""
        query, key, value = (
            F.linear(states, part.weight, part.bias).view(len(states), -1, self.size)
            for part in (layer.query, layer.key, layer.value)
        )
        query, key, value = (x.transpose(0, 1)[None] for x in (turned(query, turns), turned(key, turns), value))
        made = state.layer(number, query, key, value, layer.scale)
        return made[0].flatten(1)


def rms(states: Tensor, norm: Any) -> Tensor:
    """States [N, H] divided by their root mean square."""
    squares: Tensor = states.norm(dim=1, keepdim=True).square_()  # three quarters of the time of their dot products
    return (states * squares.div_(states.shape[1]).add_(norm.variance_epsilon).rsqrt_()).mul_(norm.weight)


def turned(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Queries or keys [N, heads, D], turned where they lie (Su et al. 2021, 2104.09864, in halves as Llama does)."""
    half = x.shape[-1] // 2
    across = torch.cat((x[..., half:], x[..., :half]), -1)
    return x.mul_(turns[0]).addcmul_(across, turns[1])


def mlp(layer: Layer, states: Tensor) -> Tensor:
    """down(silu(gate) * up) of states [N, H]."""
    if fits(states) and layer.gate.bias is None and layer.up.bias is None and layer.down.bias is None:
        across = states.t()
        inner = F.silu(layer.gate.weight @ across, inplace=True).mul_(layer.up.weight @ across)
        return (layer.down.weight @ inner).t()
    made = [
        linear(F.silu(linear(block, layer.gate), inplace=True).mul_(linear(block, layer.up)), layer.down)
        for block in torch.split(states, BLOCK)
    ]
    return made[0] if len(made) == 1 else torch.cat(made)


def linear(states: Tensor, part: nn.Linear) -> Tensor:
    """States [N, H] through a module, without the call of the module."""
    return F.linear(states, part.weight, part.bias)


def fits(states: Tensor) -> bool:
    """Whether products are faster the other way round."""
    return len(states) in FEW and states.device.type == "cpu"


def few(states: Tensor, weight: Tensor) -> Tensor:
    """States @ weight.T [N, O] of few rows."""
    return (weight @ states.t()).t()


def lean(backbone: Any) -> Lean | None:
    """A model of the known shape in full precision; None for every other. Whether it agrees has to be tried."""
    stack, head = backbone.stack(), getattr(backbone.model, "lm_head", None)
    if backbone.spec.kind != "causal" or backbone.windows != 0 or backbone.dtype != torch.float32:
        return None
    known = all(hasattr(stack, part) for part in ("layers", "norm", "rotary_emb"))
    if not known or type(head) is not nn.Linear or head.bias is not None or not normal(stack.norm):
        return None
    layers = list(stack.layers)
    if [layer.self_attn for layer in layers if alike(layer)] != backbone.attention_modules:
        return None
    return Lean(stack, head, [read(layer) for layer in layers], backbone.spec.head_dim)


def alike(layer: Any) -> bool:
    """Whether a layer has the parts of a Llama's and no others, and nobody has hooked into them."""
    if {name for name, _ in layer.named_children()} != PARTS:
        return False
    for part, names in ((layer.self_attn, ATTENTION), (layer.mlp, MLP)):
        children = dict(part.named_children())
        plain = all(type(child) is nn.Linear for name, child in children.items() if name != "act_fn")
        if children.keys() != names or not plain:
            return False
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in layer.modules())
    return not hooked and normal(layer.input_layernorm) and normal(layer.post_attention_layernorm)


def normal(norm: Any) -> bool:
    """Whether a norm has what a Llama's has."""
    return hasattr(norm, "variance_epsilon") and isinstance(getattr(norm, "weight", None), nn.Parameter)


def read(layer: Any) -> Layer:
    """The modules of a layer."""
    at, rest = layer.self_attn, layer.mlp
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    parts = (at.q_proj, at.k_proj, at.v_proj, at.o_proj, rest.gate_proj, rest.up_proj, rest.down_proj)
    scale = getattr(at, "scaling", at.head_dim**-0.5)
    return Layer(*parts, norms, float(scale))
