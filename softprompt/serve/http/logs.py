"""The server's log: one JSON object a line, with request ids and names, never with a text that a client sent."""

import json
import logging
import sys
import time
import traceback
from typing import Any, TextIO

LOGGER = logging.getLogger("softprompt.serve")
STREAMS: list[TextIO] = []  # of a server of its own: written to without records, which take longer than a route


def log(event: str, **facts: Any) -> None:
    """One line."""
    if STREAMS or LOGGER.isEnabledFor(logging.INFO):
        tell(logging.INFO, {"time": round(time.time(), 3), "event": event} | facts)


def failure(error: BaseException, request_id: str | None = None) -> None:
    """A defect: its type and the places it went through. Its message may quote a text and is left out."""
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    facts = {"time": round(time.time(), 3), "event": "failure", "request_id": request_id}
    tell(logging.ERROR, facts | {"error": type(error).__name__, "places": places[-8:]})


def tell(level: int, facts: dict[str, Any]) -> None:
    """A line to the streams, or where there are none to the loggers of whoever runs a server in his process."""
    line = json.dumps(facts)
    if not STREAMS:
        LOGGER.log(level, line)
    for stream in list(STREAMS):
        try:
            stream.write(f"{line}\n")
            stream.flush()
        except (OSError, ValueError):  # closed by whoever reads it: no request may end of that
            STREAMS.remove(stream)


def to_stderr() -> None:
    """Send the lines to standard error."""
    STREAMS[:] = [sys.stderr]
