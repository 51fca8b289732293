"""The prompt as text that was searched for, not only read off: PEZ, from the trained vectors.

Wen et al. 2023, "Hard Prompts Made Easy", arXiv:2302.03668, algorithm 1: vectors are moved by the gradient that is
taken at their projection, the nearest tokens. As in `softprompt.search.pez`, with slots wherever the prompt has them.
Deviations: the start is the trained prompt; one scale for all coordinates, as there; what is kept is the projection
with the lowest loss on the examples it was fitted on, looked at every TENTH of the steps, that of the start among them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from softprompt.core import Example, Injection, Row
from softprompt.explain.neighbours import Table
from softprompt.prompt import Prompt
from softprompt.search.pez import DECAY, RATE
from softprompt.vectors import measure, variant

ROWS, FITTED, TENTH = 16, 64, 10  # rows of a step; examples that candidates are compared on; how many comparisons


def hard(
    prompt: Prompt, vectors: Tensor, words: Table, examples: Sequence[Example], metric: str, steps: int
) -> dict[str, Any]:
    """Text found on every second of the examples, and what it scores on the others beside the prompt.

    `scores` also holds the projection of the prompt as it is (`nearest`); `reads_back` says whether the tokenizer
    reads the text as these very tokens.
    """
    fit, judge = list(examples[0::2]), examples[1::2]
    allowed = readable(words)
    start = nearest(vectors, words, allowed)
    ids = walked(prompt, vectors, words, allowed, fit, metric, steps)
    candidates = {"prompt": vectors, "nearest": words.rows[start], "pez": words.rows[ids]}
    scores = {name: measure(variant(prompt, one), judge, metric).as_dict() for name, one in candidates.items()}
    text = words.tokenizer.decode(ids.tolist())
    back = words.tokenizer(text, add_special_tokens=False)["input_ids"]
    facts = {"text": text, "ids": ids.tolist(), "reads_back": list(back) == ids.tolist(), "steps": steps}
    return facts | {"fitted_on": len(fit), "n": len(judge), "scores": scores}


def walked(
    prompt: Prompt, vectors: Tensor, words: Table, allowed: Tensor, fit: Sequence[Example], metric: str, steps: int
) -> Tensor:
    """The ids [P] with the lowest loss on `fit` of those that the walk came by."""
    plain = variant(prompt, vectors)
    rows = [plain.row(example) for example in fit]
    at, mean, square = vectors.clone(), torch.zeros_like(vectors), torch.zeros(())
    order = torch.Generator().manual_seed(0)
    tried: dict[tuple[int, ...], float] = {}
    for step in range(1, steps + 1):
        ids = nearest(at, words, allowed)
        if (step - 1) % max(1, steps // TENTH) == 0:
            note(tried, ids, prompt, words, fit, metric)
        slope = gradient(plain, words.rows[ids], rows, torch.randperm(len(rows), generator=order)[:ROWS].tolist())
        mean = DECAY[0] * mean + (1 - DECAY[0]) * slope
        square = DECAY[1] * square + (1 - DECAY[1]) * slope.square().mean()
        scale = (square / (1 - DECAY[1] ** step)).sqrt() + 1e-12
        at = at - RATE * plain.backbone.spec.rms * mean / (1 - DECAY[0] ** step) / scale
    note(tried, nearest(at, words, allowed), prompt, words, fit, metric)
    return torch.tensor(min(tried, key=lambda ids: tried[ids]))


def note(
    tried: dict[tuple[int, ...], float],
    ids: Tensor,
    prompt: Prompt,
    words: Table,
    fit: Sequence[Example],
    metric: str,
) -> None:
    """Measure ids [P] as a prompt, once."""
    key = tuple(ids.tolist())
    if key not in tried:
        tried[key] = measure(variant(prompt, words.rows[ids]), fit[:FITTED], metric, draws=2).loss


def gradient(plain: Prompt, at: Tensor, rows: Sequence[Row], chosen: Sequence[int]) -> Tensor:
    """The slope [P, H] of the mean loss of some rows at vectors [P, H]."""
    batch = plain.batch([rows[i] for i in chosen])
    own = at.clone().requires_grad_()
    loss = plain.loss(batch, Injection(embeds=own[None].to(plain.backbone.device)))
    return torch.autograd.grad(loss / plain.head.count(batch), own)[0]


def readable(words: Table) -> Tensor:
    """The ids [A] of tokens that can be written: no specials, and text that is printed."""
    special = set(words.tokenizer.all_special_ids)
    texts = [words.tokenizer.decode([i]) for i in range(len(words.rows))]
    good = [i for i, text in enumerate(texts) if i not in special and text.strip() and text.isprintable()]
    return torch.tensor(good or list(range(len(words.rows))))


def nearest(vectors: Tensor, words: Table, allowed: Tensor) -> Tensor:
    """The allowed id [P] with the highest cosine to each vector [P, H]."""
    return allowed[(F.normalize(vectors, dim=1) @ words.directions[allowed].T).argmax(1)]
