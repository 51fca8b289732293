"""A prompt as readable text, what that text is worth, and the control that shows what such a reading proves.

Projection: each vector becomes its nearest row of the table by cosine, once; `explain.pez` searches on from there.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from softprompt.core import Example, Injection
from softprompt.explain.neighbours import Table
from softprompt.prompt import Prompt
from softprompt.vectors import measure, variant

TEXT = "It rained all night and in the morning the river had come up to the garden gate"  # says nothing of any task
STEPS, ROWS = 60, 16  # of the control's training
RATE = 0.25  # of the control's training, in units of the table's rms
CLOSE = 1e-6  # cosines that differ by less are equal: tables hold some rows twice


def project(vectors: Tensor, words: Table) -> tuple[Tensor, str]:
    """The nearest rows [P, H] and the text that they are."""
    ids = words.nearest(vectors)[1][:, 0]
    return words.rows[ids], words.tokenizer.decode(ids.tolist())


def projection(
    prompt: Prompt, vectors: Tensor, words: Table, examples: Sequence[Example], metric: str
) -> dict[str, Any]:
    """The text of a prompt, and what the model scores when it reads the text instead."""
    rows, text = project(vectors, words)
    found = measure(variant(prompt, rows), examples, metric)
    whole = measure(variant(prompt, vectors), examples, metric)
    return {"text": text, "whole": whole.as_dict(), "words": found.as_dict()}


def control(
    prompt: Prompt, vectors: Tensor, words: Table, examples: Sequence[Example], metric: str, steps: int = STEPS
) -> dict[str, Any]:
    """Vectors that read as an unrelated text, word for word, trained on half of the examples, scored on the others.

    Khashabi et al. 2022, "Prompt Waywardness", arXiv:2112.08348: if these score as the prompt does, then nearest words
    are no evidence of what a prompt means. Deviation: the paper pulls vectors to the text by a penalty (our method
    `wayward`); here a vector that would read otherwise is put back each step, so that the reading holds for certain.
    """
    ids = unrelated(words, len(vectors))
    fit, judge = examples[0::2], examples[1::2]
    anchors = words.rows[ids]
    made = trained(prompt, anchors, ids, words, fit, steps)
    same = reads_as(made, ids, words).float().mean().item()
    scores = {
        "prompt": measure(variant(prompt, vectors), judge, metric),
        "text": measure(variant(prompt, anchors), judge, metric),
        "control": measure(variant(prompt, made), judge, metric),
    }
    found = {name: one.as_dict() for name, one in scores.items()}
    facts = {"text": words.tokenizer.decode(ids.tolist()), "reads_as_text": same, "steps": steps}
    return facts | {"fitted_on": len(fit), "n": len(judge), "scores": found}


def unrelated(words: Table, count: int) -> Tensor:
    """The ids [count] of the unrelated text, repeated as often as it takes."""
    ids = words.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    return torch.tensor([ids[i % len(ids)] for i in range(count)])


def trained(
    prompt: Prompt, anchors: Tensor, ids: Tensor, words: Table, examples: Sequence[Example], steps: int
) -> Tensor:
    """Vectors [P, H] trained from the text's own rows, put back each step to where they read as the text."""
    plain = variant(prompt, anchors)
    rows = [plain.row(example) for example in examples]
    free = anchors.clone().requires_grad_()
    rate = RATE * plain.backbone.spec.rms
    optimizer = torch.optim.Adam([free], lr=rate)
    order = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randperm(len(rows), generator=order)[:ROWS].tolist()
        batch = plain.batch([rows[i] for i in chosen])
        loss = plain.loss(batch, Injection(embeds=free[None].to(plain.backbone.device)))
        optimizer.zero_grad()
        (free.grad,) = torch.autograd.grad(loss / plain.head.count(batch), free)
        optimizer.step()
        with torch.no_grad():
            free.copy_(held(free, anchors, ids, words))
    return free.detach()


def held(vectors: Tensor, anchors: Tensor, ids: Tensor, words: Table) -> Tensor:
    """Each vector as far from its anchor as it can be, in tenths of the way it went, with `ids` still its reading."""
    made, open_ = anchors.clone(), torch.ones(len(vectors), dtype=torch.bool)
    for way in torch.arange(10, 0, -1) / 10:
        tried = torch.lerp(anchors, vectors, way)
        good = open_ & reads_as(tried, ids, words)
        made[good], open_ = tried[good], open_ & ~good
        if not open_.any():
            break
    return made


def reads_as(vectors: Tensor, ids: Tensor, words: Table) -> Tensor:
    """Whether the row of `ids` [P] is nearest by cosine to each vector: [P] bool."""
    own = F.cosine_similarity(vectors, words.rows[ids], dim=1)
    return own >= words.nearest(vectors)[0][:, 0] - CLOSE
