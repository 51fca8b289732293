"""A prompt whose loss is how far it answers from its teacher, label by label.

Rows of teacher and student begin at different places, so labels are matched one by one, never by column. What the
teacher answers is computed once: the chances of all classes, or, where answers are written, those of its likeliest
tokens and of all others together.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from softprompt.core import IGNORE, TEXT, Batch, Example, Injection, Output, Row
from softprompt.heads import Verbalizer, supervised
from softprompt.lessons import lesson_loss
from softprompt.prompt import Prompt, by_length

Lesson = tuple[Tensor, Tensor]  # [N, top] ids, and [N, top + 1] log-chances, the last of all other tokens
FLOOR = 1e-7  # the least chance of all tokens that are not kept


class Taught(Prompt):
    """A prompt whose loss is how far it answers from its teacher."""

    lessons: dict[tuple[int, ...], Lesson]  # by the tokens of a row: batches carry no names of their rows

    @override
    def weigh(self, batch: Batch, injection: Injection, output: Output, seen: Batch) -> Tensor:
        told = [self.lessons[key] for key in keys(batch)]
        ids = torch.cat([ids for ids, _ in told]).to(self.backbone.device)
        wanted = torch.cat([chances for _, chances in told]).to(self.backbone.device)
        own = closed(answered(self, output, seen), ids)
        loss = (wanted.exp() * (wanted - own)).sum()
        if injection.lesson is not None:
            loss = loss + lesson_loss(output, batch, injection.lesson)
        return loss if injection.penalty is None else loss + injection.penalty * self.head.count(batch)


def closed(logs: Tensor, ids: Tensor) -> Tensor:
    """Log-chances [N, k (+ 1)] of some tokens [N, k], and of all others together, from those of all [N, V]."""
    kept = logs.gather(1, ids)
    if ids.shape[1] == logs.shape[1]:
        return kept  # there are no others
    rest = (1 - kept.exp().sum(1, keepdim=True)).clamp(min=FLOOR)
    return torch.cat([kept, rest.log()], 1)


def answered(prompt: Prompt, output: Output, seen: Batch) -> Tensor:
    """Log-chances [N, V] at every label, row by row; of the classes [B, C] where one forward scores all of them."""
    if isinstance(prompt.head, Verbalizer) and prompt.head.one_pass:
        return prompt.head.scores(output, seen)
    assert output.logits is not None
    assert output.columns is not None
    labels = supervised(seen).labels
    assert labels is not None
    places = labels[:, output.columns] != IGNORE  # [B, J]
    return output.logits[places].float().log_softmax(-1)


def learned(teacher: Prompt, student: Prompt, examples: Sequence[Example], top: int) -> dict[tuple[int, ...], Lesson]:
    """What the teacher answers to every example, by the tokens of the student's row."""
    return by_row(student, examples, asked(teacher, examples, top))


def by_row(student: Prompt, examples: Sequence[Example], lessons: Sequence[Lesson]) -> dict[tuple[int, ...], Lesson]:
    """The lessons of some examples, by the tokens of the student's rows."""
    return {key(student.row(example)): lesson for example, lesson in zip(examples, lessons, strict=True)}


@torch.inference_mode()
def asked(teacher: Prompt, examples: Sequence[Example], top: int) -> list[Lesson]:
    """What the teacher answers to every example: the chances of all classes, or of the `top` likeliest tokens."""
    teacher.eval()
    rows = [teacher.row(example) for example in examples]
    found: dict[int, Lesson] = {}
    for chosen in by_length(rows, 32):
        batch = teacher.batch([rows[i] for i in chosen])
        logs = answered(teacher, teacher(batch), batch)
        most = logs.shape[1] if scored_at_once(teacher) else min(top, logs.shape[1])
        ids = logs.topk(most, dim=1).indices
        chances = closed(logs, ids).cpu()
        counts = [labels_of(teacher, rows[i]) for i in chosen]
        for i, one, told in zip(chosen, torch.split(ids.cpu(), counts), torch.split(chances, counts), strict=True):
            found[i] = (one.clone(), told.clone())
    return [found[i] for i in range(len(rows))]


def scored_at_once(prompt: Prompt) -> bool:
    """Whether one forward scores all classes, and a lesson is about classes rather than tokens."""
    return isinstance(prompt.head, Verbalizer) and prompt.head.one_pass


def labels_of(prompt: Prompt, row: Row) -> int:
    """How many answers of a row are compared: one where all classes are scored at once, else one a label."""
    if scored_at_once(prompt):
        return 1
    side = row if row.decoder is None else row.decoder
    return sum(label != IGNORE for label in side.labels)


def key(row: Row) -> tuple[int, ...]:
    """The tokens of a row without its slots, and of its decoder."""
    own = tuple(i for i, slot in zip(row.ids, row.slots, strict=True) if slot == TEXT)
    return own if row.decoder is None else (*own, -1, *row.decoder.ids)


def keys(batch: Batch) -> list[tuple[int, ...]]:
    """`key` of every row of a batch."""
    text = (batch.mask & (batch.slots == TEXT)).cpu()
    own = [tuple(ids[keep].tolist()) for ids, keep in zip(batch.input_ids.cpu(), text, strict=True)]
    if batch.decoder is None:
        return own
    side = zip(batch.decoder.input_ids.cpu(), batch.decoder.mask.cpu(), strict=True)
    return [(*a, -1, *ids[keep].tolist()) for a, (ids, keep) in zip(own, side, strict=True)]


__all__ = ["Lesson", "Taught", "answered", "asked", "by_row", "closed", "key", "keys", "learned", "scored_at_once"]
