"""How a training step runs: a batch as one row (`core.Packing`), or prompt and padding once per row.

Nothing is believed of a model family. Before the first step both ways compute loss and gradient of the same few rows;
where they differ, training goes the plain way and says so. The decision depends on the recipe, the data and the
untrained prompt alone, so a resumed run decides as it did before; weights and random numbers are left as they were.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from softprompt.core import Row
from softprompt.errors import Unsupported
from softprompt.prompt import Prompt
from softprompt.run import restore, snapshot

Engine = Literal["auto", "plain", "packed"]
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
    ordered = sorted(rows, key=lambda row: len(row.ids))
    few = ordered if len(rows) <= SAMPLE else ordered[: SAMPLE // 2] + ordered[-SAMPLE // 2 :]
    before, was_training = snapshot(prompt), prompt.training
    prompt.train()  # as in a step: some methods do more then, and have a gradient only then
    prompt.packs = True
    try:
        with torch.random.fork_rng(devices=[]):
            batch = prompt.batch(few)
            return prompt.backbone.unpackable(batch, prompt.inject(batch)) or compare(prompt, few)
    finally:
        prompt.packs = False
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
    wanted = measured(prompt, rows, packs=False)
    limit = TOLERANCE.get(prompt.backbone.dtype, COARSE)
    for name, ours, right in zip(("loss", "gradient"), found, wanted, strict=True):
        off = ((ours - right).norm() / right.norm().clamp(min=torch.finfo(torch.float32).tiny)).item()
        if not off <= limit:
            return f"in one row, the {name} of this model would be off by {off:.0e}"
    return ""


def measured(prompt: Prompt, rows: list[Row], packs: bool) -> tuple[Tensor, Tensor]:
    """Loss [] and gradient [all trained numbers] of rows, one way or the other."""
    prompt.packs = packs
    torch.manual_seed(0)  # the same dropout in the method, whichever way
    loss = prompt.loss(prompt.batch(rows))
    weights = list(prompt.parameters())
    grads = torch.autograd.grad(loss, weights, allow_unused=True)
    flat = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, grads, strict=True)]
    return loss.detach(), torch.cat([g.flatten().float() for g in flat])
