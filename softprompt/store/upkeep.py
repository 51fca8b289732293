"""Looking after a store: are all contents intact, can damaged ones be had again, what is nobody's any more?"""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from softprompt.errors import SoftpromptError
from softprompt.files import read_regular
from softprompt.store.blobs import LIMIT, SUFFIX, State, digest
from softprompt.store.exchange import Shelf
from softprompt.store.rows import now
from softprompt.store.store import Store

DAY = timedelta(days=1)
WRITING = 3600.0  # seconds after which a temporary file has no writer any more


class Problem(NamedTuple):
    """A content that is not as it was published."""

    references: tuple[str, ...]  # the versions that need it
    sha256: str
    size: int
    state: State
    origins: tuple[str, ...]  # the files that it was published from


class Verified(NamedTuple):
    """What a look at every file found."""

    contents: int
    problems: list[Problem]
    damage: list[str]  # what SQLite finds wrong with the index


class Repaired(NamedTuple):
    """What was done about damage."""

    restored: list[tuple[Problem, str]]  # with where the copy was
    lost: list[Problem]  # no copy was found
    set_aside: list[Path]  # where damaged files are now


class Collected(NamedTuple):
    """What nobody needs."""

    contents: list[str]  # SHA-256
    size: int  # bytes
    unfinished: int  # temporary files of killed writers


def verify(store: Store) -> Verified:
    """Compare every file that a version needs with its SHA-256, and let SQLite check the index."""
    with store.reading() as index:
        query = "SELECT v.sha256, p.size, v.name || '@' || v.version, v.origin FROM versions v JOIN prompts p "
        rows = index.execute(f"{query} ON p.sha256 = v.sha256 WHERE v.removed IS NULL ORDER BY v.name, v.version")
        users: defaultdict[tuple[str, int], list[tuple[str, str]]] = defaultdict(list)
        for sha256, size, reference, origin in rows:
            users[sha256, size].append((reference, origin))
        wrong = [text for (text,) in index.execute("PRAGMA integrity_check") if text != "ok"]
        wrong += [f"a row of {row[0]} without its content" for row in index.execute("PRAGMA foreign_key_check")]
    problems = []
    for (sha256, size), by in users.items():
        if (state := store.blobs.state(sha256)) != "intact":
            references, origins = zip(*by, strict=True)
            problems.append(Problem(references, sha256, size, state, tuple(dict.fromkeys(filter(None, origins)))))
    return Verified(len(users), problems, wrong)


def repair(store: Store, sources: Sequence[str] = ()) -> Repaired:
    """Put back every content that is damaged or missing, where a copy is found; set aside what stays damaged.

    Copies are looked for where the prompt was published from, then in `sources`: files, folders, other stores and
    exports, URLs of fsspec. Only bytes of the same SHA-256 count. Versions without a copy stay, and say so when loaded.
    """
    shelves = [Shelf(source) for source in sources]
    restored, lost, aside = [], [], []
    for problem in verify(store).problems:
        for where, data in copies(problem, shelves):
            if digest(data) == problem.sha256:
                store.blobs.put(data)
                restored.append((problem, where))
                break
        else:
            lost.append(problem)
            with store.writing():  # so that it is not one that is being published again right now
                if store.blobs.state(problem.sha256) == "damaged":
                    aside.append(store.blobs.set_aside(problem.sha256, store.folder / "damaged"))
    return Repaired(restored, lost, aside)


def copies(problem: Problem, shelves: Sequence[Shelf]) -> Iterator[tuple[str, bytes]]:
    """Files that may hold a content, and their bytes."""
    for path in [Path(origin) for origin in problem.origins]:
        yield from _of_size(path, problem.size)
    for shelf in shelves:
        if shelf.has(shelf.blob(problem.sha256)):
            yield shelf.shown, shelf.read(shelf.blob(problem.sha256), LIMIT)
        elif place := shelf.local:
            for path in sorted(place.rglob(f"*{SUFFIX}")) if place.is_dir() else [place]:
                yield from _of_size(path, problem.size)


def _of_size(path: Path, size: int) -> Iterator[tuple[str, bytes]]:
    try:
        if path.stat().st_size == size:
            yield str(path), read_regular(path, LIMIT)
    except (OSError, SoftpromptError):  # it is gone, or cannot be read: then it is no copy
        return


def gc(store: Store, older: timedelta = DAY, *, dry_run: bool = False) -> Collected:
    """Remove the files that no version needs, and those of versions that were removed longer ago than `older`.

    Nothing is removed that is being published: both happen in transactions of the only writer, in which a publisher
    looks whether its file is still there. `older` also spares files that were written lately.
    """
    with store.writing() as index:
        query = "SELECT sha256 FROM versions WHERE removed IS NULL OR removed > ?"
        needed = {sha256 for (sha256,) in index.execute(query, (now(older),))}
        latest = time.time() - older.total_seconds()
        found = [sha256 for sha256, written in store.blobs.listed() if sha256 not in needed and written <= latest]
        dead = [path for path, written in store.blobs.unfinished() if written <= time.time() - WRITING]
        size = sum(store.blobs.path(sha256).stat().st_size for sha256 in found)
        if not dry_run:
            for path in [*map(store.blobs.path, found), *dead]:
                path.unlink(missing_ok=True)
    return Collected(sorted(found), size, len(dead))
