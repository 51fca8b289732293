"""The engine's contract over replicas on Ray Serve: this process keeps the door and the store, they run the backbone.

Names are known here only, and replicas are asked by content (`replica`). So what was added, replaced or removed is so
for every replica as soon as the call returns, also for those that start later. A request whose replica dies is sent
again, and goes on where the first answer ended.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from threading import Condition, Thread
from typing import Any, TypeVar

import ray
from ray.serve.exceptions import BackPressureError, ReplicaUnavailableError

from softprompt import container
from softprompt.artifact import Artifact
from softprompt.errors import SoftpromptError
from softprompt.serve.cluster.asked import Asked, Known
from softprompt.serve.cluster.replica import Admitted, Failed
from softprompt.serve.contract import Piece, Request, ServeError, Stats, TaskInfo, Usage
from softprompt.serve.engine.trouble import cancelled, draining, internal, queue_full
from softprompt.serve.http.logs import log

PAUSES = (0.1, 0.3, 1.0, 3.0, 9.0)  # seconds before a request whose replica died is sent again
GONE = (ray.exceptions.RayActorError, ray.exceptions.TaskCancelledError, ReplicaUnavailableError)
T = TypeVar("T")


class Replicas:
    """Replicas elsewhere, as one engine (`contract.Engine`). Every method may be called from any thread."""

    def __init__(self, handle: Any, waiting: int) -> None:
        """Over a handle of the deployment, with at most `waiting` requests in its queue."""
        self.handle, self.waiting = handle, waiting
        self.known: dict[str, dict[str, Known]] = {}  # by name and version, the newest last
        self.changed = Condition()
        self.under_way: set[Asked] = set()
        self.closed = False
        self.outcomes: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.answered: Counter[int] = Counter()  # requests by the process that took them
        self.resent = 0  # requests that were sent again because their replica died
        self.loop = asyncio.new_event_loop()
        self.thread = Thread(target=self.loop.run_forever, name="replicas", daemon=True)
        self.thread.start()

    def add(self, name: str, version: str, prompt: Artifact | str | Path) -> TaskInfo:
        """Serve a prompt once a replica has tried it; once this returns, every replica answers it.

        Raises `ArtifactError` or `ServeError` for a prompt that does not fit; then nothing has changed.
        """
        artifact = prompt if isinstance(prompt, Artifact) else Artifact.load(prompt)
        data = container.pack(artifact.tensors, artifact.card.model_dump_json())
        known = f"{name}@{version}.{hashlib.sha256(data).hexdigest()[:16]}"
        sent = [ray.put(data)]
        handle = self.handle.options(method_name="describe", multiplexed_model_id=known)
        found = self.start(self.insist(lambda: handle.remote(sent))).result()
        if isinstance(found, Failed):
            raise found.error()
        info: TaskInfo = replace(found, version=version)
        with self.changed:
            versions = self.known.setdefault(name, {})
            versions.pop(version, None)
            versions[version] = Known(info, known, sent)
        return info

    def remove(self, name: str, version: str = "", *, wait: bool = True) -> None:
        """Take away a version, or all of a name; with `wait`, return once no request holds it any more."""
        with self.changed:
            known = self.find(name, version)
            gone = [known] if version else list(self.known[name].values())
            for one in gone:
                del self.known[name][one.info.version]
            if not self.known[name]:
                del self.known[name]
            if wait:
                self.changed.wait_for(lambda: not any(asked.known in gone for asked in self.under_way))

    def find(self, name: str, version: str) -> Known:
        """A version, or the newest of a name; raises `ServeError` where there is none."""
        versions = self.known.get(name, {})
        known = versions.get(version) if version else next(reversed(versions.values()), None)
        if known is None:
            do = "ask for the list of tasks"
            raise ServeError("SP-E701", "a task that is not served", "one that is", do, trouble="model_not_found")
        return known

    def names(self) -> tuple[TaskInfo, ...]:
        """What is served at this moment."""
        with self.changed:
            each = [list(versions.values()) for versions in self.known.values()]
        return tuple(replace(one.info, newest=one is known[-1]) for known in each for one in known)

    def submit(self, request: Request) -> Asked:
        """Send a request; never blocks. What a replica refuses is raised out of `admitted` and the iteration."""
        with self.changed:
            if self.closed:
                raise draining()
            asked = Asked(request, self.find(request.task, request.version))
            self.under_way.add(asked)
        job = self.start(self.insist(lambda: self.answer(asked)))
        asked.on_cancel, asked.on_end = lambda: stop(job), self.count
        job.add_done_callback(lambda done: self.over(asked, done))
        return asked

    def start(self, job: Any) -> "Future[Any]":
        """Run on the loop of this object."""
        return asyncio.run_coroutine_threadsafe(job, self.loop)

    async def insist(self, job: Callable[[], Awaitable[T]]) -> T:
        """The result of a job, which begins anew where its replica dies; raises `ServeError` where all of them do."""
        for pause in (*PAUSES, None):
            try:
                return await job()
            except BackPressureError as error:
                raise queue_full(self.waiting) from error
            except GONE as error:
                self.resent += pause is not None
                log("replica", gone=type(error).__name__, again=pause is not None)
                if pause is None:
                    found, do = f"{len(PAUSES) + 1} replicas that died over a request", "see the logs of Ray"
                    raise ServeError("SP-E837", found, "one that lives", do, trouble="internal") from error
                await asyncio.sleep(pause)
        raise AssertionError

    async def answer(self, asked: Asked) -> None:
        """One attempt at an answer."""
        asked.told.again()
        handle = self.handle.options(method_name="answer", stream=True, multiplexed_model_id=asked.known.id)
        response, whole = handle.remote(asked.request, asked.known.sent), False
        try:
            async for pieces in response:
                for piece in pieces:
                    whole = self.take(asked, piece) or whole
        except BaseException:
            response.cancel()  # nobody waits for it any more
            raise
        if not whole:
            raise internal(EOFError())

    def take(self, asked: Asked, piece: Admitted | Failed | Piece) -> bool:
        """What a replica says; True for the end of an answer. Raises what failed there."""
        if isinstance(piece, Failed):
            raise piece.error()
        if isinstance(piece, Admitted):
            asked.process = piece.process
            self.answered[piece.process] += 1
            if not asked.admitted.done():
                asked.admitted.set_result(None)
            return False
        asked.hear(piece)
        if isinstance(piece, Usage):
            for name in ("prompt_tokens", "cached_tokens", "completion_tokens"):
                self.tokens[name] += getattr(piece, name)
        return isinstance(piece, Usage)

    def over(self, asked: Asked, job: "Future[None]") -> None:
        """A request has ended in one way or another."""
        error = cancelled() if job.cancelled() else job.exception()
        if error is not None and not isinstance(error, SoftpromptError):
            error = internal(RuntimeError(type(error).__name__))
        if not asked.admitted.done():
            asked.admitted.set_exception(error) if error else asked.admitted.set_result(None)
        with self.changed:
            self.under_way.discard(asked)
            self.changed.notify_all()
        asked.end(error)

    def count(self, outcome: str) -> None:
        """One more that ended so."""
        with self.changed:
            self.outcomes[outcome] += 1

    def stats(self) -> Stats:
        """Counts of what went through this process; what replicas keep to themselves stays 0."""
        with self.changed:
            running = sum(asked.admitted.done() for asked in self.under_way)
            prompts = sum(len(versions) for versions in self.known.values())
            outcomes, waiting = dict(self.outcomes), len(self.under_way) - running
        return Stats(running, waiting, prompts, outcomes, **self.tokens, failed="")  # Ray starts dead replicas anew

    def close(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """Refuse new requests, finish (or with drain=False cancel) those under way, and stop."""
        with self.changed:
            self.closed = True
            if drain:
                self.changed.wait_for(lambda: not self.under_way, timeout)
            left = list(self.under_way)
        for asked in left:
            asked.cancel()
        self.start(settled()).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


def stop(job: "Future[Any]") -> None:
    """End a job early."""
    job.cancel()


async def settled() -> None:
    """Every other task of this loop is over."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)
