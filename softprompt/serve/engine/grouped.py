"""What cannot run in the one step of all tasks: encoders, encoder-decoders, and a few causal families.

Requests run together, padded, as `Prompt.predict` runs them: rows of any tasks in one batch, as far as a mask can tell
what each of them sees (`mixed.Layout`). An answer that is written goes on by one token in every round of the engine, so
nobody waits for a whole answer, and a request that is cancelled leaves after one step.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from softprompt.core import Output
from softprompt.errors import SoftpromptError
from softprompt.heads import columns
from softprompt.serve.contract import Usage
from softprompt.serve.engine.questions import Question, asked, joined, together
from softprompt.serve.engine.rows import labelled
from softprompt.serve.engine.trouble import internal, not_finite
from softprompt.serve.engine.work import Work, finish
from softprompt.serve.engine.writer import likeliest
from softprompt.stream import DecoderStream, Stream, fronts, room_after

logger = logging.getLogger(__name__)


class Group:
    """Requests that run together; one forward at every `advance`."""

    def __init__(self, works: list[Work]) -> None:
        self.works = works

    def advance(self) -> None:
        """One forward."""
        raise TypeError(f"{type(self).__name__} must say how it goes on")

    def forget_ended(self) -> None:
        """Leave out requests that have ended."""
        self.works = [work for work in self.works if not work.ticket.ended]


def grouped(works: Sequence[Work], most: int) -> Iterator[list[Work]]:
    """Requests that can run as one batch of about `most` rows: those that ask for the same kind of output."""
    by_key: defaultdict[Any, list[Work]] = defaultdict(list)
    for work in works:
        backbone: Any = work.entry.prompt.backbone
        alike = not work.writes or backbone.spec.kind == "seq2seq" or backbone.pads_left
        by_key[work.writes, work.hidden, 0 if alike else len(work.rows[0].ids)].append(work)
    for found in by_key.values():
        chosen: list[Work] = []
        for work in found:
            chosen.append(work)
            if sum(one.choices for one in chosen) >= most:
                yield chosen
                chosen = []
        if chosen:
            yield chosen


def start(works: list[Work]) -> list[Group]:
    """The groups of some requests; one that cannot be begun is ended by its error and takes nobody with it."""
    if not works[0].writes:
        return [Scoring(works)]
    try:
        return [Written(questions) for questions in together(asked(works))]
    except Exception as error:  # of one of them; which one shows when each is begun alone
        if len(works) > 1:
            return [group for work in works for group in start([work])]
        failed(works[0], error)
        return []


def failed(work: Work, error: Exception) -> None:
    """End a request by an error, which is told to the log where it is a defect of ours."""
    if not isinstance(error, SoftpromptError):
        logger.error("a request failed", exc_info=error)
        error = internal(error)
    work.ticket.end(error)


class Scoring(Group):
    """Requests that are scored, in one forward."""

    @override
    def advance(self) -> None:
        try:
            for questions in together(asked(self.works)):
                score(questions)
        except Exception:  # one of them cannot be answered; which one shows when each is asked alone
            for work in self.works:
                if not work.ticket.ended:
                    alone(work)


def alone(work: Work) -> None:
    """Score one request, or end it by the error that it makes."""
    try:
        score(asked([work]))
    except Exception as error:
        failed(work, error)


def score(questions: Sequence[Question]) -> None:
    """Answer some questions from one forward."""
    outputs, counts = padded(questions)
    at = 0
    for work in (work for question in questions for work in question.works):
        mine, taken = outputs[at : at + len(work.rows)], counts[at : at + len(work.rows)]
        at += len(work.rows)
        work.usage = Usage(sum(taken))
        try:
            work.answer(mine)
        except SoftpromptError as error:
            work.ticket.end(error)


def padded(questions: Sequence[Question]) -> tuple[list[Tensor], list[int]]:
    """The output of every row, states [T, S] or logits [J, V] where its labels are, and the tokens that each took."""
    first, rows = questions[0].works[0], [row for question in questions for row in question.rows]
    batch, injection = joined(questions)
    taken = [len(row.ids) + places for row, places in zip(rows, fronts(injection, len(rows)), strict=True)]
    if first.hidden:
        output: Output = first.entry.prompt.backbone(batch, injection)
        assert output.hidden is not None
        return [output.hidden[i, : len(row.ids)] for i, row in enumerate(rows)], taken
    wanted = columns(batch)
    output = first.entry.prompt.backbone(batch, injection, columns=wanted)
    assert output.logits is not None
    index = {column: i for i, column in enumerate(wanted.tolist())}
    return [output.logits[i, [index[c] for c in labelled(row)]] for i, row in enumerate(rows)], taken


class Written(Group):
    """Requests that are answered by writing: a stream of all their choices."""

    def __init__(self, questions: Sequence[Question]) -> None:
        super().__init__([work for question in questions for work in question.works])
        backbone: Any = self.works[0].entry.prompt.backbone
        rows = [row for question in questions for row in question.rows]
        written = backbone.spec.kind == "seq2seq"
        batch, injection = joined(questions, left=not written)
        most = room_after(backbone, rows, injection)
        self.stream = (DecoderStream if written else Stream)(backbone, batch, injection)
        places = [0] * len(rows) if written else fronts(injection, len(rows))
        chosen = [(work, i) for work in self.works for i in range(work.choices)]
        self.live = [(work, work.writer(i, count)) for (work, i), count in zip(chosen, most, strict=True)]
        for (work, writer), place in zip(self.live, places, strict=True):
            work.written.append(writer)
            work.usage = Usage(len(work.rows[0].ids) + place)

    @override
    def advance(self) -> None:
        here = [i for i, (work, _) in enumerate(self.live) if not work.ticket.ended]
        self.keep(here)
        if not self.live:
            return
        scores = self.stream.logits.float()
        best, fit = likeliest(scores)
        going = [i for i in range(len(self.live)) if self.append(i, scores[i], best[i], fit[i])]
        tokens = [self.live[i][1].ids[-1] for i in going]
        self.keep(going)
        if going:
            self.stream.feed(torch.tensor(tokens, device=self.stream.mask.device))

    def keep(self, places: list[int]) -> None:
        """Go on with these rows alone."""
        if places and len(places) < len(self.live):
            self.stream.keep(places)
        self.live = [self.live[i] for i in places]

    def append(self, place: int, scores: Tensor, best: int, fit: bool) -> bool:
        """One more token of one row; whether it goes on."""
        work, writer = self.live[place]
        if work.ticket.ended:  # another choice of the same request failed
            return False
        if not fit:
            work.ticket.end(not_finite())
            return False
        writer.choose(scores, best)
        reason = writer.reason()
        if reason is not None or not work.ticket.pieces:  # else nobody has taken what was told before
            work.ticket.put(*writer.pieces(reason))
        if reason is not None:
            writer.over = True
            finish(work)
        return reason is None
