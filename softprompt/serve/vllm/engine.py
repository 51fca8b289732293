"""vLLM as the engine (`contract.Engine`): this process knows names and writes text, vLLM makes tokens from embeddings.

Names are known at the door only, and a request brings all that its prompt is, as vectors; so a prompt that comes or
goes changes nothing in vLLM. Backbone and prompts are also held here: to embed, and to try a prompt before it serves.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from copy import deepcopy
from dataclasses import replace
from itertools import count
from pathlib import Path
from threading import Condition, Thread
from typing import Any

import torch
from torch import Tensor

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.embeds import refused, vectors
from softprompt.errors import DataError
from softprompt.prompt import Prompt
from softprompt.serve.contract import Request, Stats, TaskInfo
from softprompt.serve.engine.engine import check, check_sampling, describe, ends_of
from softprompt.serve.engine.limits import Limits
from softprompt.serve.engine.registry import Entry, Registry
from softprompt.serve.engine.rows import rows_of
from softprompt.serve.engine.ticket import Ticket
from softprompt.serve.engine.trouble import cancelled, draining, queue_full
from softprompt.serve.engine.work import Work, finish
from softprompt.serve.engine.writer import Writer
from softprompt.serve.vllm.asked import broken, dead, embedded, hear, mended, wishes
from softprompt.serve.vllm.trial import check_answers, likeliest
from softprompt.serve.vllm.watch import Watch

LAST = 10.0  # seconds for vLLM to let go of what was cancelled


class Vllm:
    """Prompts of one backbone, answered by vLLM; every method may be called from any thread."""

    def __init__(self, backbone: Backbone, engine: Any, sampling: Callable[..., Any], limits: Limits) -> None:
        """Over an `AsyncLLM`; `sampling` makes `SamplingParams` whose outputs hold new tokens only."""
        self.backbone, self.engine, self.sampling = backbone, engine, sampling
        theirs = int(engine.model_config.max_model_len)
        self.limits, self.longest = limits, min(theirs, backbone.spec.positions or theirs)  # answer included
        self.registry = Registry(lambda entry: None)
        self.changed = Condition()
        self.under_way: set[Work] = set()
        self.jobs: dict[Work, asyncio.Task[None]] = {}  # of the loop's thread
        self.trials: set[Future[list[dict[int, Any]]]] = set()  # of prompts that are about to serve
        self.closed, self.numbers = False, count()
        self.outcomes: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.loop = asyncio.new_event_loop()
        self.thread = Thread(target=self.loop.run_forever, name="vllm", daemon=True)
        self.thread.start()
        self.watch = Watch(self.loop, engine, lambda: [*self.jobs.values(), *self.trials])

    def add(self, name: str, version: str, prompt: Prompt | Artifact | str | Path) -> TaskInfo:
        """Serve a prompt once vLLM has answered its canaries as the backbone does; then the next request works.

        Raises `Unsupported` SP-E429 for what vectors in the text cannot say, `ArtifactError` SP-E849 where vLLM answers
        otherwise, and what the built-in engine raises; then nothing has changed.
        """
        if isinstance(prompt, str | Path):
            prompt = Artifact.load(prompt)
        if isinstance(prompt, Artifact):
            prompt = prompt.bind(self.backbone)
        check(prompt, self.backbone, name)
        with torch.no_grad():
            given = Prompt(
                self.backbone, deepcopy(prompt.method).fold(), deepcopy(prompt.head), prompt.template, prompt.task
            ).eval()
            info = describe(name, version, given)
            info = replace(info, limit=min(info.limit, self.longest))
            entry = Entry(info, given, vectors(given), ends=ends_of(given))
        check_answers(entry, self.likeliest)
        self.registry.put(entry)
        return info

    def likeliest(self, asked: list[Tensor]) -> list[dict[int, Any]]:
        """The likeliest tokens after some rows, as vLLM has them; raises `ServeError` SP-E848 and SP-E842."""
        job = likeliest(self.engine, self.sampling, self.number, asked)
        trial = asyncio.run_coroutine_threadsafe(job, self.loop)
        self.trials.add(trial)
        try:
            return trial.result()
        except Exception as error:
            raise mended(error, self.watch.lives) from error
        finally:
            self.trials.discard(trial)

    def number(self) -> str:
        """An id that no other request has."""
        return f"softprompt-{next(self.numbers)}"

    def remove(self, name: str, version: str = "", *, wait: bool = True) -> None:
        """Take away a version, or all of a name; with `wait`, return once no request holds it any more."""
        self.registry.remove(name, version, wait=wait)

    def names(self) -> tuple[TaskInfo, ...]:
        """The registry at this moment."""
        return self.registry.infos()

    def submit(self, request: Request) -> Ticket:
        """Queue a request; never blocks. Raises `SoftpromptError` where it is refused."""
        if request.kind == "embedding":
            raise refused("a request for a vector", "a request for text")
        entry = self.registry.hold(request.task, request.version)
        try:
            check_sampling(request.sampling, self.limits.rows)
            work = Work(Ticket(request, entry.info), entry, rows_of(entry.prompt, request))
            work.written = [work.writer(index, self.room(work)) for index in range(work.choices)]
            work.ticket.on_end = self.outcomes_of(work)
            work.ticket.on_cancel = lambda: self.call(self.cancel, work)
            self.admit(work)
        except BaseException:
            self.registry.release(entry)
            raise
        return work.ticket

    def room(self, work: Work) -> int:
        """Tokens that an answer may have: vLLM counts its last one too, though nothing reads it."""
        read = len(work.rows[0].ids)
        if read >= self.longest:
            found, do = f"{read} tokens, prompt included", "use a shorter text or prompt"
            raise DataError("SP-E104", found, f"at most {self.longest - 1}", do)
        return self.longest - read

    def admit(self, work: Work) -> None:
        """Count a request in; raises `ServeError` where the queue is full, the engine closes, or vLLM has died."""
        with self.changed:
            if self.closed:
                raise draining()
            if not self.watch.lives:
                raise dead()
            if self.load() >= self.limits.rows + self.limits.waiting:
                raise queue_full(self.limits.waiting)
            self.under_way.add(work)
            self.call(self.begin, work)

    def load(self) -> int:
        """Choices under way."""
        return sum(work.choices for work in self.under_way)

    def call(self, job: Callable[[Work], None], work: Work) -> None:
        """Run on the loop of this object, which is vLLM's, in the order of the calls."""
        self.loop.call_soon_threadsafe(job, work)

    def begin(self, work: Work) -> None:
        """On the loop: answer a request."""
        self.jobs[work] = self.loop.create_task(self.answer(work))
        self.jobs[work].add_done_callback(lambda job: self.over(work, job))

    def cancel(self, work: Work) -> None:
        """On the loop: stop answering."""
        if work in self.jobs:
            self.jobs[work].cancel()

    async def answer(self, work: Work) -> None:
        """All choices of a request."""
        given = embedded(work.entry, work.rows[0])
        work.usage = replace(work.usage, prompt_tokens=len(given))
        jobs = [asyncio.ensure_future(self.write(work, writer, given)) for writer in work.written]
        try:
            await asyncio.gather(*jobs)
        finally:
            for job in jobs:
                job.cancel()  # where one has failed, nobody waits for the others
            await asyncio.gather(*jobs, return_exceptions=True)

    async def write(self, work: Work, writer: Writer, given: Tensor) -> None:
        """One choice, told as it comes. Leaving a stream of vLLM's before its end aborts the request there."""
        stream = self.engine.generate({"prompt_embeds": given}, self.sampling(**wishes(writer)), self.number())
        try:
            async for output in stream:
                reason = hear(writer, output.outputs[0])
                writer.over = reason is not None
                if pieces := writer.pieces(reason):
                    work.ticket.put(*pieces)
                if writer.index == 0:
                    work.usage = replace(work.usage, cached_tokens=output.num_cached_tokens or 0)
                if reason is not None and not output.finished:
                    break
        finally:
            await stream.aclose()
        if not writer.over:
            raise broken("an answer of vLLM that has no end")

    def over(self, work: Work, job: "asyncio.Task[None]") -> None:
        """On the loop: a request has ended in one way or another, in vLLM too."""
        del self.jobs[work]
        error = cancelled() if job.cancelled() else job.exception()
        with self.changed:
            self.under_way.discard(work)
            self.changed.notify_all()
        self.registry.release(work.entry)
        if error is None:
            finish(work)
        else:
            work.ticket.end(mended(error, self.watch.lives))

    def outcomes_of(self, work: Work) -> Callable[[str], None]:
        """What counts a request when it ends."""

        def counted(outcome: str) -> None:
            with self.changed:
                self.outcomes[outcome] += 1
                self.tokens["prompt_tokens"] += work.usage.prompt_tokens
                self.tokens["cached_tokens"] += work.usage.cached_tokens
                self.tokens["completion_tokens"] += work.tokens

        return counted

    def stats(self) -> Stats:
        """Counts of what went through this process; what vLLM keeps to itself stays 0."""
        with self.changed:
            load, outcomes, tokens = self.load(), dict(self.outcomes), dict(self.tokens)
        prompts = sum(len(entries) for entries in self.registry.snapshot.values())
        running, failed = min(load, self.limits.rows), "" if self.watch.lives else str(dead())
        return Stats(running, load - running, prompts, outcomes, **tokens, failed=failed)

    def close(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """Refuse new requests, finish (or with drain=False cancel) those under way, and stop vLLM."""
        with self.changed:
            if self.closed:
                return
            self.closed = True
            if drain:
                self.changed.wait_for(lambda: not self.under_way, timeout)
            left = list(self.under_way)
        for work in left:
            work.ticket.cancel()
        with self.changed:
            self.changed.wait_for(lambda: not self.under_way, LAST)
        self.watch.stop()
        self.engine.shutdown()
        self.engine = None  # it shuts down once more where it is collected, which is too late at the end of Python
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
