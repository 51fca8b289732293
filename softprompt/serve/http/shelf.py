"""Where the server's prompts come from: files by their stems, or a store with versions and aliases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from softprompt.artifact import Artifact
from softprompt.errors import ArtifactError
from softprompt.store import Store

ENDING, RUN = ".safetensors", "prompt.safetensors"


@dataclass(frozen=True)
class Listed:
    """One name on a shelf."""

    versions: Mapping[str, str]  # a stamp that changes with the content, by version, oldest first
    aliases: Mapping[str, str] = field(default_factory=dict)  # a version by alias

    @property
    def newest(self) -> str:
        """The version that a request without one gets."""
        return list(self.versions)[-1]

    @property
    def wanted(self) -> list[str]:
        """The versions to hold ready, the newest last: older ones come when somebody asks for them."""
        named = set(self.aliases.values()) - {self.newest}
        return [version for version in self.versions if version in named] + [self.newest]


class Shelf(Protocol):
    """What there is to serve. Both methods may block, and raise `SoftpromptError`."""

    def listing(self) -> Mapping[str, Listed]:
        """Every name that is there at this moment."""

    def load(self, name: str, version: str) -> Artifact:
        """One prompt, checked."""

    def parents(self, name: str, version: str) -> list[str]:
        """What it was made from, as it is called here."""


class Files:
    """Prompt files, folders of them, and folders of runs. The name of a prompt is the stem of its file, or for a run's
    `prompt.safetensors` the name of its folder; its version is always 1.

    A file that is replaced is served anew; one that is taken away is no longer served.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def listing(self) -> Mapping[str, Listed]:
        """The files of this moment."""
        found = self.files()
        return {name: Listed({"1": stamp(path)}) for name, path in found.items()}

    def load(self, name: str, version: str) -> Artifact:
        """The prompt of a name that `listing` gave: what a client sends never becomes part of a path."""
        return Artifact.load(self.files()[name])

    def parents(self, name: str, version: str) -> list[str]:
        """Files know no names of their parents."""
        return []

    def files(self) -> dict[str, Path]:
        """Files by name; raises `ArtifactError` where a path is not there or two files have one name."""
        found: dict[str, Path] = {}
        for given in self.paths:
            inside = [*sorted(given.glob(f"*{ENDING}")), *sorted(given.glob(f"*/{RUN}"))] if given.is_dir() else [given]
            for path in inside:
                if not given.is_dir() and not path.is_file():
                    do = "correct the path"
                    raise ArtifactError("SP-E308", "no such file", "a prompt file or a folder", do, where=str(given))
                name = path.absolute().parent.name if path.name == RUN else path.stem
                if name in found:
                    raise ArtifactError("SP-E771", f"two prompts named {name!r}", "one", "rename one", where=str(path))
                found[name] = path
        return found


class Kept:
    """The prompts of a store, every version of them."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def listing(self) -> Mapping[str, Listed]:
        """Names, versions and aliases of this moment."""
        versions: dict[str, dict[str, str]] = {}
        aliases: dict[str, dict[str, str]] = {}
        for entry in self.store.list(every=True):
            versions.setdefault(entry.name, {})[str(entry.version)] = entry.sha256
            aliases.setdefault(entry.name, {}).update(dict.fromkeys(entry.aliases, str(entry.version)))
        return {name: Listed(found, aliases[name]) for name, found in versions.items()}

    def load(self, name: str, version: str) -> Artifact:
        """The version of a name that `listing` gave."""
        return self.store.load(f"{name}@{version}")

    def parents(self, name: str, version: str) -> list[str]:
        """Relation and name of each."""
        found, _ = self.store.family(f"{name}@{version}")
        return [f"{parent.relation}: {parent.label}" for parent in found]


def stamp(path: Path) -> str:
    """What changes when a file is replaced."""
    try:
        facts = path.stat()
    except OSError:
        return ""
    return f"{facts.st_ino}.{facts.st_size}.{facts.st_mtime_ns}"
