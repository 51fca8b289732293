"""Which share of its attention a model gives to prompt vectors, layer by layer.

A softmax over [prompt; text] is two softmaxes, weighed by sigmoid(a - b) and sigmoid(b - a), where a and b are the
log-sums of exponentials over prompt and text. The first weight is the prompt's share, exactly (He et al. 2022, "Towards
a Unified View", arXiv:2110.04366, equation 7).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from softprompt.attention import attend
from softprompt.core import IGNORE, TEXT, Batch, Example, Injection
from softprompt.prompt import Prompt, by_length

ROWS = 16  # rows of one forward: the weights of a layer are [rows, heads, T, T]


@dataclass
class Watcher:
    """Stands where a packed batch would: sees queries and keys of every layer, and answers as the model does alone."""

    batch: Batch
    vectors: int
    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # by prompt vector [B, T, P]; all else [B, T]

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **given: Any
    ) -> Tensor:
        """The layer's own answer [B, T, heads, D]; what it attended to is noted."""
        scores = weighed(module, query, key, mask, given)
        self.layers.append(split(scores, self.batch.slots, self.vectors))
        return attend(module, query, key, value, mask, **given)[0]


def weighed(module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, given: dict[str, Any]) -> Tensor:
    """Attention scores [B, heads, Q, S] before the softmax, as the attention function of transformers has them."""
    scale = query.shape[-1] ** -0.5 if given.get("scaling") is None else given["scaling"]
    scores: Tensor = (
        query.float() @ key.float().repeat_interleave(query.shape[1] // key.shape[1], 1).transpose(2, 3) * scale
    )
    if given.get("position_bias") is not None:
        scores = scores + given["position_bias"].float()
    causal = given.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    if mask is None and causal and query.shape[2] > 1:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is None:
        return scores
    made: Tensor = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.float()
    return made


def split(scores: Tensor, slots: Tensor, vectors: int) -> tuple[Tensor, Tensor]:
    """Mean shares over heads: of each prompt vector [B, Q, P], and of all that is no prompt [B, Q]."""
    inside = (slots != TEXT)[:, None, None, :]
    prompt = scores.masked_fill(~inside, -torch.inf).logsumexp(-1)
    text = scores.masked_fill(inside, -torch.inf).logsumexp(-1)
    share = (prompt - text).sigmoid()  # [B, heads, Q]
    among = (scores - prompt.clamp(min=-1e30)[..., None]).exp().masked_fill(~inside, 0.0)  # sums to 1 over the prompt
    place = (slots[..., None] == torch.arange(vectors, device=slots.device)).float()  # [B, S, P]
    each = torch.einsum("bhqs,bsp->bhqp", among * share[..., None], place)
    return each.mean(1), (text - prompt).sigmoid().mean(1)


def readers(batch: Batch, causal: bool) -> dict[str, Tensor]:
    """Positions [B, T] asked where they look: text that sees some of the prompt, and where answers are made."""
    text = batch.mask & (batch.slots == TEXT)
    if causal:
        text &= (batch.slots != TEXT).cumsum(1) > 0
    found = {"text": text}
    if batch.decoder is None and batch.labels is not None and bool((batch.labels != IGNORE).any()):
        found["answer"] = batch.labels != IGNORE
    return found


@torch.no_grad()
def shares(prompt: Prompt, vectors: Tensor, examples: Sequence[Example]) -> dict[str, Any]:
    """Mean shares by layer, over heads, readers and examples; of an encoder-decoder, those of its encoder.

    {"text": [{"layer", "prompt", "rest", "vectors": [P]}, ...], "answer": ...}; or {"missing": why} for a family whose
    attention is not in the registry of transformers.
    """
    backbone: Any = prompt.backbone
    if not backbone.attention_modules:
        return {"missing": backbone.unsupported.get("prefix", "its attention is not in the registry")}
    rows = [prompt.row(example) for example in examples]
    sums: dict[str, list[Tensor]] = {}
    counts: dict[str, int] = {}
    for chosen in by_length(rows, ROWS):
        batch = prompt.batch([rows[i] for i in chosen])
        seen = watched(backbone, batch, vectors)
        for name, places in readers(batch, backbone.causal).items():
            made = [torch.cat([each[places], rest[places][:, None]], 1).sum(0).cpu() for each, rest in seen.layers]
            sums[name] = [a + b for a, b in zip(sums[name], made, strict=True)] if name in sums else made
            counts[name] = counts.get(name, 0) + int(places.sum())
    asked = {name: layers for name, layers in sums.items() if counts[name]}  # no text sees a prompt that ends the row
    return {name: [told(i, one / counts[name]) for i, one in enumerate(layers)] for name, layers in asked.items()}


def watched(backbone: Any, batch: Batch, vectors: Tensor) -> Watcher:
    """One forward of the stack that reads the batch, with every layer watched."""
    injection = Injection(embeds=vectors[None].to(backbone.device))
    watcher = Watcher(batch, len(vectors))
    backbone.stack()(**backbone.arguments(batch, injection, None), packed=watcher)
    return watcher


def told(layer: int, mean: Tensor) -> dict[str, Any]:
    """A layer's mean shares [P + 1] as plain values."""
    values = mean.double().tolist()
    return {"layer": layer, "prompt": sum(values[:-1]), "rest": values[-1], "vectors": values[:-1]}
