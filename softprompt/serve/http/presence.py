"""Whether the client of a request is still there, and an answer that ends when it goes or when its time is over."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from softprompt.serve.http.refusals import Refusal

T = TypeVar("T")


class Presence:
    """The client of one request. The connection (`server.Impatient`) says when it goes, so nobody has to wait for it.

    Behind a server that does not say so, nobody is missed: the answer is made to its end.
    """

    def __init__(self) -> None:
        self.gone = False
        self.told: Callable[[], None] | None = None

    def leave(self) -> None:
        """The client has gone."""
        self.gone = True
        if self.told is not None:
            self.told()


def left() -> Refusal:
    """The refusal that nobody is there to read; the log shows it."""
    return Refusal(499, "cancelled", "the client has gone")


def late(seconds: float) -> Refusal:
    """The refusal of an answer that takes too long."""
    return Refusal(504, "timeout", f"no answer within {seconds:g} seconds")


async def watched(
    job: Coroutine[Any, Any, T],
    presence: Presence,
    seconds: float | None,
    over: Callable[[float], Refusal] = late,
) -> T:
    """The result of a job; if the client goes or its time (where it has one) is over first, it is cancelled.

    Raises `Refusal`: `left` or `over`.
    """
    task, why = asyncio.current_task(), list[Refusal]()
    assert task is not None

    def stop(refusal: Refusal) -> None:
        if not why:  # whenever this is called, the task waits in the job and nowhere else
            why.append(refusal)
            task.cancel()

    if presence.gone:
        job.close()
        raise left()
    timer = None
    if seconds is not None:
        timer = asyncio.get_running_loop().call_later(seconds, lambda: stop(over(seconds)))
    presence.told = lambda: stop(left())
    try:
        return await job
    except asyncio.CancelledError:
        if not why:
            raise
        task.uncancel()
        raise why[0] from None
    finally:
        if timer is not None:
            timer.cancel()
        presence.told = None
