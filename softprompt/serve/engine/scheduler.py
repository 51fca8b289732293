"""The thread that runs the backbone: it admits requests, runs steps of all tasks together, and tells what came of it.

A step is one forward: one token of every row that writes, and up to `chunk` tokens of rows that still read, so a long
text is read in pieces between the steps of the others. Scoring and writing share it.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from threading import Condition, Thread
from typing import Any

import torch
from torch import Tensor

from softprompt.errors import SoftpromptError
from softprompt.serve.engine.cache import Cache
from softprompt.serve.engine.compiled import Compiled, Store, compile_front
from softprompt.serve.engine.grouped import Group, grouped, start
from softprompt.serve.engine.limits import Limits
from softprompt.serve.engine.reader import Reader
from softprompt.serve.engine.registry import Entry
from softprompt.serve.engine.slots import Slots
from softprompt.serve.engine.step import Step, allowed, choose, deal, forward
from softprompt.serve.engine.trouble import cancelled, draining, internal, not_finite, queue_full
from softprompt.serve.engine.work import Job, Work, finish, prepare
from softprompt.serve.engine.writer import likeliest

__all__ = ["Limits", "Scheduler"]

logger = logging.getLogger(__name__)


class Scheduler:
    """Requests from `submit` to their end. Everything but `submit`, `wake` and `stop` runs on its own thread."""

    def __init__(self, backbone: Any, limits: Limits, release: Callable[[Work], None]) -> None:
        self.limits, self.release = limits, release
        self.reader = Reader(backbone)
        self.store = Store(limits.store_bytes)
        self.slots = Slots(Cache(len(getattr(backbone, "attention_modules", ())), limits.rows))
        self.waiting: deque[Work] = deque()
        self.running: list[Work] = []
        self.reading: list[Job] = []
        self.writing: list[Job] = []
        self.groups: list[Group] = []
        self.changed = Condition()
        self.closing = self.cancelling = False
        self.steps = 0
        self.thread = Thread(target=self.loop, name="softprompt-engine", daemon=True)

    def submit(self, work: Work) -> None:
        """Queue a request; raises `ServeError` where the queue is full or the engine is closing."""
        with self.changed:
            if self.closing:
                raise draining()
            if len(self.waiting) >= self.limits.waiting:
                raise queue_full(len(self.waiting))
            self.waiting.append(work)
            self.changed.notify()

    def wake(self) -> None:
        """Look again: something was cancelled."""
        with self.changed:
            self.changed.notify()

    def stop(self, *, drain: bool) -> None:
        """Take no more requests; finish those under way, or cancel them."""
        with self.changed:
            self.closing, self.cancelling = True, self.cancelling or not drain
            self.changed.notify()

    @property
    def busy(self) -> bool:
        """Whether anything is waiting or under way."""
        return bool(self.waiting or self.running)

    def loop(self) -> None:
        """Run until closed and empty."""
        with torch.inference_mode():
            while True:
                with self.changed:
                    self.changed.wait_for(lambda: self.busy or self.closing)
                    if not self.busy:
                        return
                self.guard(self.running, self.turn)

    def turn(self) -> None:
        """One round: leave, enter, one step."""
        self.sweep()
        self.admit()
        for group in list(self.groups):
            self.guard(group.works, group.advance)
            self.sweep()
        self.slots.settle(self.writing)
        for hidden in (False, True):
            self.step(hidden)
        self.sweep()

    def guard(self, works: Sequence[Work], act: Callable[[], object]) -> None:
        """Do something for some requests; what goes wrong ends these and no other."""
        try:
            act()
        except SoftpromptError as error:
            self.fail(works, error)
        except Exception as error:  # the thread serves everybody else
            logger.exception("a step failed")
            self.fail(works, internal(error))

    def fail(self, works: Sequence[Work], error: Exception) -> None:
        """End requests by an error."""
        for work in works:
            work.ticket.end(error)

    def sweep(self) -> None:
        """Let go of requests that have ended or were cancelled; their rows are free at once."""
        with self.changed:
            cancelling = self.cancelling
            dropped = [work for work in self.waiting if cancelling or work.ticket.cancelled]
            for work in dropped:
                self.waiting.remove(work)
        for work in self.running:
            if cancelling or work.ticket.cancelled:
                work.ticket.end(cancelled())
        ended = [work for work in self.running if work.ticket.ended]
        if ended:
            self.running = [work for work in self.running if not work.ticket.ended]
            self.reading = [job for job in self.reading if not job.work.ticket.ended]
            for job in self.slots.jobs():
                if job.work.ticket.ended:
                    self.free(job)
            for group in self.groups:
                group.forget_ended()
            self.groups = [group for group in self.groups if group.works]
        for work in dropped:
            work.ticket.end(cancelled())
        for work in [*dropped, *ended]:
            self.release(work)

    def free(self, job: Job) -> None:
        """Give a row's slot back."""
        self.slots.free(job, poisoned=job.work.ticket.error is not None)
        if job in self.writing:
            self.writing.remove(job)

    def admit(self) -> None:
        """Start requests in the order in which they came, as far as there are slots; scoring need not wait for one."""
        free = self.slots.left
        with self.changed:
            entering: list[Work] = []
            for work in list(self.waiting):
                needs = self.slots_for(work)
                if needs <= free and len(self.running) + len(entering) < 4 * self.limits.rows:
                    free -= needs
                    entering.append(work)
                    self.waiting.remove(work)
        self.running += entering
        for work in sorted(entering, key=lambda work: len(work.rows[0].ids)):  # slots of like length side by side
            if work.entry.ragged:
                self.guard([work], partial(self.enter, work))
        for works in grouped([work for work in entering if not work.entry.ragged], self.limits.rows):
            self.guard(works, partial(self.start, works))

    def slots_for(self, work: Work) -> int:
        """Slots that a request needs: for every row that writes, or that is read in more than one step."""
        if not work.entry.ragged:
            return 0
        if work.writes:
            return work.choices
        long = sum(len(row.ids) > self.limits.chunk for row in work.rows)
        return long if long <= self.limits.rows else 0  # more than there are: each is read in a step of its own

    def start(self, works: list[Work]) -> None:
        """Start requests that run in padded batches."""
        self.groups += start(works)

    def enter(self, work: Work) -> None:
        """Prepare a request's rows and give them slots."""
        prepare(work, self.compiled)
        if self.slots_for(work):
            for job in work.jobs:
                if job.writer is not None or job.left > self.limits.chunk:
                    self.slots.give(job)
        self.reading += work.jobs

    def compiled(self, entry: Entry) -> tuple[Compiled, bool]:
        """The front of an entry, and whether it was held."""
        found = self.store.get(entry)
        if found is not None:
            return found, True
        assert entry.injection is not None
        made = compile_front(entry.prompt, entry.injection, self.reader)
        self.store.put(entry, made)  # forgotten with the entry, which this request holds
        return made, False

    def step(self, hidden: bool) -> None:
        """One forward, and what comes of it."""
        budget = allowed(self.reading, len(self.writing), self.limits.chunk)
        step = Step([] if hidden else list(self.writing), choose(self.reading, hidden, budget), hidden)
        if not step.writing and not step.reading:
            return
        works = list({id(j.work): j.work for j in [*step.writing, *(job for job, _ in step.reading)]}.values())
        self.guard(works, partial(self.take, step))

    def take(self, step: Step) -> None:
        """Run a step and hand out its outputs."""
        written, read = forward(self.reader, self.slots.cache, step)
        self.steps += bool(step.writing)
        for job in step.writing:
            job.done += 1
        deal(step, read)
        over = [job for job, _ in step.reading if not job.left]
        self.reading = [job for job in self.reading if job.left]
        begun = [job for job in over if job.writer is not None]
        scores = torch.cat([written, *(job.made.pop() for job in begun)]) if begun else written
        self.write([*step.writing, *begun], scores)
        for work in {id(job.work): job.work for job in over if job.writer is None}.values():
            if not any(job.left for job in work.jobs):
                self.guard([work], partial(work.answer, [job.output() for job in work.jobs]))

    def write(self, jobs: list[Job], scores: Tensor) -> None:
        """Append a token to every row from its logits [V], tell its text, and end it where it ends."""
        if not jobs:
            return
        scores = scores.float()
        best, fit = likeliest(scores)
        for i, job in enumerate(jobs):
            if job.work.ticket.ended:  # another choice of the same request failed
                continue
            if not fit[i]:
                self.fail([job.work], not_finite())
            else:
                self.guard([job.work], partial(self.append, job, scores[i], best[i]))

    def append(self, job: Job, scores: Tensor, best: int) -> None:
        """One more token of one row."""
        writer = job.writer
        assert writer is not None
        writer.choose(scores, best)
        reason = writer.reason()
        if reason is not None or not job.work.ticket.pieces:  # else nobody has taken what was told before
            job.work.ticket.put(*writer.pieces(reason))
        if reason is None:
            if job not in self.writing:
                self.writing.append(job)
            return
        writer.over = True
        self.free(job)
        finish(job.work)
