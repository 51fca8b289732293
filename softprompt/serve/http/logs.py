"""The server's log: one JSON object a line, with request ids and names, never with a text that a client sent."""

import json
import logging
import sys
import time
import traceback
from typing import Any

LOGGER = logging.getLogger("softprompt.serve")


def log(event: str, **facts: Any) -> None:
    """One line."""
    if LOGGER.isEnabledFor(logging.INFO):
        LOGGER.info(json.dumps({"time": round(time.time(), 3), "event": event} | facts))


def failure(error: BaseException, request_id: str | None = None) -> None:
    """A defect: its type and the places it went through. Its message may quote a text and is left out."""
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    kind, places = type(error).__name__, places[-8:]
    LOGGER.error(
        json.dumps(
            {
                "time": round(time.time(), 3),
                "event": "failure",
                "request_id": request_id,
                "error": kind,
                "places": places,
            }
        )
    )


def to_stderr() -> None:
    """Send the lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOGGER.handlers = [handler]
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
