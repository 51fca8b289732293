"""What each prompt vector does: from one backward pass, and by leaving it out.

Ma et al. 2022, XPrompt, arXiv:2210.04457, section 4: with a mask m_i on vector p_i, dL/dm_i at 1 is <dL/dp_i, p_i>.
The importance is the mean over examples of its absolute value (`softprompt.pruning` prunes by it).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from softprompt.core import Example, Injection
from softprompt.prompt import Prompt, by_length, without_prompt
from softprompt.vectors import BATCH, Measured, measure, variant, without


def products(prompt: Prompt, vectors: Tensor, examples: Sequence[Example], batch_size: int = BATCH) -> Tensor:
    """The slope of every example's loss along a mask on every vector, <dL(x)/dp_i, p_i>: [N, P] float64.

    One backward pass a batch: every row has vectors of its own, so that the rows' gradients come apart.
    """
    plain = variant(prompt, vectors)
    made = torch.zeros(len(examples), len(vectors), dtype=torch.float64)
    rows = [plain.row(example) for example in examples]
    base = vectors.to(plain.backbone.device)
    for chosen in by_length(rows, batch_size):
        batch = plain.batch([rows[i] for i in chosen])
        own = base.expand(len(batch), -1, -1).clone().requires_grad_()  # [B, P, H]
        loss = plain.head.loss(plain.answer(batch, Injection(embeds=own)), batch)
        (slope,) = torch.autograd.grad(loss, own)
        made[chosen] = (slope * own.detach()).sum(-1).double().cpu()
    return made


def left_out(prompt: Prompt, vectors: Tensor, examples: Sequence[Example], metric: str) -> list[Measured]:
    """What the prompt scores without each of its vectors: the vector and its slot are gone, nothing attends to it."""
    return [measure(without(prompt, vectors, [i]), examples, metric, draws=2) for i in range(len(vectors))]


def effects(prompt: Prompt, vectors: Tensor, examples: Sequence[Example], metric: str) -> dict[str, Any]:
    """Importance and leave-one-out of every vector, beside the whole prompt and the bare model on the same examples."""
    slopes = products(prompt, vectors, examples)
    whole, bare = measure(prompt, examples, metric), measure(without_prompt(prompt), examples, metric)
    gone = left_out(prompt, vectors, examples, metric)
    tokens = [
        {
            "vector": i,
            "importance": slopes[:, i].abs().mean().item(),
            "slope": slopes[:, i].mean().item(),
            "loss": one.loss,
            "loss_change": one.loss - whole.loss,
            "score_change": change(one, whole),
        }
        for i, one in enumerate(gone)
    ]
    return {"n": len(examples), "whole": whole.as_dict(), "bare": bare.as_dict(), "tokens": tokens}


def change(now: Measured, before: Measured) -> float | None:
    """How much the score moved; None for prompts that are judged by their loss."""
    return None if now.score is None or before.score is None else now.score.value - before.score.value
