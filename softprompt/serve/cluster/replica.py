"""What runs on the workers of a Ray cluster: one engine, which fetches the prompts that it is asked for.

A request names its prompt by an id that says the content (`name@version.digest`): Serve's multiplexed model id, by
which it prefers replicas that hold the prompt. The bytes come from Ray's object store, so replicas share no disk.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from ray import serve

from softprompt import container
from softprompt.artifact import Artifact, Card
from softprompt.backbones import load_backbone
from softprompt.errors import SoftpromptError
from softprompt.serve.contract import Piece, Request, ServeError, TaskInfo
from softprompt.serve.engine import PromptEngine
from softprompt.serve.engine.scheduler import Limits
from softprompt.serve.engine.trouble import internal
from softprompt.serve.http.logs import failure

SENT: ContextVar[Any] = ContextVar("SENT")  # where the bytes of this request's prompt are


@dataclass(frozen=True)
class Places:
    """How many replicas there are, and what each of them takes."""

    fewest: int = 1
    most: int = 1  # above `fewest`: Serve starts and stops replicas by the length of the queue
    cores: int = 1
    rows: int = 32  # answers that a replica writes at once
    waiting: int = 256  # requests that wait for a replica; more are refused
    held: int = 1000  # prompts that a replica keeps; the one that was not asked for longest goes first


@dataclass(frozen=True)
class Admitted:
    """The first that a replica says of a request that it took: which process it is."""

    process: int


@dataclass(frozen=True)
class Failed:
    """An error on its way to another process, which exceptions of ours do not survive."""

    kind: type[SoftpromptError]
    facts: tuple[str, str, str, str]
    more: dict[str, Any]

    @classmethod
    def of(cls, error: Exception) -> "Failed":
        """What to send in its place; a defect goes to the log of the replica."""
        if not isinstance(error, SoftpromptError):
            failure(error)
            error = internal(error)
        more = {"where": error.where} | ({"trouble": error.trouble} if isinstance(error, ServeError) else {})
        return cls(type(error), (error.code, error.found, error.expected, error.do), more)

    def error(self) -> SoftpromptError:
        """The same error here."""
        return self.kind(*self.facts, **self.more)


class Held:
    """A prompt that this replica holds."""

    def __init__(self, engine: PromptEngine, info: TaskInfo) -> None:
        self.engine, self.info, self.over = engine, info, False

    def __del__(self) -> None:
        """Let the prompt go. Serve calls this, and Python later once more, when the id may be held anew."""
        if not self.over:
            self.over = True
            self.engine.remove(self.info.name, self.info.version, wait=False)


class Replica:
    """One engine, as a deployment of Serve."""

    def __init__(self, backbone: dict[str, Any], places: Places) -> None:
        """Load the backbone by the arguments of `load_backbone`, on this machine."""
        torch.set_num_threads(places.cores)
        self.engine = PromptEngine(load_backbone(**backbone), Limits(rows=places.rows, waiting=places.waiting))

        async def load(known: str) -> Held:
            name, _, version = known.rpartition("@")
            tensors, card = container.unpack(await SENT.get())
            artifact = Artifact(tensors, Card.model_validate_json(card))
            return Held(self.engine, await asyncio.to_thread(self.engine.add, name, version, artifact))

        self.hold = serve.multiplexed(max_num_models_per_replica=places.held)(load)

    async def held(self, sent: list[Any]) -> TaskInfo:
        """The prompt of this request, fetched if it is not here; `sent` is where from, in a list, so that Ray does not.

        Until the next await, no other request can push it out.
        """
        SENT.set(sent[0])
        held: Held = await self.hold(serve.get_multiplexed_model_id())
        return held.info

    async def describe(self, sent: list[Any]) -> TaskInfo | Failed:
        """What clients may know of the prompt, once it has been tried here."""
        try:
            return await self.held(sent)
        except Exception as error:
            return Failed.of(error)

    async def answer(self, request: Request, sent: list[Any]) -> AsyncIterator[list[Admitted | Failed | Piece]]:
        """All pieces that are there, whenever some are; first `Admitted`, and last `Failed` where it fails."""
        try:
            ticket = self.engine.submit(replace(request, version=(await self.held(sent)).version))
        except Exception as error:
            yield [Failed.of(error)]
            return
        try:
            yield [Admitted(os.getpid())]
            async for piece in ticket:
                ready = [ticket.pieces.popleft() for _ in range(len(ticket.pieces))]
                yield [piece, *ready]
        except Exception as error:
            yield [Failed.of(error)]
        finally:
            ticket.cancel()  # of an answer that has ended, this does nothing

    def check_health(self) -> None:
        """Serve asks now and then; what raises is replaced."""
        if not self.engine.scheduler.thread.is_alive():
            raise RuntimeError("the engine has stopped")
