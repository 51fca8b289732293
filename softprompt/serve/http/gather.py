"""Pieces of answers put together: by input and by choice."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from softprompt.errors import SoftpromptError
from softprompt.serve.contract import Delta, Finish, Handle, Piece, Reason, Scored, TaskInfo, Token, Usage


@dataclass
class Whole:
    """The answer to one input, as it is put together."""

    texts: dict[int, str] = field(default_factory=dict)
    tokens: dict[int, list[Token]] = field(default_factory=dict)
    reasons: dict[int, Reason] = field(default_factory=dict)
    scored: Scored = field(default_factory=Scored)
    usage: Usage = field(default_factory=lambda: Usage(0))

    def add(self, piece: Piece, info: TaskInfo) -> None:
        """One more piece."""
        if isinstance(piece, Delta):
            self.texts[piece.index] = self.texts.get(piece.index, "") + piece.text
            self.tokens.setdefault(piece.index, []).extend(piece.tokens)
        elif isinstance(piece, Finish):
            self.reasons[piece.index] = piece.reason
        elif isinstance(piece, Scored):
            self.scored, self.texts[0], self.reasons[0] = piece, spoken(piece, info), "stop"
        else:
            self.usage = piece


def spoken(scored: Scored, info: TaskInfo) -> str:
    """An answer that was scored, as a text: the label, the tags with spaces between them, or the number."""
    if info.kind == "tags":
        return " ".join(scored.tags)
    return f"{scored.number:.6g}" if scored.number is not None else scored.label


async def merged(handles: Sequence[Handle]) -> AsyncIterator[tuple[int, Piece]]:
    """Pieces of all handles as they come, with the number of the handle; raises what a handle raises."""
    if len(handles) == 1:  # the usual request: its pieces need no queue, and no task beside this one
        async for piece in handles[0]:
            yield 0, piece
        return
    queue: asyncio.Queue[tuple[int, Piece | BaseException | None]] = asyncio.Queue()
    pumps = [asyncio.create_task(pump(i, handle, queue)) for i, handle in enumerate(handles)]
    left = len(pumps)
    try:
        while left:
            number, come = await queue.get()
            if isinstance(come, BaseException):
                raise come
            if come is None:
                left -= 1
            else:
                yield number, come
    finally:
        for task in pumps:
            task.cancel()


async def pump(number: int, handle: Handle, queue: "asyncio.Queue[Any]") -> None:
    """Pieces of one handle into a queue; then None, or what was raised."""
    try:
        async for piece in handle:
            queue.put_nowait((number, piece))
    except SoftpromptError as error:
        queue.put_nowait((number, error))
    except Exception as error:  # of any defect the client must hear, or it would wait for ever
        queue.put_nowait((number, error))
    else:
        queue.put_nowait((number, None))


def together(usages: Sequence[Usage]) -> Usage:
    """The sum over the inputs of a request."""
    if len(usages) == 1:
        return usages[0]
    total = Usage(0)
    for usage in usages:
        total = replace(
            total,
            prompt_tokens=total.prompt_tokens + usage.prompt_tokens,
            completion_tokens=total.completion_tokens + usage.completion_tokens,
            cached_tokens=total.cached_tokens + usage.cached_tokens,
        )
    return total
