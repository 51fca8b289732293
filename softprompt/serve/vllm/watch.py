"""Whether vLLM lives: looked at again and again, since what it holds when it dies may never be told."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from softprompt.serve.http.logs import log
from softprompt.serve.vllm.asked import dead

LOOK = 1.0  # seconds between two looks


class Watch:
    """A watch over an `AsyncLLM`, on the loop that asks it; `held` is all that waits for it, tasks or futures."""

    def __init__(self, loop: asyncio.AbstractEventLoop, engine: Any, held: Callable[[], Sequence[Any]]) -> None:
        self.loop, self.engine, self.held, self.told = loop, engine, held, False
        loop.call_soon_threadsafe(self.look)

    @property
    def lives(self) -> bool:
        """False once vLLM's processes have ended, which is for good; whoever finds out first says so in the log."""
        engine = self.engine
        if engine is None or not engine.errored:
            return True
        if not self.told:
            self.told = True
            log("engine_failed", code=dead().code)
        return False

    def look(self) -> None:
        """On the loop: where vLLM has died, end what waits for it."""
        if self.engine is None:
            return
        if not self.lives:
            for job in self.held():
                job.cancel()
        self.loop.call_later(LOOK, self.look)

    def stop(self) -> None:
        """Look no more, and hold nothing of vLLM's: what ends from now on was meant to."""
        self.engine = None
