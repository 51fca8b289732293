"""Merging stores: push and pull, export and import. Nothing is overwritten or removed on either side."""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from softprompt.errors import SoftpromptError
from softprompt.files import write_atomically
from softprompt.store import facts
from softprompt.store.exchange import CATALOGUE, Catalogue, Listed, Origin, Pointer, Shelf
from softprompt.store.names import Reference, parse
from softprompt.store.rows import add_version, find, move, number, target
from softprompt.store.store import Store


@dataclass
class Merged:
    """What a merge did. A version keeps its number where that is above those that the name has; else it gets the next.

    A content that the name has already is the same version, under whichever number.
    """

    added: list[str] = field(default_factory=list)  # references on the side that receives
    known: int = 0  # versions that were there
    renumbered: dict[str, str] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)  # not taken: the receiving side has removed them
    aliases: list[str] = field(default_factory=list)  # set
    kept: list[str] = field(default_factory=list)  # aliases that point elsewhere on the receiving side, and stay

    def enter(self, name: str, sent: int, number: int, new: bool) -> None:
        """Note where a version has come to."""
        before, after = f"{name}@{sent}", f"{name}@{number}"
        self.known += not new
        if new:
            self.added.append(after)
        if before != after:
            self.renumbered[before] = after


def push(store: Store, url: str, references: Sequence[str] = (), *, aliases: bool = False) -> Merged:
    """Add versions of this store to the one at `url`; all of them if no reference is given.

    Aliases that point elsewhere there stay, unless `aliases` asks to move them. Files are written before the catalogue
    that names them. Two that push to one place at the same time overwrite each other's catalogue: do not.
    """
    shelf = Shelf(url)
    there = shelf.catalogue() or Catalogue()
    listed, pointers = outgoing(store, references)
    merged, side, places = Merged(), Side(there), {}
    for one in listed:
        place, new = side.place(one)
        places[one.name, one.version] = place
        merged.enter(one.name, one.version, place, new)
        data = store.blobs.read(one.sha256) if new else b""
        if new and not shelf.has(shelf.blob(one.sha256), len(data)):
            shelf.write(shelf.blob(one.sha256), data)
    for name, alias, to in moves(pointers, places):
        if decide(merged, f"{name}@{alias}", side.pointing.get((name, alias)), to, aliases):
            side.pointing[name, alias] = to
    if (after := side.catalogue()) != there:
        shelf.write(CATALOGUE, after.model_dump_json(indent=1).encode())
    return merged


class Side:
    """A catalogue that receives versions."""

    def __init__(self, there: Catalogue) -> None:
        self.versions = {(one.name, one.version): one for one in there.versions}
        self.numbers = {(one.name, one.sha256): one.version for one in there.versions}
        self.pointing = {(one.name, one.alias): one.version for one in there.aliases}
        self.last: dict[str, int] = {}
        for one in there.versions:
            self.last[one.name] = max(one.version, self.last.get(one.name, 0))

    def place(self, one: Listed) -> tuple[int, bool]:
        """The number of a version there, and whether it is new; it is entered if so."""
        if known := self.numbers.get((one.name, one.sha256)):
            return known, False
        number = max(one.version, self.last.get(one.name, 0) + 1)
        self.last[one.name] = self.numbers[one.name, one.sha256] = number
        self.versions[one.name, number] = one.model_copy(update={"version": number})
        return number, True

    def catalogue(self) -> Catalogue:
        """Everything, sorted, so that equal stores have equal catalogues."""
        points = [Pointer(name=name, alias=alias, version=to) for (name, alias), to in sorted(self.pointing.items())]
        return Catalogue(versions=tuple(self.versions[key] for key in sorted(self.versions)), aliases=tuple(points))


def pull(store: Store, url: str, references: Sequence[str] = (), *, aliases: bool = False) -> Merged:
    """Add versions of the store at `url` to this one, every file checked as when it is published.

    Aliases that point elsewhere here stay, unless `aliases` asks to move them.
    """
    shelf = Shelf(url)
    there = shelf.catalogue()
    if there is None:
        do = "check the address: it is what `softprompt store export` or `push` wrote to"
        raise SoftpromptError("SP-E617", f"no {CATALOGUE}", "an exported store", do, where=shelf.shown)
    listed = chosen(there, references, shelf.shown)
    fetched = {sha256: fetch(store, shelf, sha256) for sha256 in missing(store, listed)}
    merged, places = Merged(), {}
    with store.writing() as index:
        for one in listed:
            if removed := removed_here(index, one):
                merged.removed.append(removed)
                continue
            if not store.blobs.has(one.sha256):  # a gc came between; none can now
                store.blobs.put(shelf.prompt(one.sha256)[0])
            if one.sha256 in fetched:
                facts.remember(index, one.sha256, fetched[one.sha256])
            places[one.name, one.version] = receive(index, one, shelf, merged)
        for name, alias, to in moves(there.aliases, places):
            if decide(merged, f"{name}@{alias}", target(index, name, alias), to, aliases):
                move(index, name, alias, to)
    return merged


