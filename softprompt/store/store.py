"""A store of prompts: names with versions that never change, and aliases that are moved between them."""

import os
import sqlite3
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from softprompt.errors import SoftpromptError, near
from softprompt.files import write_atomically
from softprompt.store import facts, schema, search
from softprompt.store.blobs import Blobs
from softprompt.store.names import Reference, check_alias, check_name, parse
from softprompt.store.rows import Entry, add_version, find, move, now, number, select, undo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from softprompt.artifact import Artifact

PLACE = "SOFTPROMPT_STORE"  # environment
ABOUT = b"A store of softprompt. index.db names the files in blobs; both belong together. See `softprompt store`.\n"
NEWEST = "(v.name, v.version) IN (SELECT name, max(version) FROM versions WHERE removed IS NULL GROUP BY name)"
CHILDREN = """v.sha256 IN (WITH RECURSIVE made(sha256) AS (SELECT sha256 FROM parents WHERE parent = ?
    UNION SELECT parents.sha256 FROM parents JOIN made ON parents.parent = made.sha256) SELECT sha256 FROM made)"""


class Published(NamedTuple):
    """What came of publishing."""

    entry: Entry
    new: bool  # False: this content was there under this name already


class Store:
    """A folder of prompts, safe to use from many processes and threads at once. It has to be on a local disk."""

    def __init__(self, folder: str | Path | None = None) -> None:
        """The folder given, or that of the environment variable SOFTPROMPT_STORE, or ~/.softprompt/store."""
        given = folder or os.environ.get(PLACE) or Path.home() / ".softprompt" / "store"
        self.folder = Path(given).expanduser().absolute()
        self.blobs = Blobs(self.folder / "blobs")
        self._index = schema.Connections(self.folder / "index.db")

    @contextmanager
    def reading(self) -> "Iterator[sqlite3.Connection]":
        """The index, with its errors as ours."""
        self._prepare()
        with schema.explained(self._index.path):
            yield self._index.here()

    @contextmanager
    def writing(self) -> "Iterator[sqlite3.Connection]":
        """The index in a transaction of the only writer."""
        with self.reading() as index, schema.writing(index):
            yield index

    def publish(
        self, path: str | Path, name: str, *, aliases: Sequence[str] = (), parents: Sequence[str] = (), note: str = ""
    ) -> Published:
        """Keep a prompt file, or that of a run's folder, as the next version of a name; aliases move to it.

        A content that the name has already keeps its version. `parents` are references, with a relation before them if
        it is not a warm start: `transfer=base@2`. When this returns, the version survives a crash of the machine.
        Raises `ArtifactError` for a file that is no intact prompt, and `SoftpromptError` SP-E611 for bad names.
        """
        check_name(name)
        for alias in aliases:
            check_alias(alias)
        source = Path(path) / "prompt.safetensors" if Path(path).is_dir() else Path(path)
        given = [self.parent(text) for text in parents]
        data, artifact = facts.checked(source)
        known = facts.gather(artifact, len(data), [*given, *facts.beside(source, artifact)])
        sha256 = self.keep(data)
        with self.writing() as index:
            if not self.blobs.has(sha256):  # a gc came between; none can now
                self.blobs.put(data)
            facts.remember(index, sha256, known)
            version, new = number(index, name, sha256)
            if new:
                add_version(index, name, version, sha256, note=note, origin=str(source.resolve()))
            for alias in aliases:
                move(index, name, alias, version)
            return Published(find(index, Reference(name, version)), new)

    def keep(self, data: bytes) -> str:
        """Write a content that is about to be published; its SHA-256."""
        self._prepare()
        return self.blobs.put(data)

    def parent(self, text: str) -> facts.Parent:
        """What `REF` or `RELATION=REF` names; raises SP-E611 for another relation, SP-E612 for what is not there."""
        relation, equal, reference = text.rpartition("=")
        if equal and relation not in facts.RELATIONS:
            found = f"the relation {relation[:40]!r}{near(relation, list(facts.RELATIONS))}"
            expected = f"one of {', '.join(facts.RELATIONS)}"
            raise SoftpromptError("SP-E611", found, expected, "write it as transfer=base@2")
        entry = self.resolve(reference)
        return facts.Parent(relation or facts.RELATIONS[0], entry.reference, entry.sha256)

    def resolve(self, reference: str) -> Entry:
        """The version that a reference means now; raises `SoftpromptError` SP-E611 or SP-E612 (not there)."""
        with self.reading() as index:
            return find(index, parse(reference))

    def path(self, reference: str) -> Path:
        """The file of a prompt, checked against its SHA-256; raises `SoftpromptError` SP-E613 where it is damaged.

        The file is not to be written to, and stays only as long as its version.
        """
        entry = self.resolve(reference)
        self.blobs.read(entry.sha256)
        return self.blobs.path(entry.sha256)

    def load(self, reference: str) -> "Artifact":
        """The prompt that a reference means now, its SHA-256 checked; raises what `path` and `Artifact.load` raise."""
        from softprompt.artifact import Artifact

        return Artifact.load(self.path(reference))

    def alias(self, reference: str, alias: str) -> Entry:
        """Point an alias to the version that a reference means now; raises SP-E611 and SP-E612."""
        check_alias(alias)
        with self.writing() as index:
            entry = find(index, parse(reference))
            move(index, entry.name, alias, entry.version)
            return find(index, Reference(entry.name, entry.version))

    def unalias(self, reference: str) -> Entry:
        """Take away the alias of `name@alias`; the version that it pointed to. Raises SP-E611 and SP-E612."""
        wanted = _aliased(reference)
        with self.writing() as index:
            entry = find(index, wanted)
            move(index, wanted.name, str(wanted.alias), None)
            return find(index, Reference(entry.name, entry.version))

    def rollback(self, reference: str) -> Entry:
        """Undo the last move of `name@alias`, and those before it that lead to removed versions.

        Raises `SoftpromptError` SP-E616, and changes nothing, where the alias has never pointed anywhere else.
        """
        wanted = _aliased(reference)
        with self.writing() as index:
            undo(index, wanted)
            return find(index, wanted)

    def remove(self, reference: str) -> list[Entry]:
        """Leave a tombstone where a version, or every version of a name without one, was; the files go with `gc`.

        Raises `SoftpromptError` SP-E614 where an alias points to it, and SP-E612 where it is not there.
        """
        wanted = parse(reference)
        with self.writing() as index:
            entry = find(index, wanted)
            test = "v.name = ? AND v.removed IS NULL"
            values: list[str | int] = [entry.name]
            if wanted != Reference(wanted.name):
                test, values = f"{test} AND v.version = ?", [*values, entry.version]
            gone = select(index, test, values)
            for one in gone:
                if one.aliases:
                    found = f"{one.reference}, which {one.name}@{one.aliases[0]} points to"
                    do = f"softprompt store alias {one.name}@{one.aliases[0]} --delete, or move it"
                    raise SoftpromptError("SP-E614", found, "a version without an alias", do)
            marks = [(now(), one.name, one.version) for one in gone]
            index.executemany("UPDATE versions SET removed = ? WHERE name = ? AND version = ?", marks)
            return gone

    def restore(self, reference: str) -> Entry:
        """Take back the removal of `name@3`; raises SP-E612 where it was not removed, SP-E613 where gc was there."""
        wanted = parse(reference)
        given = (wanted.name, wanted.version)
        with self.writing() as index:
            row = index.execute("SELECT sha256, removed FROM versions WHERE name = ? AND version = ?", given).fetchone()
            if row is not None and row[1] is not None:
                if (state := self.blobs.state(row[0])) != "intact":
                    found, do = f"{reference}, whose file is {state}", "publish it again: softprompt store publish"
                    raise SoftpromptError("SP-E613", found, "a file that gc has not deleted", do)
                index.execute("UPDATE versions SET removed = NULL WHERE name = ? AND version = ?", given)
            elif wanted.version is None:
                raise SoftpromptError(
                    "SP-E612", f"{reference!r}", "a version, as in sentiment@3", "softprompt store ls"
                )
            return find(index, wanted)

    def family(self, reference: str) -> tuple[list[facts.Parent], list[Entry]]:
        """What a prompt was made from, named as it is now called here, and what was made from it."""
        entry = self.resolve(reference)
        with self.reading() as index:
            rows = index.execute("SELECT relation, label, parent FROM parents WHERE sha256 = ?", (entry.sha256,))
            parents = [facts.Parent(*row) for row in rows]
            named = [select(index, "v.sha256 = ? AND v.removed IS NULL", [one.sha256]) for one in parents]
            return [
                one._replace(label=known[0].reference) if known else one
                for one, known in zip(parents, named, strict=True)
            ], select(index, f"{CHILDREN} AND v.removed IS NULL", [entry.sha256])

    def _prepare(self) -> None:
        """Make the folders, so that they outlive a power cut; raises `SoftpromptError` SP-E610."""
        if self.blobs.folder.is_dir():
            return
        try:
            self.blobs.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            do = f"choose another folder with --store or {PLACE}"
            found = f"{error.strerror}".lower()
            raise SoftpromptError("SP-E610", found, "a folder for the store", do, where=str(self.folder)) from error
        write_atomically(self.folder / "README.txt", ABOUT)  # this also syncs the entry of the new folder

    def list(
        self,
        text: str = "",
        *,
        where: Sequence[str] = (),
        parent: str | None = None,
        every: bool = False,
        removed: bool = False,
    ) -> list[Entry]:
        """The newest version of every name, or `every` version, by name and version.

        Every word of `text` has to occur in the name, the note or the card; `where` holds filters such as
        `accuracy>=0.9` and `method.name=prefix`; `parent` a reference to what they were made from, at any distance;
        `removed` lists tombstones instead.
        """
        filters = [search.parse(one) for one in where]
        origin = [self.resolve(parent).sha256] if parent else []
        tests = ["v.removed IS NOT NULL" if removed else "v.removed IS NULL"]
        tests += [] if every or removed else [NEWEST]
        values: list[Any] = []
        with self.reading() as index:
            for one in filters:
                search.check_known(index, one)
                clause, given = one.clause()
                tests.append(clause)
                values += given
            for word in text.lower().split():
                seen = "SELECT words FROM cards c WHERE c.sha256 = v.sha256"
                tests.append(f"(instr(v.name, ?) OR instr(lower(v.note), ?) OR instr(({seen}), ?))")
                values += [word] * 3
            tests += [CHILDREN for _ in origin]
            return select(index, " AND ".join(tests), [*values, *origin])


def _aliased(reference: str) -> Reference:
    wanted = parse(reference)
    if wanted.alias is None:
        raise SoftpromptError("SP-E611", f"{reference!r}", "a name with an alias", "write it as sentiment@prod")
    return wanted
