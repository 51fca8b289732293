"""From a named prompt and texts to the pieces of its answers, with the client's presence and the clock watched."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from softprompt.errors import SoftpromptError
from softprompt.serve.contract import (
    Delta,
    Engine,
    Handle,
    Kind,
    Piece,
    Request,
    Sampling,
    TaskInfo,
    Usage,
)
from softprompt.serve.http.catalog import Catalog, Entry
from softprompt.serve.http.gather import Whole, merged
from softprompt.serve.http.guard import Gate, Limits
from softprompt.serve.http.metrics import Meters
from softprompt.serve.http.presence import Presence, watched
from softprompt.serve.http.refusals import Refusal

Given = str | Sequence[str] | Mapping[str, str]  # one input of a client: a text, its words, or its columns


@dataclass
class Service:
    """Everything that routes share."""

    engine: Engine
    catalog: Catalog
    meters: Meters
    limits: Limits = field(default_factory=Limits)
    gate: Gate = field(default_factory=Gate)

    async def begin(
        self,
        model: str,
        inputs: Sequence[Given],
        kind: Kind | None,
        sampling: Sampling,
        note: dict[str, Any],
        param: str,
    ) -> "Work":
        """Queue every input of a request; without `kind`, the prompt answers what it was trained for.

        Raises `Refusal` or `SoftpromptError` where one of them is refused, and then none is left in the queue.
        """
        entry = await self.catalog.find(model)
        info = entry.info
        note |= {"task": info.name, "version": info.version}
        asked = kind or info.kind
        if kind not in (None, "embedding", info.kind):
            raise Refusal(400, "wrong_task", f"this prompt answers with {SAYS[info.kind]}: {PATHS[info.kind]}", "model")
        if asked != "write" and (sampling.n > 1 or sampling.stop or sampling.logprobs is not None):
            raise Refusal(
                400, "unsupported", f"this prompt answers with {SAYS[asked]}: n, stop and logprobs do nothing"
            )
        work = Work(self, entry, [], note)
        try:
            for given in inputs:
                fields = columns(info, given, param)
                wish = Request(info.name, fields, asked, info.version, sampling)
                work.handles.append(self.engine.submit(wish))
        except BaseException as error:
            work.close(outcome_of(error))
            raise
        return work


SAYS: dict[Kind, str] = {
    "write": "text",
    "label": "a label",
    "tags": "tags",
    "number": "a number",
    "embedding": "a vector",
}
PATHS: dict[Kind, str] = {
    "write": "POST /v1/completions",
    "label": "POST /v1/classify",
    "tags": "POST /v1/tag",
    "number": "POST /v1/regress",
    "embedding": "POST /v1/embeddings",
}


def columns(info: TaskInfo, given: Given, param: str) -> dict[str, str | tuple[str, ...]]:
    """The columns of a prompt's template from what a client sent; raises `Refusal` where one is missing or unknown."""
    names = ", ".join(info.fields)
    if isinstance(given, Mapping):
        if set(given) != set(info.fields):
            raise Refusal(400, "wrong_columns", f"the columns of this prompt are {names}", param)
        found: dict[str, str | tuple[str, ...]] = dict(given)
    else:
        if len(info.fields) != 1:
            raise Refusal(400, "wrong_columns", f"this prompt reads several columns: {names}; send an object", param)
        found = {info.fields[0]: given if isinstance(given, str) else tuple(given)}
    if info.kind != "tags":
        return found
    return {name: tuple(value.split()) if isinstance(value, str) else value for name, value in found.items()}


@dataclass
class Work:
    """The handles of one HTTP request."""

    service: Service
    entry: Entry
    handles: list[Handle]
    note: dict[str, Any]
    began: float = field(default_factory=time.monotonic)
    closed: bool = False

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """What comes, with the number of the input that it belongs to; an answer that is scored comes as its text too.

        Raises what the engine raises.
        """
        last = 0.0
        async for number, piece in merged(self.handles):
            if isinstance(piece, Delta):
                last = self.time(last)
            yield number, piece
        self.count("done")

    def time(self, last: float) -> float:
        """Note when a text came."""
        now, meters = time.monotonic(), self.service.meters
        meter, since = (meters.between, last) if last else (meters.first, self.began)
        meter.observe(now - since)
        return now

    def count(self, outcome: str) -> None:
        """Note how the request ended, once."""
        if self.closed:
            return
        self.closed = True
        meters, seconds = self.service.meters, time.monotonic() - self.began
        meters.task(self.entry.info.name, outcome)
        if outcome == "done":
            meters.whole.observe(seconds)

    def close(self, outcome: str = "cancelled") -> None:
        """Free what is still in the engine."""
        self.count(outcome)
        for handle in self.handles:
            handle.cancel()  # of a request that has ended, this does nothing

    async def answers(self, presence: Presence) -> "list[Whole]":
        """All answers, in the order of the inputs; raises `Refusal` where the client goes or time is over."""
        try:
            return await watched(self.gather(), presence, self.service.limits.request_seconds)
        except BaseException as error:
            self.close(outcome_of(error))
            raise

    async def gather(self) -> "list[Whole]":
        """The pieces put together."""
        found = [Whole() for _ in self.handles]
        async for number, piece in self.pieces():
            found[number].add(piece, self.entry.info)
        for whole in found:
            self.finished(whole.reasons.values(), whole.usage)
        return found

    def finished(self, reasons: Any, usage: Usage) -> None:
        """Count reasons and tokens."""
        for reason in reasons:
            self.service.meters.finished.labels(self.service.meters.model, reason).inc()
        for name in ("prompt_tokens", "completion_tokens", "cached_tokens"):
            self.note[name] = self.note.get(name, 0) + getattr(usage, name)


def outcome_of(error: BaseException) -> str:
    """A word for the metrics."""
    if isinstance(error, Refusal):
        return error.code
    return str(getattr(error, "trouble", "invalid_request" if isinstance(error, SoftpromptError) else "internal"))