def export_file(store: Store, path: str | Path, reference: str) -> None:
    """Copy one prompt out of the store, checked; raises what `Store.load` raises, and SP-E501."""
    write_atomically(Path(path), store.blobs.read(store.resolve(reference).sha256))


def outgoing(store: Store, references: Sequence[str]) -> tuple[list[Listed], list[Pointer]]:
    """The versions and aliases that are to be sent."""
    wanted = [parse(text) for text in references]
    with store.reading() as index:
        names = {one.name for one in wanted if one == Reference(one.name) and find(index, one)}
        exact = {(entry.name, entry.version) for entry in (find(index, one) for one in wanted if one.name not in names)}
        rows = index.execute("SELECT sha256, relation, label, parent FROM parents").fetchall()
    entries = store.list(every=True)
    entries = [e for e in entries if not wanted or e.name in names or (e.name, e.version) in exact]
    parents: dict[str, tuple[Origin, ...]] = {}
    for sha256, relation, label, parent in rows:
        parents[sha256] = (*parents.get(sha256, ()), Origin(relation=relation, label=label[:4000], sha256=parent))
    listed = [
        Listed(**{key: getattr(e, key) for key in ("name", "version", "sha256", "created", "note")}).model_copy(
            update={"parents": parents.get(e.sha256, ())}
        )
        for e in entries
    ]
    return listed, [Pointer(name=e.name, alias=alias, version=e.version) for e in entries for alias in e.aliases]


def chosen(there: Catalogue, references: Sequence[str], where: str) -> list[Listed]:
    """The versions of a catalogue that were asked for, by name and number; raises SP-E612 where one is not there."""
    pointing = {(one.name, one.alias): one.version for one in there.aliases}
    found: set[tuple[str, int]] = set()
    for text in references:
        one = parse(text)
        number = pointing.get((one.name, one.alias)) if one.alias else one.version
        anything = one == Reference(one.name)
        mine = {(v.name, v.version) for v in there.versions if v.name == one.name and (anything or v.version == number)}
        if not mine:
            raise SoftpromptError("SP-E612", f"no {one} there", "one that it has", "pull without a name", where=where)
        found |= mine
    listed = [one for one in there.versions if not references or (one.name, one.version) in found]
    return sorted(listed, key=lambda one: (one.name, one.version))


def missing(store: Store, listed: Iterable[Listed]) -> list[str]:
    """The contents that this store lacks, or has damaged."""
    with store.reading() as index:
        known = {sha256 for (sha256,) in index.execute("SELECT sha256 FROM prompts")}
        wanted = dict.fromkeys(one.sha256 for one in listed if not removed_here(index, one))
    return [sha256 for sha256 in wanted if sha256 not in known or store.blobs.state(sha256) != "intact"]


def fetch(store: Store, shelf: Shelf, sha256: str) -> facts.Facts:
    """Get a content, check it and write it; what it says."""
    data, known = shelf.prompt(sha256)
    store.keep(data)
    return known


def removed_here(index: sqlite3.Connection, one: Listed) -> str:
    """The version here that has this content and was removed, where that is all there is of it; else nothing."""
    query = "SELECT version, removed FROM versions WHERE name = ? AND sha256 = ? ORDER BY removed IS NOT NULL"
    row = index.execute(query, (one.name, one.sha256)).fetchone()
    return f"{one.name}@{row[0]}" if row and row[1] else ""


def receive(index: sqlite3.Connection, one: Listed, shelf: Shelf, merged: Merged) -> int:
    """Enter a version here; its number."""
    known, new = number(index, one.name, one.sha256)
    place = max(known, one.version) if new else known
    merged.enter(one.name, one.version, place, new)
    if new:
        file = shelf.blob(one.sha256)
        origin = f"{shelf.local or shelf.shown}/{file}"
        add_version(index, one.name, place, one.sha256, note=one.note, origin=origin, created=one.created)
    parents = [(one.sha256, p.relation, p.label, p.sha256) for p in one.parents]
    index.executemany("INSERT OR IGNORE INTO parents VALUES (?,?,?,?)", parents)
    return place


def moves(pointers: Iterable[Pointer], places: dict[tuple[str, int], int]) -> Iterable[tuple[str, str, int]]:
    """The aliases of versions that were sent, with the numbers that those have on the receiving side."""
    known = [one for one in pointers if (one.name, one.version) in places]
    return [(one.name, one.alias, places[one.name, one.version]) for one in known]


def decide(merged: Merged, alias: str, now: int | None, then: int, wanted: bool) -> bool:
    """Whether an alias is to be set: where it is new, or points elsewhere and is to be moved."""
    if now == then:
        return False
    allowed = now is None or wanted
    (merged.aliases if allowed else merged.kept).append(alias)
    return allowed
