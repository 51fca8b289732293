"""The layers of a model from one layer up, run alone: a copy of the modules around them that shares every weight.

The copy's lower layers answer with states that are given. Embeddings, masks, positions and norms stay the model's own
code, layers keep their places in the list, and the model itself is never changed, not even for a moment.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class Reached(Exception):
    """Ends a forward at the layer that was waited for; `value` is what was seen there."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


@dataclass(frozen=True)
class Layers:
    """Where a model keeps its layers, and whether they answer with tuples, states first."""

    path: tuple[str, ...]
    tuples: bool

    def above(self, model: nn.Module, layer: int, states: Tensor) -> Any:
        """The model with all layers below `layer` answering `states` [B, T, H], so that only the others run."""
        given = (states,) if self.tuples else states
        layers = list(model.get_submodule(".".join(self.path)).children())
        lower = {i: acting(layers[i], lambda *_, **__: given) for i in range(layer)}
        return swapped(model, self.path, lower)

    def with_last(self, model: nn.Module, make: Callable[[nn.Module], nn.Module]) -> Any:
        """The model with another module in the place of its last layer: what `make` makes of it."""
        layers = list(model.get_submodule(".".join(self.path)).children())
        return swapped(model, self.path, {len(layers) - 1: make(layers[-1])})

    def below(self, model: nn.Module, layer: int, run: Callable[[Any], object]) -> Tensor:
        """What `layer` reads [B, T, H] when `run` puts a batch through the model it is handed; nothing above runs."""
        states: Tensor = caught(run, model, self.path, layer, read)
        return states


def find_layers(model: nn.Module, attentions: list[nn.Module], run: Callable[[Any], object]) -> Layers | None:
    """The list with as many layers as there are `attentions`, each with its own inside; None where there is none.

    `run` puts any batch through a model.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == len(attentions) > 0:
            pairs = zip(module, attentions, strict=True)
            if all(any(part is attention for part in layer.modules()) for layer, attention in pairs):
                path = tuple(name.split("."))
                return Layers(path, isinstance(caught(run, model, path, 0, answering(module[0])), tuple))
    return None


def answering(layer: nn.Module) -> Callable[..., None]:
    """Stand in for a layer whose answer is waited for."""

    def forward(*args: Any, **kwargs: Any) -> None:
        raise Reached(layer(*args, **kwargs))

    return forward


def read(*args: Any, **kwargs: Any) -> None:
    """Stand in for a layer that is waited for: its input is all that is wanted."""
    raise Reached(args[0] if args else kwargs["hidden_states"])


def caught(
    run: Callable[[Any], object], model: nn.Module, path: tuple[str, ...], layer: int, forward: Callable[..., None]
) -> Any:
    """What a forward of a model reached, when one layer of the list at `path` had another forward."""
    waited = model.get_submodule(".".join((*path, str(layer))))
    try:
        run(swapped(model, path, {layer: acting(waited, forward)}))
    except Reached as found:
        return found.value
    raise LookupError("a layer that the forward never came to")


def acting(layer: nn.Module, forward: Callable[..., Any]) -> nn.Module:
    """A layer with another forward, and everything else that a model may ask it for."""
    made = bare(layer)
    made.__dict__["forward"] = forward
    made.training = False  # in train mode a layer is run again in the backward pass, where that was asked for
    return made


def swapped(model: nn.Module, path: tuple[str, ...], layers: Mapping[Any, nn.Module]) -> nn.Module:
    """A copy of a model in which some of the modules at `path` are others; what is not on the path is shared."""
    made = copied(model)
    parts: dict[str, Any] = dict(model._modules)
    if path:
        parts[path[0]] = swapped(parts[path[0]], path[1:], layers)
    else:
        parts |= {str(i): layer for i, layer in layers.items()}
    made.__dict__["_modules"] = parts
    return made


def copied(module: M) -> M:
    """A copy of a module by itself, over the same weights, parts and hooks; `copy.copy` cannot make one of FSDP's."""
    made: M = object.__new__(type(module))
    made.__dict__.update(module.__dict__)
    return made


def bare(module: M) -> M:
    """As `copied`, without hooks: what they do for the module (FSDP's put it together) is not done for this copy."""
    made = copied(module)
    made.__dict__.update(_forward_pre_hooks=OrderedDict(), _forward_hooks=OrderedDict())
    return made
