"""What cannot run in the one step of all tasks: encoders, encoder-decoders, and a few causal families.

Requests of one task run together, padded, as `Prompt.predict` runs them. An answer that is written goes on by one token
in every round of the engine, so nobody waits for a whole answer, and a request that is cancelled leaves after one step.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from softprompt.core import Output, Row
from softprompt.errors import SoftpromptError
from softprompt.generate import begin
from softprompt.heads import columns
from softprompt.prompt import Prompt
from softprompt.serve.contract import Usage
from softprompt.serve.engine.rows import labelled
from softprompt.serve.engine.trouble import not_finite
from softprompt.serve.engine.work import Work, finish
from softprompt.serve.engine.writer import likeliest
from softprompt.stream import fronts

LIMITLESS = 10**9


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
    """Requests that can run as one batch of about `most` rows: of one task, and asked for the same kind of output."""
    by_key: defaultdict[Any, list[Work]] = defaultdict(list)
    for work in works:
        backbone: Any = work.entry.prompt.backbone
        alike = not work.writes or backbone.spec.kind == "seq2seq" or backbone.pads_left
        by_key[id(work.entry), work.writes, work.hidden, 0 if alike else len(work.rows[0].ids)].append(work)
    for found in by_key.values():
        chosen: list[Work] = []
        for work in found:
            chosen.append(work)
            if sum(one.choices for one in chosen) >= most:
                yield chosen
                chosen = []
        if chosen:
            yield chosen


def start(works: list[Work]) -> Group:
    """The group of some requests."""
    return Written(works) if works[0].writes else Scoring(works)


class Scoring(Group):
    """Requests that are scored, in one forward."""

    @override
    def advance(self) -> None:
        try:
            self.together(self.works)
        except SoftpromptError:
            for work in self.works:  # one of them cannot be answered; which one shows when each is asked alone
                if not work.ticket.ended:
                    alone(work)

    def together(self, works: list[Work]) -> None:
        """Score some requests in one batch."""
        prompt = works[0].entry.prompt
        rows = [row for work in works for row in work.rows]
        outputs, counts = padded(prompt, rows, hidden=works[0].hidden)
        at = 0
        for work in works:
            mine, taken = outputs[at : at + len(work.rows)], counts[at : at + len(work.rows)]
            at += len(work.rows)
            work.usage = Usage(sum(taken))
            try:
                work.answer(mine)
            except SoftpromptError as error:
                work.ticket.end(error)


def alone(work: Work) -> None:
    """Score one request, or end it by the error that it makes."""
    try:
        Scoring([work]).together([work])
    except SoftpromptError as error:
        work.ticket.end(error)


def padded(prompt: Prompt, rows: list[Row], *, hidden: bool) -> tuple[list[Tensor], list[int]]:
    """The output of every row, states [T, S] or logits [J, V] where its labels are, and the tokens that each took."""
    batch = prompt.batch(rows)
    injection = prompt.inject(batch)
    taken = [len(row.ids) + places for row, places in zip(rows, fronts(injection, len(rows)), strict=True)]
    if hidden:
        output: Output = prompt.backbone(replace(batch, decoder=None), replace(injection, decoder=None))
        assert output.hidden is not None
        return [output.hidden[i, : len(row.ids)] for i, row in enumerate(rows)], taken
    wanted = columns(batch)
    output = prompt.backbone(batch, injection, columns=wanted)
    assert output.logits is not None
    index = {column: i for i, column in enumerate(wanted.tolist())}
    return [output.logits[i, [index[c] for c in labelled(row)]] for i, row in enumerate(rows)], taken


class Written(Group):
    """Requests of one task that are answered by writing: a stream of all their choices."""

    def __init__(self, works: list[Work]) -> None:
        super().__init__(works)
        prompt = works[0].entry.prompt
        chosen = [(work, i) for work in works for i in range(work.choices)]
        rows = [work.rows[0] for work, _ in chosen]
        self.stream, room = begin(prompt, rows, LIMITLESS)
        self.live = [(work, work.writer(i, most)) for (work, i), most in zip(chosen, room, strict=True)]
        places = fronts(self.stream.injection, 1)[0] if works[0].entry.prompt.backbone.spec.kind == "causal" else 0
        for work, writer in self.live:
            work.written.append(writer)
            work.usage = Usage(len(work.rows[0].ids) + places)

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
        work.ticket.put(*writer.pieces(reason))
        if reason is not None:
            writer.over = True
            finish(work)
        return reason is None
