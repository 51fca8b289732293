"""How a training step runs: a batch as one row (`core.Packing`), or prompt and padding once per row.

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
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4}  # of what is equal, errors are 1e-6; of what is not, 0.1 to 1
COARSE = 0.1  # in half precision, where two right answers differ by a few percent


def choose(prompt: Prompt, rows: list[Row], engine: Engine, listen: Callable[[dict[str, Any]], None]) -> None:
    """Set `prompt.packs` for training on batches such as `rows`, the first one.

    Raises `Unsupported` where the recipe insists on packing and it cannot be done.
    """
    prompt.packs = False
    if engine == "plain" or (engine == "auto" and (len(rows) < 2 or prompt.backbone.spec.kind != "causal")):
        return
    reason = obstacle(prompt, rows)
    if reason and engine == "packed":
        raise Unsupported("SP-E422", reason, "a batch that can run as one row", "set train.engine to plain or auto")
    prompt.packs = not reason
    if reason:
        listen({"event": "note", "text": f"batches are padded, and the prompt runs once per row: {reason}"})


def obstacle(prompt: Prompt, rows: list[Row]) -> str:
    """Why batches such as `rows` cannot run as one row; empty where both ways agree."""
    sample = few(rows)
    with trial(prompt):
        prompt.packs = True
        batch = prompt.batch(sample)
        return prompt.backbone.unpackable(batch, prompt.inject(batch)) or compare(prompt, sample)


def few(rows: list[Row]) -> list[Row]:
    """Short and long ones of rows."""
    ordered = sorted(rows, key=lambda row: len(row.ids))
    return ordered if len(rows) <= SAMPLE else ordered[: SAMPLE // 2] + ordered[-SAMPLE // 2 :]


@contextmanager
def trial(prompt: Prompt) -> Iterator[None]:
    """Steps that leave no trace: weights, random numbers and modes are put back."""
    before, was_training, packs = snapshot(prompt), prompt.training, prompt.packs
    prompt.train()  # as in a step: some methods do more then, and have a gradient only then
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        prompt.packs = packs
        prompt.train(was_training)
        restore(prompt, before)


def compare(prompt: Prompt, rows: list[Row]) -> str:
    """What is wrong with loss or gradient of a packed batch; empty where they are those of the padded one."""
    try:
        found = measured(prompt, rows, packs=True)
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


def measured(prompt: Prompt, rows: list[Row], packs: bool) -> Measured:
    """Loss [] and gradient [all trained numbers] of rows, one way or the other."""
    prompt.packs = packs
    torch.manual_seed(0)  # the same dropout in the method, whichever way
    loss = prompt.loss(prompt.batch(rows))
    weights = list(prompt.parameters())
    grads = torch.autograd.grad(loss, weights, allow_unused=True)
    flat = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, grads, strict=True)]
    return loss.detach(), torch.cat([g.flatten().float() for g in flat])
