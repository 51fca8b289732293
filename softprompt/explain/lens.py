"""What a model's own head reads in the states of prompt vectors, layer by layer.

nostalgebraist 2020, "interpreting GPT: the logit lens": the states after layer k are put through the model's last norm
and head. Ours are read by the model itself with all of its layers skipped, so that norm, scale and caps are its own.
"""

from typing import Any

import torch
from torch import Tensor

from softprompt.core import TEXT, Example, Injection
from softprompt.explain.neighbours import Table
from softprompt.prompt import Prompt


@torch.no_grad()
def lens(prompt: Prompt, vectors: Tensor, example: Example, words: Table, count: int = 3) -> dict[str, Any]:
    """The `count` likeliest tokens in the state of every vector after 0, 1, ..., L layers.

    {"layers": [[[{"word", "probability"}, ...] for every vector] for every depth], "fixed": bool}; `fixed` says that
    the states are the same whatever the text is. {"missing": why} where a model has no head or no list of layers.
    """
    backbone: Any = prompt.backbone
    if backbone.spec.kind == "seq2seq" or backbone.model is backbone.stack():
        return {"missing": "the stack that reads the prompt has no head that reads words"}
    if backbone.layers is None:
        return {"missing": "this model has no list of layers that could be told apart"}
    batch = prompt.batch([prompt.row(example, labelled=False)])
    injection = Injection(embeds=vectors[None].to(backbone.device))
    given = backbone.arguments(batch, injection, None)
    at = (batch.slots[0] != TEXT).nonzero()[:, 0]
    order = batch.slots[0][at].argsort()
    depth = len(backbone.attention_modules)
    made = []
    for layer in range(depth):
        states = backbone.layers.below(backbone.model, layer, lambda model: model.base_model(**given))
        read = backbone.layers.above(backbone.model, depth, states)
        made.append(spelled(read(**given).logits[0, at[order]], words, count))
    made.append(spelled(backbone.model(**given).logits[0, at[order]], words, count))
    return {"layers": made, "fixed": backbone.causal and text_free(prompt)}


def spelled(logits: Tensor, words: Table, count: int) -> list[list[dict[str, Any]]]:
    """The likeliest tokens [P] of logits [P, V]."""
    best = logits.float().softmax(-1)[:, : len(words.rows)].topk(count)
    pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return [[{"word": words.word(i), "probability": p} for p, i in zip(*pair, strict=True)] for pair in pairs]


def text_free(prompt: Prompt) -> bool:
    """Whether no column stands before the last prompt vector."""
    kinds = [piece.kind for piece in prompt.template.pieces]
    return "field" not in kinds[: len(kinds) - kinds[::-1].index("soft")]
