"""The one thing a method is: trainable parameters and a function from a batch to an `Injection`."""

import inspect
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from softprompt.core import Batch, Injection, Spec, Start


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate, and the scale that the rate is measured in."""

    parameters: list[nn.Parameter]
    unit: float  # absolute size of a learning rate of 1.0, per coordinate


class Method(nn.Module):
    """Subclass in a file of its own; the file's name is the method's name.

    The constructor takes `(spec, start, *, options...)`: the keyword-only options ARE the configuration schema.
    """

    paper: ClassVar[str]  # authors, year, title, arXiv id
    summary: ClassVar[str]  # what is trained and where it enters, in half a line
    slots: bool = True  # True: vectors stand in the text; False: they enter at every layer
    borrows: bool = False  # True: reads `start.sources`, so that `init.sources` must name prompts of other tasks
    default_init: ClassVar[str] = "vocabulary"
    default_head: ClassVar[str] = "verbalizer"
    travel: ClassVar[float] = 60.0  # how far `lr: auto` lets a coordinate go in a whole run, in its own units

    def __init__(self, spec: Spec, start: Start) -> None:
        super().__init__()
        self.spec = spec

    @classmethod
    def stands_in_text(cls, options: dict[str, Any]) -> bool:
        """Whether the vectors of a method with these options take slots, asked before there is one."""
        return cls.slots

    @classmethod
    def starts_from_keys(cls, options: dict[str, Any]) -> bool:
        """Whether a method with these options begins at keys and values of a real text; those without slots do."""
        return not cls.stands_in_text(options)

    @classmethod
    def most_tokens(cls, options: dict[str, Any]) -> int | None:
        """The longest text, in tokens beside the slots, that a method with these options can read; None: any."""
        return None

    @classmethod
    def label_rows(cls, options: dict[str, Any]) -> int:
        """How many rows of the vocabulary its label vectors are made of; 0: class words stay what they are."""
        return 0

    def forward(self, batch: Batch, text: Tensor) -> Injection:
        """What this method adds to `batch`; `text` [B, T, H] are frozen token embeddings, for methods that look."""
        raise TypeError(f"{type(self).__name__} must say what it injects")

    def groups(self) -> list[Group]:
        """Parameters by learning rate. By default all of them, in units of the embedding rms."""
        return [Group(list(self.parameters()), self.spec.rms)]

    def fold(self) -> "Method":
        """The method as it is stored and served: reparameterisations are folded away. By default itself."""
        return self

    @property
    def length(self) -> int:
        """P, the number of prompt vectors."""
        raise TypeError(f"{type(self).__name__} must say how long it is")

    def options(self) -> dict[str, Any]:
        """The keyword-only options that would build this method again."""
        return {name: getattr(self, name) for name in option_names(type(self))}


def option_names(method: type[Method]) -> list[str]:
    """The names of a method's options, as its constructor declares them."""
    parameters = inspect.signature(method.__init__).parameters.values()
    return [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]


@torch.no_grad()
def start_at(last: nn.Linear, features: Tensor, target: Tensor) -> None:
    """Choose the last layer of a reparameterisation so that `features` [P, M] yield `target` [P, N] at the start.

    Papers begin at whatever a random network makes of the initial prompt, or fit the network by hundreds of steps. The
    least-squares solution of the last layer begins at the initial prompt itself, exactly while P <= M.
    """
    bias = target.mean(0)
    solution = torch.linalg.lstsq(features.double(), (target - bias).double(), driver="gelsd").solution
    last.weight.copy_(solution.T)
    last.bias.copy_(bias)


def network_unit(width: int) -> float:
    """The scale of a weight of a linear layer with `width` inputs, as torch initialises it."""
    return float((3 * width) ** -0.5)
