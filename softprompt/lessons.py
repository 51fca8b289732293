"""A loss on tokens beside the answer: those that prompt vectors stand for (CPT), or those of the text (DART)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from softprompt.core import IGNORE, TEXT, Batch, Lesson, Output
from softprompt.errors import Unsupported


def aligned(batch: Batch, lesson: Lesson) -> tuple[Tensor, Tensor]:
    """What position t must predict beside the answer, [B, T] with IGNORE, and the weights [B, T].

    A lesson [P] is about the prompt that follows position t; one [B, T] says it for every place.
    """
    if lesson[0].dim() == 2:
        return lesson
    told, weights = (values.to(batch.slots.device)[batch.slots.clamp(min=0)] for values in lesson)
    follows = (batch.slots != TEXT)[:, 1:] & batch.mask[:, :-1]  # a token that is first of all is predicted by nobody
    labels = F.pad(told[:, 1:].masked_fill(~follows, IGNORE), (0, 1), value=IGNORE)
    return labels, F.pad(weights[:, 1:], (0, 1))


def with_lesson(batch: Batch, lesson: Lesson, columns: Tensor | None) -> Tensor:
    """The columns [J] at which logits are needed for a head that reads `columns`, and for the lesson.

    Raises `Unsupported` for heads that read no logits, and for encoder-decoders, where the prompt predicts nothing.
    """
    if columns is None or batch.decoder is not None:
        raise untold("a head that reads states" if columns is None else "an encoder-decoder")
    needed = (aligned(batch, lesson)[0] != IGNORE).any(0)
    needed[columns] = True
    return needed.nonzero()[:, 0]


def lesson_loss(output: Output, batch: Batch, lesson: Lesson) -> Tensor:
    """The summed, weighted cross-entropy [] of a lesson in every row, from logits at the columns of `with_lesson`."""
    labels, weights = aligned(batch, lesson)
    if output.logits is None or output.columns is None or len(output.logits) != len(batch):
        raise untold("logits of something else than the rows")
    at = output.columns
    if int((labels[:, at] != IGNORE).sum()) != int((labels != IGNORE).sum()):
        raise untold("logits at other places")
    losses = F.cross_entropy(
        output.logits.float().transpose(1, 2), labels[:, at], ignore_index=IGNORE, reduction="none"
    )
    return torch.sum(losses * weights[:, at])


def untold(found: str) -> Unsupported:
    """A lesson that nobody would be taught."""
    expected = "logits where the prompt stands"
    do = "set method.options.context=false (cpt) or method.options.fluency=0 (dart)"
    return Unsupported("SP-E427", f"tokens to predict beside the answer, and {found}", expected, do)
