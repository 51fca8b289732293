"""Requests of several tasks as one padded batch: what each task asks, and which of them can stand together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from softprompt.core import Batch, Injection, Row
from softprompt.mixed import Layout, Part, mix
from softprompt.serve.engine.registry import Entry
from softprompt.serve.engine.work import Work


@dataclass(frozen=True)
class Question:
    """Requests of one task that ask for the same kind of output: their rows, and what its prompt adds to them."""

    works: list[Work]
    rows: list[Row]
    part: Part


def asked(works: Sequence[Work]) -> list[Question]:
    """What some requests ask, task by task."""
    by_entry: dict[int, list[Work]] = {}
    for work in works:
        by_entry.setdefault(id(work.entry), []).append(work)
    return [question(mine[0].entry, mine) for mine in by_entry.values()]


def question(entry: Entry, works: list[Work]) -> Question:
    """What some requests of one task ask."""
    prompt, writes = entry.prompt, works[0].writes
    rows = [row for work in works for row in (work.rows[:1] * work.choices if writes else work.rows)]
    left = writes and prompt.backbone.spec.kind != "seq2seq"
    batch = prompt.batch(rows, side="left" if left else "right")
    injection = prompt.inject(batch)
    if works[0].hidden:
        batch, injection = replace(batch, decoder=None), replace(injection, decoder=None)
    return Question(works, rows, (batch, injection))


def together(questions: Sequence[Question]) -> list[list[Question]]:
    """The same by batches: all in one, but for mixtures that no mask can express."""
    found: list[list[Question]] = []
    for one in questions:
        layout = Layout.of(one.part)
        for group in found:
            if all(layout.fits(Layout.of(other.part)) for other in group):
                group.append(one)
                break
        else:
            found.append([one])
    return found


def joined(questions: Sequence[Question], *, left: bool = False) -> tuple[Batch, Injection]:
    """All rows of some questions as one batch; those of one task are one already."""
    return questions[0].part if len(questions) == 1 else mix([one.part for one in questions], left=left)
