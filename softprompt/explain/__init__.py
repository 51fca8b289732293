"""What a trained prompt is and does, as plain values: the facts behind `softprompt explain` and its page."""

import random
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from softprompt.core import Example
from softprompt.explain import curves, importance, lens, neighbours, pez, shares, words
from softprompt.prompt import Prompt
from softprompt.vectors import vectors_of

__all__ = ["explain"]

LEAST = 20  # examples without which PEZ and the control, which train on half of them, say nothing


def explain(
    prompt: Prompt,
    examples: Sequence[Example] = (),
    metric: str = "",
    *,
    other: Tensor | None = None,
    rows: int = 128,
    steps: int = words.STEPS,
) -> dict[str, Any]:
    """Everything there is to say of a prompt whose vectors stand in the text.

    Without labelled `examples`, only what needs none: neighbours and lens. `rows` examples, drawn with seed 0, are what
    effects, shares and curves are measured on; PEZ and the control train for `steps` (0: neither) on half of them all.
    `other` [P', H] are the vectors of another task's prompt, to be swapped in. Raises `Unsupported` SP-E428.
    """
    vectors = vectors_of(prompt)
    table = neighbours.table(prompt.backbone)
    asked = examples[0] if examples else Example(dict.fromkeys(prompt.template.fields, "text"))
    if prompt.task.kind == "tagging" and not examples:
        asked = Example(dict.fromkeys(prompt.template.fields, ("text",)))
    found: dict[str, Any] = {
        "table": {"norms": table.norms, "chance": table.chance, "rows": len(table.rows)},
        "neighbours": neighbours.neighbours(vectors, table),
        "lens": lens.lens(prompt, vectors, asked, table),
    }
    if not examples:
        return found
    some = sample(examples, rows)
    text = words.project(vectors, table)[0]
    found |= {
        "metric": metric,
        "effects": importance.effects(prompt, vectors, some, metric),
        "shares": shares.shares(prompt, vectors, some),
        "curves": {
            "noise": curves.noise(prompt, vectors, some, metric),
            "scale": curves.scale(prompt, vectors, some, metric),
            "towards": curves.towards(prompt, vectors, text, some, metric),
        },
        "projection": words.projection(prompt, vectors, table, some, metric),
    }
    if other is not None:
        found["swap"] = curves.swap(prompt, vectors, other, some, metric)
    if steps and len(examples) >= LEAST:
        every = sample(examples, len(examples))
        found["pez"] = pez.hard(prompt, vectors, table, every, metric, steps)
        found["control"] = words.control(prompt, vectors, table, every, metric, steps)
    return found


def sample(examples: Sequence[Example], count: int) -> list[Example]:
    """So many of the examples, or all, in an order drawn with seed 0."""
    order = list(range(len(examples)))
    random.Random(0).shuffle(order)
    return [examples[i] for i in order[:count]]
