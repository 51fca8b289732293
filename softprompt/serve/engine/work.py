"""A request under way: its rows, what they still have to read, and what has come of it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from softprompt.core import Row
from softprompt.errors import DataError
from softprompt.generate import Ending
from softprompt.serve.contract import Usage
from softprompt.serve.engine.compiled import Compiled, private
from softprompt.serve.engine.registry import Entry
from softprompt.serve.engine.rows import labelled, reads_hidden, scored
from softprompt.serve.engine.table import Front
from softprompt.serve.engine.ticket import Ticket
from softprompt.serve.engine.writer import Writer, settings_of


@dataclass(eq=False)
class Work:
    """A request and the entry that it holds."""

    ticket: Ticket
    entry: Entry
    rows: list[Row]
    jobs: list["Job"] = field(default_factory=list)
    usage: Usage = field(default_factory=lambda: Usage(0))
    written: list[Writer] = field(default_factory=list)  # its choices

    @property
    def writes(self) -> bool:
        """Whether it is answered by writing."""
        return self.ticket.request.kind == "write"

    @property
    def choices(self) -> int:
        """Rows that it takes."""
        return self.ticket.request.sampling.n if self.writes else len(self.rows)

    @property
    def tokens(self) -> int:
        """Tokens that were written."""
        return sum(len(writer.ids) for writer in self.written)

    @property
    def hidden(self) -> bool:
        """Whether its answer is read from states."""
        return not self.writes and reads_hidden(self.entry.prompt, self.ticket.request.kind)

    def writer(self, index: int, room: int) -> Writer:
        """Choice `index` of the answer, where the context has room for so many tokens."""
        request, prompt = self.ticket.request, self.entry.prompt
        most = prompt.task.new_tokens if request.sampling.max_new_tokens is None else request.sampling.max_new_tokens
        ending = Ending(prompt.template.tokenizer, self.entry.ends, request.sampling.stop)
        return Writer(ending, settings_of(request, most), min(most, room), index, request.sampling.logprobs)

    def answer(self, outputs: list[Tensor]) -> None:
        """Tell the answer of a request that is scored, from the output of each of its rows, and end."""
        told = scored(self.entry.prompt, self.ticket.request.kind, self.rows, outputs)
        self.ticket.end(None, told, self.usage)


def room_of(entry: Entry, row: Row, places: int) -> int:
    """Tokens that may follow a row behind a prefix of `places`: one more than can be read, the last is not read again.

    Raises `DataError` where the row itself does not fit.
    """
    limit = entry.prompt.backbone.spec.positions or 10**9
    read = len(row.ids) + places
    if read > limit:
        found = f"{read} tokens, prompt included"
        raise DataError("SP-E104", found, f"at most {limit}", "use a shorter text or prompt")
    return limit - read + 1


@dataclass(eq=False)
class Job:
    """One row of a request in the step of all tasks: what it stands behind, and what it has read."""

    work: Work
    row: Row
    front: Front
    matched: int  # tokens of the row that `front` stands for
    states: Tensor | None  # [matched, S], their last states
    embedded: Tensor | None  # [T - matched, H] of the others, where they are more than their tokens' embeddings
    columns: list[int]  # of the row, where logits are wanted
    writer: Writer | None = None
    slot: int = -1
    done: int = 0  # tokens read, or written and read again
    made: list[Tensor] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Tokens that are still to be read."""
        return len(self.row.ids) - self.matched - self.done

    @property
    def hidden(self) -> bool:
        """Whether states are wanted rather than logits."""
        return self.writer is None and not self.columns

    def ids(self, count: int) -> list[int]:
        """The next tokens that it reads."""
        begin = self.matched + self.done
        return self.row.ids[begin : begin + count]

    def wanted(self, count: int) -> list[int]:
        """Which of the next tokens logits are wanted at."""
        begin = self.matched + self.done
        return [column - begin for column in self.columns if begin <= column < begin + count]

    def output(self) -> Tensor:
        """Logits [J, V] at the columns, or states [T, S] of the whole row."""
        parts = self.made if self.states is None or not self.hidden else [self.states, *self.made]
        return torch.cat(parts) if len(parts) > 1 else parts[0]


def prepare(work: Work, compiled: Callable[[Entry], tuple[Compiled, bool]]) -> None:
    """Make the jobs of a request; `compiled` finds or makes the front of an entry, and says whether it was there."""
    found, hit = compiled(work.entry) if work.entry.injection is not None else (None, False)
    for index in range(work.choices):
        row = work.rows[0] if work.writes else work.rows[index]
        job = alone(work, row) if found is None else behind(work, row, found)
        job.columns = [] if work.hidden else [len(row.ids) - 1] if work.writes else labelled(row)
        room = room_of(work.entry, row, job.front.places - job.matched)
        if work.writes:
            job.writer = work.writer(index, room)
            work.written.append(job.writer)
        work.jobs.append(job)
    tokens = sum(len(job.row.ids) + job.front.places - job.matched for job in work.jobs[: len(work.rows)])
    cached = sum(job.front.places for job in work.jobs[: len(work.rows)]) if hit else 0
    work.usage = Usage(tokens, 0, cached)


def behind(work: Work, row: Row, compiled: Compiled) -> Job:
    """A row behind the front of its task."""
    count = compiled.match(row)
    embedded = None
    if any(slot >= 0 for slot in row.slots[count:]):
        embedded = embed(work, row, count)
    return Job(work, row, compiled.first(count), count, compiled.hidden[:count], embedded, [])


def embed(work: Work, row: Row, count: int) -> Tensor:
    """Embeddings [T - count, H] of the rest of a row, prompt vectors among them."""
    prompt, injection = work.entry.prompt, work.entry.injection
    backbone: Any = prompt.backbone
    batch = prompt.batch([row])
    assert injection is not None
    embedded: Tensor = backbone.embed(batch, injection)[0, count:]
    return embedded


def alone(work: Work, row: Row) -> Job:
    """A row of a method that looks at the text: what it adds is this row's alone, and all of it is read."""
    prompt = work.entry.prompt
    backbone: Any = prompt.backbone
    batch = prompt.batch([row])
    injection = prompt.inject(batch)
    backbone.accept(batch, injection)
    front = private(injection, len(backbone.attention_modules))
    return Job(work, row, front, 0, None, backbone.embed(batch, injection)[0], [])


def finish(work: Work) -> None:
    """End a request that writes, once all of its choices have."""
    if all(writer.over for writer in work.written):
        work.usage = replace(work.usage, completion_tokens=work.tokens)
        work.ticket.end(None, work.usage)
