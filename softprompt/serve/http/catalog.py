"""Which prompts are served under which names: from `task`, `task@3` or `task@prod` to an entry of the engine.

The names are looked up in dictionaries, which are replaced as a whole; a name never becomes part of a path.
"""

import asyncio
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from softprompt.artifact import Card
from softprompt.errors import SoftpromptError
from softprompt.serve.contract import Engine, TaskInfo
from softprompt.serve.http.logs import log
from softprompt.serve.http.refusals import Refusal
from softprompt.serve.http.shelf import Listed, Shelf

PLAIN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
NAME = re.compile(rf"({PLAIN})(?:@({PLAIN}))?")


@dataclass(frozen=True)
class Entry:
    """One version of a prompt that the engine holds."""

    info: TaskInfo
    card: Card
    stamp: str
    since: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Names:
    """What can be asked for, at one moment."""

    entries: Mapping[tuple[str, str], Entry] = field(default_factory=dict)
    listed: Mapping[str, Listed] = field(default_factory=dict)


class Catalog:
    """The served prompts of one engine, kept in step with a shelf."""

    def __init__(self, engine: Engine, shelf: Shelf, base: str) -> None:
        self.engine, self.shelf, self.base = engine, shelf, base
        self.now = Names()
        self.withdrawn: set[str] = set()  # by an administrator: the shelf still has them
        self.refused: dict[tuple[str, str], tuple[str, str]] = {}  # stamp and error code of prompts that do not fit
        self.lock = threading.Lock()  # one change at a time; readers take `self.now` and need none

    async def find(self, model: str) -> Entry:
        """The entry that a request names; an older version is fetched when it is first asked for.

        Raises `Refusal` 400 for what cannot be a name, 404 for names that are not served.
        """
        name, version = self.locate(model)
        entry = self.now.entries.get((name, version))
        if entry is None:
            entry = await asyncio.to_thread(self.fetch, name, version)
        if entry is None:
            raise unknown()
        return entry

    def locate(self, model: str) -> tuple[str, str]:
        """Name and version of what a request names; raises `Refusal`."""
        match = NAME.fullmatch(model)
        if match is None:
            form = "name, name@version or name@alias of letters, digits, '.', '_' and '-'"
            raise Refusal(400, "invalid_model_name", f"model is not the name of a prompt: {form}", "model")
        name, which = match[1], match[2]
        listed = self.now.listed.get(name)
        if listed is None:
            raise unknown()
        version = listed.newest if which in (None, "latest") else listed.aliases.get(which, which)
        if version not in listed.versions:
            raise unknown()
        return name, version

    def sync(self) -> None:
        """Serve what the shelf has now: add what is new, replace what changed, take away what has gone.

        A prompt that does not fit is logged and passed over; what was served under its name stays.
        """
        found = self.shelf.listing()
        with self.lock:
            for name, listed in found.items():
                if name not in self.withdrawn and NAME.fullmatch(name):
                    self.renew(name, listed)
            for name in {name for name, _ in self.now.entries} - found.keys():
                self.drop(name)

    def renew(self, name: str, listed: Listed) -> None:
        """Bring one name up to date."""
        for version in listed.wanted:
            self.put(name, version, listed.versions[version])
        held = [version for version in listed.versions if (name, version) in self.now.entries]
        gone = [key for key in self.now.entries if key[0] == name and key[1] not in listed.versions]
        if not held:
            return
        versions = {v: s for v, s in listed.versions.items() if v in held or (name, v) not in self.refused}
        aliases = {alias: v for alias, v in listed.aliases.items() if v in versions}
        entries = {key: entry for key, entry in self.now.entries.items() if key not in gone}
        self.now = Names(entries, {**self.now.listed, name: Listed(versions, aliases)})
        for _, version in gone:
            self.engine.remove(name, version, wait=False)
            log("removed", task=name, version=version)

    def put(self, name: str, version: str, stamp: str) -> None:
        """Hand one version to the engine, unless it is there already or was refused as it is."""
        held = self.now.entries.get((name, version))
        if (held and held.stamp == stamp) or self.refused.get((name, version), ("",))[0] == stamp:
            return
        try:
            artifact = self.shelf.load(name, version)
            info = self.engine.add(name, version, artifact)
        except (SoftpromptError, KeyError, OSError) as error:
            code = error.code if isinstance(error, SoftpromptError) else type(error).__name__
            self.refused[name, version] = (stamp, code)
            log("refused", task=name, version=version, code=code)
            return
        self.refused.pop((name, version), None)
        self.now = Names({**self.now.entries, (name, version): Entry(info, artifact.card, stamp)}, self.now.listed)
        log("added", task=name, version=version)

    def fetch(self, name: str, version: str) -> Entry | None:
        """Load a version that nobody asked for before."""
        with self.lock:
            listed = self.now.listed.get(name)
            if listed is not None and version in listed.versions:
                self.put(name, version, listed.versions[version])
            return self.now.entries.get((name, version))

    def drop(self, name: str) -> None:
        """Serve a name no longer; requests under way keep what they hold."""
        entries = {key: entry for key, entry in self.now.entries.items() if key[0] != name}
        listed = {key: value for key, value in self.now.listed.items() if key != name}
        known, self.now = self.now.entries.keys() - entries.keys(), Names(entries, listed)
        for _, version in known:
            self.engine.remove(name, version, wait=False)
        log("removed", task=name)

    def withdraw(self, name: str) -> None:
        """Take a name away until `restore`; raises `Refusal` 404 where it is not served."""
        with self.lock:
            if name not in self.now.listed:
                raise unknown()
            self.withdrawn.add(name)
            self.drop(name)

    def restore(self, name: str) -> None:
        """Serve what the shelf has under a name, now; raises `Refusal` where it has none, or none that fits."""
        listed = self.shelf.listing().get(name)
        if listed is None or not NAME.fullmatch(name):
            raise unknown()
        with self.lock:
            self.withdrawn.discard(name)
            self.refused = {key: value for key, value in self.refused.items() if key[0] != name}
            self.renew(name, listed)
            refused = self.refused.get((name, listed.newest))
        if refused is not None:
            raise Refusal(400, refused[1], f"{refused[1]}: the prompt does not fit; the server's log has its name")

    def parents(self, entry: Entry) -> list[str]:
        """What a prompt was made from: as the shelf calls it, or as its card has it."""
        try:
            named = self.shelf.parents(entry.info.name, entry.info.version)
        except SoftpromptError:  # taken away from the shelf just now
            named = []
        return named or [parent[:12] for parent in entry.card.parents]

    def models(self) -> list[tuple[str, Entry]]:
        """Every id that a request may name and that is held ready, with its entry."""
        now, found = self.now, []
        for name, listed in now.listed.items():
            ids = {name: listed.newest, **{f"{name}@{alias}": v for alias, v in listed.aliases.items()}}
            ids |= {f"{name}@{version}": version for version in listed.versions}
            found += [(key, now.entries[name, v]) for key, v in ids.items() if (name, v) in now.entries]
        return found


def unknown() -> Refusal:
    """404 for a name that is not served; which names there are is at /v1/models."""
    return Refusal(404, "model_not_found", "no prompt of that name is served; GET /v1/models lists them", "model")
