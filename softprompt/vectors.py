"""Prompts whose vectors stand in the text: their vectors, other prompts made of them, and what those score.

What `softprompt explain` and `softprompt compress` share. A variant has the backbone, head, template and task of the
prompt that it is made from; slots of vectors that are gone leave the template, so that nothing attends to them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from softprompt import canary
from softprompt.core import Example, Injection, Start
from softprompt.data import TaskKind
from softprompt.errors import Unsupported
from softprompt.evaluate import judged, mean_loss
from softprompt.evaluate import score as scored
from softprompt.heads import LanguageModel, Verbalizer
from softprompt.methods import find
from softprompt.metrics import Score
from softprompt.prompt import Prompt, without_prompt
from softprompt.pruning import shorter
from softprompt.template import Template

BATCH = 32  # rows of one forward


@dataclass(frozen=True)
class Measured:
    """What a prompt scores; `score` is None for prompts that write, which are judged by their loss alone."""

    loss: float  # per label, as in training
    score: Score | None

    def as_dict(self) -> dict[str, Any]:
        """The numbers as plain values."""
        return {"loss": self.loss, "score": None if self.score is None else self.score.as_dict()}


@torch.no_grad()
def vectors_of(prompt: Prompt) -> Tensor:
    """The vectors [P, H], float32 on the CPU, of a prompt that is vectors in the text and nothing else.

    Raises `Unsupported` SP-E428 for every other: images, keys and values, offsets, and what depends on the text.
    """
    if prompt.backbone.spec.kind == "vision":
        raise not_plain("a prompt for images")
    prompt.eval()
    rows = canary.rows(prompt)
    made, other = (
        prompt.inject(prompt.batch(some)) for some in (rows, rows[:1])
    )  # what looks at rows has one for each
    beside = [f.name for f in fields(Injection) if f.name != "embeds" and getattr(made, f.name) is not None]
    if made.embeds is None or beside:
        raise not_plain(f"a prompt that enters by {', '.join(beside) or 'nothing'}")
    if len(made.embeds) != 1 or other.embeds is None or not made.embeds.equal(other.embeds):
        raise not_plain("vectors that depend on the text")
    return made.embeds[0].float().cpu().clone()


def not_plain(found: str) -> Unsupported:
    """The error for a prompt that is not plain vectors."""
    do = "train one with prompt_tuning, or another method that is stored as plain vectors"
    return Unsupported("SP-E428", found, "a prompt whose vectors stand in the text and are the same for all", do)


def variant(prompt: Prompt, vectors: Tensor, keep: Sequence[bool] | None = None) -> Prompt:
    """The prompt with other `vectors` [P', H]; `keep` [P] says which of the slots they stand in (None: in all)."""
    if keep is not None and not any(keep):
        return without_prompt(prompt).eval()
    template = prompt.template if keep is None else shortened(prompt, keep)
    method = find("prompt_tuning")(prompt.backbone.spec, Start(vectors.detach().clone().float()))
    return Prompt(prompt.backbone, method, prompt.head, template, prompt.task).eval()


def shortened(prompt: Prompt, keep: Sequence[bool]) -> Template:
    """The template of a prompt with slots for the vectors that are kept, each where it stood."""
    old = prompt.template
    text = shorter(old.text, keep)
    return Template(text, prompt.backbone, length=sum(keep), limit=old.limit, cut=old.cut)


def without(prompt: Prompt, vectors: Tensor, gone: Sequence[int]) -> Prompt:
    """The prompt without some of its vectors [P, H] and without their slots."""
    keep = [i not in set(gone) for i in range(len(vectors))]
    return variant(prompt, vectors[torch.tensor(keep)], keep)


def writes(prompt: Prompt) -> bool:
    """Whether answers are written: then the loss is all that is measured."""
    return isinstance(prompt.head, LanguageModel) and not isinstance(prompt.head, Verbalizer)


def measure(
    prompt: Prompt, examples: Sequence[Example], metric: str, *, draws: int | None = None, batch_size: int = BATCH
) -> Measured:
    """Loss and score on labelled examples; few `draws` of the bootstrap where no ± is wanted."""
    if writes(prompt):
        return Measured(mean_loss(prompt, examples, batch_size), None)
    loss, predictions = judged(prompt, examples, batch_size)
    options: dict[str, Any] = {} if draws is None else {"draws": draws}
    kind: TaskKind = prompt.task.kind
    return Measured(loss, scored(kind, metric, [p.answer for p in predictions], examples, **options))
