"""Which prompts there are: an immutable snapshot, swapped as a whole, and entries that live as long as a request does.

A request holds the entry that it was submitted with. Replacing or removing a name changes the snapshot and nothing
else, so no request ever sees half a prompt, and a name that is gone is not found.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from threading import Condition
from types import MappingProxyType

from softprompt.core import Injection
from softprompt.errors import near
from softprompt.prompt import Prompt
from softprompt.serve.contract import ServeError, TaskInfo


@dataclass(eq=False)
class Entry:
    """One version of one prompt, as it is served."""

    info: TaskInfo
    prompt: Prompt
    injection: Injection | None = None  # what the method adds to every text alike; None: it looks at the text
    ragged: bool = False  # whether its rows run in the one step of all tasks
    ends: frozenset[int] = frozenset()  # tokens that end an answer
    holds: int = 0
    gone: bool = False


@dataclass
class Registry:
    """Names, their versions, and who holds what. `forget` is called once nobody can ask for an entry any more."""

    forget: Callable[[Entry], None]
    snapshot: Mapping[str, tuple[Entry, ...]] = field(default_factory=lambda: MappingProxyType({}))
    changed: Condition = field(default_factory=Condition)

    def put(self, entry: Entry) -> None:
        """Publish an entry as the newest of its name; one of the same version is replaced."""
        info = entry.info
        with self.changed:
            others = self.snapshot.get(info.name, ())
            replaced = [other for other in others if other.info.version == info.version]
            kept = tuple(other for other in others if other not in replaced)
            self.snapshot = MappingProxyType({**self.snapshot, info.name: (*kept, entry)})
            self.retire(replaced)

    def remove(self, name: str, version: str, *, wait: bool) -> None:
        """Take entries away; with `wait`, return once no request holds one. Raises `ServeError` where there is none."""
        with self.changed:
            removed = [e for e in self.snapshot.get(name, ()) if version in ("", e.info.version)]
            if not removed:
                raise self.unknown(name, version)
            kept = tuple(entry for entry in self.snapshot[name] if entry not in removed)
            others = {key: entries for key, entries in self.snapshot.items() if key != name}
            self.snapshot = MappingProxyType(others | ({name: kept} if kept else {}))
            self.retire(removed)
            if wait:
                self.changed.wait_for(lambda: not any(entry.holds for entry in removed))

    def retire(self, entries: list[Entry]) -> None:
        """Mark entries that no new request can reach."""
        for entry in entries:
            entry.gone = True
            if not entry.holds:
                self.forget(entry)

    def hold(self, name: str, version: str) -> Entry:
        """The entry of a name, newest without a version, held until `release`; raises `ServeError` if there is none."""
        with self.changed:
            found = [e for e in self.snapshot.get(name, ()) if version in ("", e.info.version)]
            if not found:
                raise self.unknown(name, version)
            found[-1].holds += 1
            return found[-1]

    def release(self, entry: Entry) -> None:
        """Give an entry back."""
        with self.changed:
            entry.holds -= 1
            if entry.gone and not entry.holds:
                self.forget(entry)
            self.changed.notify_all()

    def infos(self) -> tuple[TaskInfo, ...]:
        """What is served, in the order in which it came."""
        names = self.snapshot
        return tuple(
            replace(entry.info, newest=entry is entries[-1]) for entries in names.values() for entry in entries
        )

    def unknown(self, name: str, version: str) -> ServeError:
        """The error for a name or version that is not there. Other tasks' names are nobody's business: none is told."""
        asked = f"{name}@{version}" if version else name
        hint = near(version, [e.info.version for e in self.snapshot.get(name, ())]) if version else ""
        return ServeError(
            "SP-E701",
            f"task {asked[:200]!r}{hint}, which is not served",
            "a task that was added and not removed",
            "ask for the list of tasks",
            trouble="model_not_found",
        )
