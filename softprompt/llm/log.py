"""The events of a run in a file that only grows: what was sent, answered and decided, on the disk before it counts.

A run that was killed begins again from its seed. Answers that the log holds are not asked for again, so it comes to the
point where it was killed, and goes on to the same result. Nothing else is stored, and no pickle.
"""

import hashlib
import json
import os
from pathlib import Path
from threading import Lock
from typing import Any, TextIO

from softprompt.errors import TrainingError

Event = dict[str, Any]


class Log:
    """`events.jsonl` of a run, or, without a path, the same in memory. Several threads may write.

    `past` are the events of earlier processes. Raises `TrainingError` SP-E738 for a file that is no such log, or that
    another process writes to.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.file = None if path is None else owned(path)
        self.past: list[Event] = [] if path is None else recovered(path)
        self.decided = [event for event in self.past if event["event"] == "decided"]
        self.place = 0  # decisions that this process has come to
        self.lock = Lock()

    def write(self, event: Event) -> None:
        """Append an event; it is on the disk when this returns."""
        if self.file is None:
            return
        with self.lock:
            self.file.write(json.dumps(event) + "\n")  # in ASCII: text of models holds other ends of lines too
            self.file.flush()
            os.fsync(self.file.fileno())

    def decide(self, facts: Event) -> None:
        """Note a decision, or, where an earlier process came to it, check that it is the same.

        Raises `TrainingError` SP-E738 where it is another: going on would mix two runs.
        """
        event = json.loads(json.dumps({"event": "decided"} | facts))
        if self.place < len(self.decided):
            if self.decided[self.place] != event:
                found = f"another decision than number {self.place + 1} of the log"
                raise TrainingError("SP-E738", found, "the decision that the log holds", "begin in a new folder")
        else:
            self.write(event)
        self.place += 1

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            self.file.close()


def owned(path: Path) -> TextIO:
    """The file to append to, which no other process then opens so: two of them would spend the budget twice."""
    file = path.open("a", encoding="utf-8")
    try:
        import fcntl  # not on Windows, where nothing is locked

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass
    except OSError as error:
        file.close()
        found, do = "a run at work in this folder", "wait for it, or use another folder"
        raise TrainingError("SP-E738", found, "a log that nobody writes to", do, where=str(path)) from error
    return file


def recovered(path: Path) -> list[Event]:
    """The events of a log. Of a line that was being written when its writer died, nothing is left in the file."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    try:
        events = [json.loads(line) for line in whole.decode("utf-8").splitlines()]
        if not all(isinstance(event, dict) and isinstance(event.get("event"), str) for event in events):
            raise ValueError("a line that is no event")
    except ValueError as error:
        found, do = f"a damaged log ({error})"[:200], "begin in a new folder"
        raise TrainingError("SP-E738", found, "a line of JSON for every event", do, where=str(path)) from error
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    return events


def fingerprint(request: dict[str, Any]) -> str:
    """SHA-256 of a request: every value that may change its answer, and which of several answers is meant."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
