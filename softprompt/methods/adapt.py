"""A prompt of another task, frozen, and a small change of it that is trained.

No paper: the residual adapter that reviews of the field name as an open question. P = A + c(A) - c_0(A), where A [P, H]
is the source, c one of five forms and c_0 the same as it began. Its relatives are SPoT (arXiv:2110.07904; the form
`dense`), residual prompt tuning (2305.03937; `bottleneck`) and MPT (2303.02861; `multiplicative`).
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from typing_extensions import override

from softprompt.core import Batch, Injection, Spec, Start
from softprompt.methods.base import Group, Method, network_unit
from softprompt.methods.prompt_tuning import PromptTuning
from softprompt.methods.residual import Network

Form = Literal["dense", "low_rank", "bottleneck", "multiplicative", "gated"]
USUAL = 4  # the rank of a change, for which there is no paper


class ResidualAdapter(Method):
    """The source A [P, H], frozen, and a change of one `form`; stored as their sum, P vectors [P, H].

    `dense`: D [P, H]. `low_rank`: U V of rank `rank`; 0 means 4, or the length of a shorter prompt. `bottleneck`: a
    network of width `bottleneck` that reads A. `multiplicative`: A o u v^T. `gated`: a gate for every vector of A, and
    one shift [H] for all. `penalty` times the mean size of the change, in embedding rms, is added to the loss in
    training. Raises `ValueError` for a rank or width that no change has, and for a negative penalty.
    """

    paper = 'none; relatives: Vu et al. 2022, "SPoT", 2110.07904; Wang et al. 2023, "Multitask ...", 2303.02861'
    summary = "P frozen vectors of another task among the input embeddings, and a small trained change of them"

    def __init__(
        self,
        spec: Spec,
        start: Start,
        *,
        form: Form = "low_rank",
        rank: int = 0,
        bottleneck: int = 32,
        penalty: float = 0.0,
    ) -> None:
        super().__init__(spec, start)
        most = min(start.embeds.shape)
        if not 0 <= rank <= most or bottleneck < 1 or penalty < 0:
            sizes = f"rank={rank} (from 1 to {most}; 0: chosen), bottleneck={bottleneck} (from 1)"
            raise ValueError(f"{sizes}, penalty={penalty} (from 0)")
        self.form, self.rank, self.bottleneck, self.penalty = form, rank, bottleneck, penalty
        self.register_buffer("source", start.embeds.clone())
        self.change = make_change(form, spec, len(start.embeds), rank or min(USUAL, most), bottleneck)
        for name, weight in self.change.named_parameters():  # as they began, saved: P is wrong without them
            self.register_buffer(began(name), weight.detach().clone())

    @override
    def forward(self, batch: Batch, text: Tensor) -> Injection:
        moved = self.moved()
        penalty = self.penalty * (moved / self.spec.rms).abs().mean() if self.penalty and self.training else None
        return Injection(embeds=(self.get_buffer("source") + moved)[None], penalty=penalty)

    def moved(self) -> Tensor:
        """How far the vectors are from the source, [P, H].

        Both terms are the same operations on the same numbers at the start, so their difference is zero to the last
        bit, on any device, while every parameter has a gradient. A factor that began at zero would hold the other up.
        """
        source = self.get_buffer("source")
        first = {name: self.get_buffer(began(name)) for name, _ in self.change.named_parameters()}
        now: Tensor = self.change(source)
        then: Tensor = functional_call(self.change, first, (source,))
        return now - then

    @override
    def groups(self) -> list[Group]:
        return self.change.groups()

    @override
    def fold(self) -> Method:
        return PromptTuning(self.spec, Start((self.get_buffer("source") + self.moved()).detach()))

    @property
    @override
    def length(self) -> int:
        return len(self.get_buffer("source"))


class Change(nn.Module):
    """Makes [P, H] of a source [P, H], and says in which scales its parameters learn."""

    def forward(self, source: Tensor) -> Tensor:
        """What it makes of the source; what it made of it at the start is taken off by the method."""
        raise TypeError(f"{type(self).__name__} must say what it makes")

    def groups(self) -> list[Group]:
        """Its parameters by learning rate."""
        raise TypeError(f"{type(self).__name__} must say how it learns")


class Dense(Change):
    """D [P, H], which begins at zero."""

    def __init__(self, spec: Spec, length: int) -> None:
        super().__init__()
        self.unit, self.value = spec.rms, nn.Parameter(torch.zeros(length, spec.hidden))

    @override
    def forward(self, source: Tensor) -> Tensor:
        return self.value

    @override
    def groups(self) -> list[Group]:
        return [Group([self.value], self.unit)]


class LowRank(Change):
    """U V with U [P, R] at unit scale and V [R, H] so that the product has that of the embeddings, as in `dpt`."""

    def __init__(self, spec: Spec, length: int, rank: int) -> None:
        super().__init__()
        self.unit = spec.rms * rank**-0.5
        self.left = nn.Parameter(torch.randn(length, rank))
        self.right = nn.Parameter(torch.randn(rank, spec.hidden) * self.unit)

    @override
    def forward(self, source: Tensor) -> Tensor:
        return self.left @ self.right

    @override
    def groups(self) -> list[Group]:
        return [Group([self.left], 1.0), Group([self.right], self.unit)]


class Bottleneck(Change):
    """LayerNorm(W_up relu(W_down a)) of every source vector a, as in `residual`; a is seen at unit scale."""

    def __init__(self, spec: Spec, width: int) -> None:
        super().__init__()
        self.rms, self.network = spec.rms, Network(spec, width)

    @override
    def forward(self, source: Tensor) -> Tensor:
        made: Tensor = self.network(source / self.rms)
        return made

    @override
    def groups(self) -> list[Group]:
        down, up = self.network.down, self.network.up
        return [
            Group(list(self.network.norm.parameters()), self.rms),
            Group(list(down.parameters()), network_unit(down.in_features)),
            Group(list(up.parameters()), network_unit(up.in_features)),
        ]


class Multiplicative(Change):
    """A o u v^T with u [P] and v [H], which begin at one."""

    def __init__(self, spec: Spec, length: int) -> None:
        super().__init__()
        self.row, self.column = nn.Parameter(torch.ones(length)), nn.Parameter(torch.ones(spec.hidden))

    @override
    def forward(self, source: Tensor) -> Tensor:
        return source * (self.row[:, None] * self.column)

    @override
    def groups(self) -> list[Group]:
        return [Group([self.row, self.column], 1.0)]


class Gated(Change):
    """g_i a_i + b for every vector a_i of A, with gates g [P] that begin at one and a shift b [H] that begins at 0."""

    def __init__(self, spec: Spec, length: int) -> None:
        super().__init__()
        self.unit = spec.rms
        self.gates, self.shift = nn.Parameter(torch.ones(length)), nn.Parameter(torch.zeros(spec.hidden))

    @override
    def forward(self, source: Tensor) -> Tensor:
        return source * self.gates[:, None] + self.shift

    @override
    def groups(self) -> list[Group]:
        return [Group([self.gates], 1.0), Group([self.shift], self.unit)]


def make_change(form: Form, spec: Spec, length: int, rank: int, width: int) -> Change:
    """The change of a form, as it begins; only sizes that it has are used."""
    if form == "dense":
        return Dense(spec, length)
    if form == "low_rank":
        return LowRank(spec, length, rank)
    if form == "bottleneck":
        return Bottleneck(spec, width)
    return Multiplicative(spec, length) if form == "multiplicative" else Gated(spec, length)


def began(name: str) -> str:
    """The name of the buffer that keeps how a parameter began."""
    return "began_" + name.replace(".", "_")
