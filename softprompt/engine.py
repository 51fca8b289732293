"""How a training step runs: a batch as one row (`core.Packing`), or with padding; then what all rows begin with runs
once where it can, and a batch whose rows differ much in length runs in parts of about the same.

Nothing is believed of a model family. Before the first step both ways compute loss and gradient of the same few rows;
where they differ, training goes the plain way and says so. The decision depends on the recipe, the data and the
untrained prompt alone, so a resumed run decides as it did before; weights and random numbers are left as they were.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from softprompt.core import Injection, Row
from softprompt.errors import Unsupported
from softprompt.prompt import Prompt
from softprompt.run import restore, snapshot

Engine = Literal["auto", "plain", "packed"]
Measured = tuple[Tensor, Tensor]  # loss [] and gradient [all trained numbers]
SAMPLE = 4  # rows of the first batch that both ways compute
SPARED, SPARED_ON_GPU = 64, 2048  # tokens for which another forward is worth its overhead
SHARE = 8  # and one more part of a batch has to spare this part of it: every part reads all weights again
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4}  # of what is equal, errors are 1e-6; of what is not, 0.1 to 1
COARSE = 0.1  # in half precision, where two right answers differ by a few percent


def choose(prompt: Prompt, rows: list[Row], engine: Engine, listen: Callable[[dict[str, Any]], None]) -> None:
    """Set `prompt.packs`, or else `fronts` and `parts`, for training on batches such as `rows`, the first one.

    Raises `Unsupported` where the recipe insists on packing and it cannot be done.
    """
    prompt.packs = prompt.fronts = prompt.parts = False
    if engine == "plain" or (engine == "auto" and (len(rows) < 2 or prompt.backbone.spec.kind == "vision")):
        return
    reason = obstacle(prompt, rows)
    if reason and engine == "packed":
        raise Unsupported("SP-E422", reason, "a batch that can run as one row", "set train.engine to plain or auto")
    prompt.packs = not reason
    if reason:
        prompt.fronts, prompt.parts = fallback(prompt, rows)
        runs = "what all rows begin with runs once for all of them" if prompt.fronts else "the prompt runs once per row"
        apart = ", in parts of about the same length" if prompt.parts else ""
        listen({"event": "note", "text": f"batches are padded{apart}, and {runs}: {reason}"})


def fallback(prompt: Prompt, rows: list[Row]) -> tuple[bool, bool]:
    """Whether padded rows can share their front, and whether their batch can run in parts, to any use and exactly."""
    sample = few(rows)
    with trial(prompt):
        prompt.fronts, most = True, least_spared(prompt)
        batch = prompt.batch(sample)
        front = 0 if batch.packing is None else batch.packing.front
        useful = (len(rows) - 1) * front >= most and not prompt.backbone.unfronted(batch, prompt.inject(batch))
        fronts = useful and not compare(prompt, sample, fronts=True)
        prompt.fronts, prompt.parts = fronts, True
        parts = len(parted(prompt, rows)) > 1 and not compare(prompt, sample, fronts=fronts, parts=True)
    return fronts, parts


def least_spared(prompt: Prompt) -> int:
    """Tokens that one more forward has to spare, because it takes time by itself."""
    return SPARED if prompt.backbone.device.type == "cpu" else SPARED_ON_GPU


def parted(prompt: Prompt, rows: list[Row]) -> list[list[Row]]:
    """Rows of a batch as they are run, all at once or in parts: cut where that spares most padding, again and again.

    Losses are sums, so the parts of a batch have its loss and gradient; which rows a step sees does not change.
    """
    if not prompt.parts:
        return [rows]
    ordered = sorted(rows, key=lambda row: -len(row.ids))
    return cut(ordered, max(least_spared(prompt), len(rows) * len(ordered[0].ids) // SHARE))


def cut(rows: list[Row], most: int) -> list[list[Row]]:
    """Rows, longest first, in parts of about the same length, each cut of which spares `most` tokens or more."""
    spared = [(len(rows) - i) * (len(rows[0].ids) - len(rows[i].ids)) for i in range(len(rows))]
    best = max(range(len(rows)), key=lambda i: spared[i])
    return [rows] if spared[best] < most else [*cut(rows[:best], most), *cut(rows[best:], most)]


def obstacle(prompt: Prompt, rows: list[Row]) -> str:
    """Why batches such as `rows` cannot run as one row; empty where both ways agree."""
    sample = few(rows)
    with trial(prompt):
        prompt.packs = True
        batch = prompt.batch(sample)
        return prompt.backbone.unpackable(batch, prompt.inject(batch)) or compare(prompt, sample, packs=True)


def few(rows: list[Row]) -> list[Row]:
    """Short and long ones of rows."""
    ordered = sorted(rows, key=lambda row: len(row.ids))
    return ordered if len(rows) <= SAMPLE else ordered[: SAMPLE // 2] + ordered[-SAMPLE // 2 :]


@contextmanager
def trial(prompt: Prompt) -> Iterator[None]:
    """Steps that leave no trace: weights, random numbers and modes are put back."""
    before, was_training, ways = snapshot(prompt), prompt.training, (prompt.packs, prompt.fronts, prompt.parts)
    prompt.train()  # as in a step: some methods do more then, and have a gradient only then
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        prompt.packs, prompt.fronts, prompt.parts = ways
        prompt.train(was_training)
        restore(prompt, before)


def compare(prompt: Prompt, rows: list[Row], packs: bool = False, fronts: bool = False, parts: bool = False) -> str:
    """What is wrong with loss or gradient of a batch run one of the ways; empty where they are those of padded rows."""
    try:
        found = measured(prompt, rows, packs, fronts, parts)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError, Unsupported) as error:
        return f"this model cannot read one row of many: {error}".splitlines()[0][:200]
    off = difference(found, measured(prompt, rows, packs=False), prompt.backbone.dtype)
    return off and f"in one row, {off}"


def difference(found: Measured, wanted: Measured, dtype: torch.dtype) -> str:
    """How a loss and a gradient differ from the right ones; empty where they do not, but for rounding."""
    limit = TOLERANCE.get(dtype, COARSE)
    for name, ours, right in zip(("loss", "gradient"), found, wanted, strict=True):
        off = ((ours - right).norm() / right.norm().clamp(min=torch.finfo(torch.float32).tiny)).item()
        if not off <= limit:
            return f"the {name} of this model would be off by {off:.0e}"
    return ""


class Looked(Exception):
    """Raised where a method looks at the batch that it was not given."""


class Unseen:
    """Stands in for a batch and its text: whoever reads anything from it is found out."""

    def __getattr__(self, name: str) -> Any:
        raise Looked(name)

    def __bool__(self) -> bool:
        raise Looked("bool")


@dataclass(frozen=True)
class Once:
    """An injection for all batches of a step: its tensors are leaves that collect gradients over the batches."""

    injection: Injection
    pairs: list[tuple[Tensor, Tensor]]  # what the method made, and the leaf in its place

    def backward(self) -> None:
        """Take what the leaves collected back through the method, once."""
        given = [(made, leaf.grad) for made, leaf in self.pairs if leaf.grad is not None]
        if given:  # of several ranks, one may have had no row
            torch.autograd.backward([made for made, _ in given], [grad for _, grad in given])


def once(prompt: Prompt, batches: int) -> Once | None:
    """The injection of a step of several batches; None where the method looks at the batch, or one is all there is.

    Not asked, but found out: the method runs without a batch. What it makes then is what it makes for every batch,
    with one dropout a step, of the same random numbers as the first batch would get.
    """
    if batches < 2:
        return None
    device = prompt.backbone.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            made = prompt.method(Unseen(), Unseen())
        except (Looked, TypeError):  # of the second kind: `len`, arithmetic and torch's own functions
            return None
    pairs: list[tuple[Tensor, Tensor]] = []
    return Once(detached(made, pairs), pairs)


def detached(value: Any, pairs: list[tuple[Tensor, Tensor]]) -> Any:
    """An injection with leaves in place of its tensors, which are noted in `pairs`."""
    if isinstance(value, Tensor) and value.requires_grad:
        pairs.append((value, value.detach().requires_grad_()))
        return pairs[-1][1]
    if isinstance(value, tuple):
        return tuple(detached(part, pairs) for part in value)
    if isinstance(value, Injection):
        return replace(value, **{f.name: detached(getattr(value, f.name), pairs) for f in fields(value)})
    return value


def idle(prompt: Prompt, row: Row, shared: Once | None) -> None:
    """A forward and a backward pass that leave nothing, for the sake of ranks that share a backbone and run one more.

    `shared` is what the other passes of the step inject. The gradient ends where the method's tensors enter, so that
    what is trained has none from here, not even zero.
    """
    batch = prompt.batch([row])
    pairs: list[tuple[Tensor, Tensor]] = []
    injection = detached(prompt.inject(batch) if shared is None else shared.injection, pairs)
    loss = prompt.loss(batch, injection)
    if pairs:
        torch.autograd.grad(loss, [leaf for _, leaf in pairs], allow_unused=True)


def measured(prompt: Prompt, rows: list[Row], packs: bool, fronts: bool = False, parts: bool = False) -> Measured:
    """Loss [] and gradient [all trained numbers] of rows, one way or the other; with `parts`, in halves by length."""
    prompt.packs, prompt.fronts = packs, fronts
    torch.manual_seed(0)  # the same dropout in the method, whichever way
    half = len(rows) // 2
    loss = torch.stack([prompt.loss(prompt.batch(p)) for p in ((rows[:half], rows[half:]) if parts else (rows,))]).sum()
    weights = list(prompt.parameters())
    grads = torch.autograd.grad(loss, weights, allow_unused=True)
    flat = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, grads, strict=True)]
    return loss.detach(), torch.cat([g.flatten().float() for g in flat])
