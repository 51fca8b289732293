"""CPU seconds of training, counted in the process that does the work and kept beside it."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from softprompt.files import write_atomically
from softprompt.run import Event, Listener

TIMED = ("step", "pass", "dev")  # events at the end of work that is training
EVERY = 1.0  # seconds between notes of the clock
NAME = "clock.json"


@dataclass
class Clock:
    """A listener that adds up the CPU seconds of training, over every process that worked on a unit."""

    path: Path
    listen: Listener
    seconds: float = 0.0
    mark: float = field(default_factory=time.process_time)
    kept: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.path.exists():
            self.seconds = json.loads(self.path.read_text())["cpu_seconds"]

    def __call__(self, event: Event) -> None:
        """Count the time since the last event where it was training, and pass the event on."""
        now = time.process_time()
        if event["event"] in TIMED:
            self.seconds += now - self.mark
        if event["event"] == "pass" and time.monotonic() - self.kept > EVERY:
            self.keep()
        self.listen(event)
        self.mark = time.process_time()

    def keep(self) -> None:
        """Write what was counted so far."""
        write_atomically(self.path, json.dumps({"cpu_seconds": self.seconds}).encode())
        self.kept = time.monotonic()


def cpu_seconds(place: Path) -> float:
    """What training the members of a sweep took so far, in all its units."""
    return sum(float(json.loads(path.read_text())["cpu_seconds"]) for path in clocks(place))


def clocks(place: Path) -> list[Path]:
    """The notes of a sweep's units, each in the folder of the unit's first member; older sweeps have one for all."""
    return [path for path in [place / NAME, *sorted(place.glob(f"*/{NAME}"))] if path.exists()]


__all__ = ["NAME", "Clock", "cpu_seconds"]
