"""The engine's side of a handle: a request under way, whose pieces are put by one thread and taken by another."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from threading import Condition
from time import monotonic

from softprompt.serve.contract import (
    Answer,
    Delta,
    Finish,
    Piece,
    Reason,
    Request,
    Scored,
    ServeError,
    TaskInfo,
    Token,
    Usage,
)


class Ticket:
    """A request and the pieces of its answer (`contract.Handle`)."""

    def __init__(self, request: Request, info: TaskInfo) -> None:
        self.request, self._info = request, info
        self.condition = Condition()
        self.pieces: deque[Piece] = deque()
        self.error: Exception | None = None
        self.ended = self.cancelled = False
        self.wake: list[Callable[[], None]] = []  # called when something has come, or when it was cancelled
        self.on_cancel: Callable[[], None] = lambda: None
        self.on_end: Callable[[str], None] = lambda outcome: None

    @property
    def info(self) -> TaskInfo:
        """The version that this request holds."""
        return self._info

    def put(self, *pieces: Piece) -> None:
        """Hand pieces over, or wake those who wait."""
        with self.condition:
            self.pieces.extend(pieces)
            self.condition.notify_all()
            wake = list(self.wake)
        for call in wake:
            call()

    def end(self, error: Exception | None = None, *last: Piece) -> None:
        """Nothing more will come after the last pieces; only the first end counts."""
        with self.condition:
            if self.ended:
                return
            self.pieces.extend(last)
            self.ended, self.error = True, error
        outcome = "done" if error is None else error.trouble if isinstance(error, ServeError) else "invalid_request"
        self.on_end(outcome)
        self.put()

    def cancel(self) -> None:
        """Stop: the row leaves the batch before the next step."""
        with self.condition:
            if self.ended or self.cancelled:
                return
            self.cancelled = True
        self.on_cancel()

    def take(self) -> tuple[Piece | None, bool]:
        """The next piece, if one is there, and whether nothing will come after; raises the error of the request."""
        with self.condition:
            if self.pieces:
                return self.pieces.popleft(), False
            if self.ended and self.error is not None:
                raise self.error
            return None, self.ended

    def __iter__(self) -> Iterator[Piece]:
        return self.until(None)

    def until(self, deadline: float | None) -> Iterator[Piece]:
        """Pieces as they come; raises `TimeoutError` once the clock has passed `deadline`."""
        while True:
            with self.condition:
                while not (self.pieces or self.ended):
                    left = None if deadline is None else deadline - monotonic()
                    if left is not None and left <= 0:
                        raise TimeoutError
                    self.condition.wait(left)
            piece, over = self.take()
            if piece is not None:
                yield piece
            elif over:
                return

    async def __aiter__(self) -> AsyncIterator[Piece]:
        loop, event = asyncio.get_running_loop(), asyncio.Event()

        def call() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

        with self.condition:
            self.wake.append(call)
        try:
            while True:
                event.clear()
                piece, over = self.take()
                if piece is not None:
                    yield piece
                elif over:
                    return
                else:
                    await event.wait()
        finally:
            with self.condition:
                self.wake.remove(call)

    def result(self, timeout: float | None = None) -> Answer:
        """All pieces gathered; raises `TimeoutError` after `timeout` seconds, or the error of the request."""
        return gather(self.until(None if timeout is None else monotonic() + timeout), self.request.sampling.n)


def gather(pieces: Iterator[Piece], choices: int) -> Answer:
    """One answer of all its pieces."""
    texts, reasons = [""] * choices, dict[int, Reason]()
    tokens: list[tuple[Token, ...]] = [()] * choices
    scored, usage = None, Usage(0)
    for piece in pieces:
        if isinstance(piece, Delta):
            texts[piece.index] += piece.text
            tokens[piece.index] += piece.tokens
        elif isinstance(piece, Finish):
            reasons[piece.index] = piece.reason
        elif isinstance(piece, Scored):
            scored = piece
        else:
            usage = piece
    written = tuple(texts) if scored is None else ()
    return Answer(written, tuple(reasons[i] for i in sorted(reasons)), tuple(tokens) if written else (), scored, usage)
