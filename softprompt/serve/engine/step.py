"""One forward for the rows of all tasks: laid out, run, and handed back row by row."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softprompt.serve.engine.cache import Cache
from softprompt.serve.engine.ragged import Ragged, Segment
from softprompt.serve.engine.reader import Reader
from softprompt.serve.engine.work import Job
from softprompt.serve.engine.writing import Writing


@dataclass
class Step:
    """Rows that write one token each (row i in slot i of the cache), and rows that read some tokens each."""

    writing: Sequence[Job]
    reading: Sequence[tuple[Job, int]]
    hidden: bool = False  # whether states are wanted, of all rows, or logits


def allowed(reading: Sequence[Job], writing: int, chunk: int) -> int:
    """Tokens that a step may read: a chunk beside rows that write, four where more short texts wait than rows write.

    A step takes as long as what it reads, so a long text is never worth that wait, and many short ones together are.
    """
    waiting = sum(job.left <= chunk for job in reading)
    return chunk if writing and waiting <= writing else 4 * chunk


def choose(reading: Sequence[Job], hidden: bool, budget: int) -> list[tuple[Job, int]]:
    """Which rows read how many tokens of `budget`, first come, first served; those behind one front side by side.

    So they read it in one product. A row without a slot is read at once, if need be in a step of its own.
    """
    chosen: list[tuple[Job, int]] = []
    for job in reading:
        tokens = min(job.left, budget) if job.slot >= 0 or chosen else job.left
        if job.hidden == hidden and tokens and (tokens == job.left or job.slot >= 0):
            chosen.append((job, tokens))
            budget = max(0, budget - tokens)
    return sorted(chosen, key=lambda pair: id(pair[0].front))


def forward(reader: Reader, cache: Cache, step: Step) -> tuple[Tensor, Tensor]:
    """Logits [R, V] after the rows that write, and the states or logits [J, ...] of all that read, in their order."""
    count = len(step.writing)
    ids = [job.writer.ids[-1] for job in step.writing if job.writer is not None]
    places = [job.front.places + job.done for job in step.writing]
    wanted, segments = list(range(count)), []
    for job, tokens in step.reading:
        begin, at = len(ids), job.front.places + job.done
        segments.append(Segment(begin, begin + tokens, job.front, job.slot, job.done))
        wanted += [begin + column for column in job.wanted(tokens)]
        places += range(at, at + tokens)
        ids += job.ids(tokens)
    backbone = reader.backbone
    device = backbone.device
    embedded = backbone.tokens(torch.tensor([ids], device=device))
    for (job, tokens), segment in zip(step.reading, segments, strict=True):
        if job.embedded is not None:
            embedded[0, segment.begin : segment.end] = job.embedded[job.done : job.done + tokens]
    kept = [job.done + 1 for job in step.writing] + [job.done + n for job, n in step.reading if job.slot >= 0]
    cache.reserve(max(kept, default=0))
    writing = Writing([job.front for job in step.writing], [job.done for job in step.writing]) if count else None
    state = Ragged(backbone.attention_modules, segments, writing, cache)
    asked = torch.tensor(wanted, device=device) if wanted and not step.hidden else None
    made = reader.run(embedded, torch.tensor([places], device=device), state, asked)
    if asked is None and not step.hidden:  # nobody is at a place where an answer is read
        made = made[:0]
    return made[:count], made[count:]


def deal(step: Step, made: Tensor) -> None:
    """Give every row that read its share of states or logits, and note how far it has come."""
    begin = 0
    for job, tokens in step.reading:
        share = tokens if step.hidden else len(job.wanted(tokens))
        if share:
            job.made.append(made[begin : begin + share])
        begin += share
        job.done += tokens
