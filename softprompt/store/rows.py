"""Versions and aliases as rows of the index: how they are found, numbered and moved."""

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from softprompt.errors import SoftpromptError, near
from softprompt.store.names import Reference

COLUMNS = """v.name, v.version, v.sha256, p.size, v.created, v.removed, v.note, p.method, p.task, p.backbone,
    p.metric, p.value, p.error, p.n FROM versions v JOIN prompts p ON p.sha256 = v.sha256"""
NEWEST = "v.version = (SELECT max(w.version) FROM versions w WHERE w.name = v.name AND w.removed IS NULL)"


class Entry(NamedTuple):
    """A version of a prompt."""

    name: str
    version: int
    sha256: str
    size: int  # bytes
    created: str  # UTC
    removed: str | None
    note: str
    method: str
    task: str
    backbone: str
    metric: str | None  # the deciding one
    value: float | None
    error: float | None
    n: int | None
    aliases: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        """The name with the version: `sentiment@3`."""
        return f"{self.name}@{self.version}"


def now(ago: timedelta = timedelta()) -> str:
    """The time, or one before, in UTC, in a form that sorts."""
    return (datetime.now(UTC) - ago).strftime("%Y-%m-%dT%H:%M:%SZ")


def select(index: sqlite3.Connection, test: str, values: Sequence[Any] = ()) -> list[Entry]:
    """The versions `v` that pass a test in SQL, by name and version."""
    aliases: defaultdict[tuple[str, int], tuple[str, ...]] = defaultdict(tuple)
    for name, alias, version in index.execute("SELECT name, alias, version FROM aliases ORDER BY alias"):
        aliases[name, version] += (alias,)
    found = index.execute(f"SELECT {COLUMNS} WHERE {test} ORDER BY v.name, v.version", values)
    return [Entry._make((*row, aliases.get((row[0], row[1]), ()))) for row in found]


def find(index: sqlite3.Connection, wanted: Reference) -> Entry:
    """The version that a reference means; raises `SoftpromptError` SP-E612 where there is none."""
    version = wanted.version if wanted.alias is None else target(index, wanted.name, wanted.alias)
    test = NEWEST if wanted == Reference(wanted.name) else "v.version = ?"
    values = [] if test == NEWEST else [version]
    row = index.execute(f"SELECT {COLUMNS} WHERE v.name = ? AND v.removed IS NULL AND {test}", (wanted.name, *values))
    if (found := row.fetchone()) is None:
        raise _absent(index, wanted)
    listed = index.execute("SELECT alias FROM aliases WHERE name = ? AND version = ? ORDER BY alias", found[:2])
    return Entry._make((*found, tuple(alias for (alias,) in listed)))


def target(index: sqlite3.Connection, name: str, alias: str) -> int | None:
    """The version that an alias points to."""
    row = index.execute("SELECT version FROM aliases WHERE name = ? AND alias = ?", (name, alias)).fetchone()
    return row[0] if row else None


def number(index: sqlite3.Connection, name: str, sha256: str) -> tuple[int, bool]:
    """The version that this content has under the name, or the next free number; and whether it is new."""
    test = "name = ? AND sha256 = ? AND removed IS NULL"
    row = index.execute(f"SELECT min(version) FROM versions WHERE {test}", (name, sha256)).fetchone()
    if row[0] is not None:
        return row[0], False
    (last,) = index.execute("SELECT max(version) FROM versions WHERE name = ?", (name,)).fetchone()
    return (last or 0) + 1, True


def add_version(
    index: sqlite3.Connection, name: str, version: int, sha256: str, *, note: str, origin: str, created: str = ""
) -> None:
    """Give a content a name and a number."""
    row = (name, version, sha256, created or now(), note, origin)
    index.execute("INSERT INTO versions VALUES (?,?,?,?,NULL,?,?)", row)


def move(index: sqlite3.Connection, name: str, alias: str, version: int | None) -> bool:
    """Point an alias to a version, or to none; whether that changed anything."""
    if target(index, name, alias) == version:
        return False
    index.execute("INSERT INTO moves VALUES (NULL,?,?,?,?,NULL)", (name, alias, version, now()))
    return True


def undo(index: sqlite3.Connection, wanted: Reference) -> None:
    """Take back the last move of an alias, and those before it that lead to removed versions; raises SP-E616."""
    live = "SELECT 1 FROM versions v WHERE v.name = m.name AND v.version = m.version AND v.removed IS NULL"
    test, given = "name = ? AND alias = ? AND undone IS NULL", (wanted.name, wanted.alias)
    query = f"SELECT id, version, EXISTS ({live}) FROM moves m WHERE {test} ORDER BY id DESC"
    moves = index.execute(query, given).fetchall()
    if not moves:
        raise _absent(index, wanted)
    back = [number for number, version, there in moves[1:] if there and version != moves[0][1]]
    if not back:
        found, do = f"no version that {wanted} pointed to before", f"softprompt store alias {wanted.name}@N"
        raise SoftpromptError("SP-E616", found, "one to go back to", f"{do} {wanted.alias}")
    index.execute(f"UPDATE moves SET undone = ? WHERE {test} AND id > ?", (now(), *given, back[0]))


def _absent(index: sqlite3.Connection, wanted: Reference) -> SoftpromptError:
    """Why a reference leads nowhere, and what was probably meant."""
    rows = index.execute("SELECT version, removed FROM versions WHERE name = ? ORDER BY version", (wanted.name,))
    versions: dict[int, str | None] = dict(rows.fetchall())
    if not versions:
        known = [name for (name,) in index.execute("SELECT DISTINCT name FROM versions WHERE removed IS NULL")]
        found, expected = f"no prompt {wanted.name!r}{near(wanted.name, known)}", "a name that is in the store"
        return SoftpromptError("SP-E612", found, expected, "softprompt store ls")
    live = [str(version) for version, removed in versions.items() if removed is None]
    number = max(versions) if wanted.version is None else wanted.version
    if wanted.alias is None and (removed := versions.get(number)):
        found, expected = f"{wanted.name}@{number}, which was removed on {removed}", "a version that is there"
        return SoftpromptError("SP-E612", found, expected, f"softprompt store restore {wanted.name}@{number}")
    listed = index.execute("SELECT alias FROM aliases WHERE name = ? ORDER BY alias", (wanted.name,))
    aliases = [alias for (alias,) in listed]
    close = near(wanted.alias, aliases) if wanted.alias else ""
    found = f"no {wanted}{close}"
    expected = (
        f"one of its versions ({', '.join(live[-5:]) or 'none left'}) or aliases ({', '.join(aliases) or 'none'})"
    )
    return SoftpromptError("SP-E612", found, expected, f"softprompt store show {wanted.name}")
