"""The index of a store: one SQLite file in WAL mode, written in `BEGIN IMMEDIATE` transactions only."""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from softprompt.errors import SoftpromptError

FORMAT = 1  # PRAGMA user_version
CACHE = 64 << 10  # KiB of the index that a connection may hold; 2 MiB are too few for 10,000 prompts
WAIT = 60.0  # seconds that a writer waits for the others

# What a prompt is follows from its content, so it stands once for every content (`prompts`, `cards`, `scores`,
# `parents`). `versions` give names to contents and are never deleted, so that a number never comes back with another
# meaning. `moves` are all that was ever done to aliases; what was rolled back is marked as undone.
TABLES = (
    """CREATE TABLE prompts (
        sha256 TEXT PRIMARY KEY, size INTEGER NOT NULL, method TEXT NOT NULL, task TEXT NOT NULL,
        backbone TEXT NOT NULL, metric TEXT, value REAL, error REAL, n INTEGER) WITHOUT ROWID""",
    """CREATE TABLE cards (
        sha256 TEXT PRIMARY KEY REFERENCES prompts, card TEXT NOT NULL, words TEXT NOT NULL)""",
    """CREATE TABLE scores (
        sha256 TEXT NOT NULL REFERENCES prompts, name TEXT NOT NULL, value REAL NOT NULL, error REAL, n INTEGER,
        PRIMARY KEY (sha256, name)) WITHOUT ROWID""",
    """CREATE TABLE parents (
        sha256 TEXT NOT NULL REFERENCES prompts, relation TEXT NOT NULL, label TEXT NOT NULL, parent TEXT NOT NULL,
        PRIMARY KEY (sha256, relation, label, parent)) WITHOUT ROWID""",
    "CREATE INDEX children ON parents (parent)",
    """CREATE TABLE versions (
        name TEXT NOT NULL, version INTEGER NOT NULL, sha256 TEXT NOT NULL REFERENCES prompts, created TEXT NOT NULL,
        removed TEXT, note TEXT NOT NULL, origin TEXT NOT NULL, PRIMARY KEY (name, version)) WITHOUT ROWID""",
    "CREATE INDEX users ON versions (sha256)",
    """CREATE TABLE moves (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, alias TEXT NOT NULL, version INTEGER, made TEXT NOT NULL,
        undone TEXT)""",
    "CREATE INDEX standing ON moves (name, alias, id) WHERE undone IS NULL",
    """CREATE VIEW aliases AS SELECT name, alias, version FROM moves AS m
        WHERE undone IS NULL AND version IS NOT NULL AND id =
        (SELECT max(id) FROM moves AS o WHERE o.name = m.name AND o.alias = m.alias AND o.undone IS NULL)""",
)


def connect(path: Path) -> sqlite3.Connection:
    """The index at `path`, made if it is not there.

    A commit is on the disk when it returns (synchronous=FULL). Raises what `explained` raises, and SP-E618 for an
    index of a newer version.
    """
    with explained(path):
        connection = sqlite3.connect(path, timeout=WAIT, isolation_level=None)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA cache_size=-{CACHE}")
        if _format(connection) == 0:
            _create(connection)
        if (found := _format(connection)) != FORMAT:
            do = "update softprompt"
            raise SoftpromptError("SP-E618", f"a store of format {found}", f"format {FORMAT}", do, where=str(path))
    return connection


class Connections:
    """One connection to an index for every thread of every process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._inherited: list[sqlite3.Connection] = []

    def here(self) -> sqlite3.Connection:
        """The connection of this thread, made at its first use; raises as `connect` does."""
        held = self._local
        if getattr(held, "process", None) != os.getpid():
            if hasattr(held, "connection"):  # of the process that this one was forked from
                self._inherited.append(held.connection)  # to close it would let go of the other's locks
            held.connection, held.process = connect(self.path), os.getpid()
        connection: sqlite3.Connection = held.connection
        return connection


@contextmanager
def writing(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """A transaction of the only writer: all of it or nothing, and what is read in it stays true until its end."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # some errors have ended the transaction already
            connection.execute("ROLLBACK")
        raise


@contextmanager
def explained(where: Path) -> Iterator[None]:
    """Errors of SQLite as ours: SP-E610 where the system refuses, SP-E618 where the file is damaged."""
    try:
        yield
    except sqlite3.OperationalError as error:
        do = "check that the folder is on a local disk with space, that you may write to it, and repeat"
        raise SoftpromptError("SP-E610", f"{error}", "a store that can be opened", do, where=str(where)) from error
    except sqlite3.DatabaseError as error:
        if type(error) is not sqlite3.DatabaseError:  # a constraint: our own defect
            raise
        do = "put back a copy of the folder, or `softprompt store pull` into a new one"
        raise SoftpromptError("SP-E618", f"{error}", "the index of a store", do, where=str(where)) from error


def _format(connection: sqlite3.Connection) -> int:
    found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return found


def _create(connection: sqlite3.Connection) -> None:
    """Make the tables, once, whoever comes first."""
    deadline = time.monotonic() + WAIT
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            # Two processes that change the mode at once do not wait for each other: SQLite calls that a deadlock.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    with writing(connection):
        if _format(connection) == 0:
            for statement in TABLES:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={FORMAT}")
