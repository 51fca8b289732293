"""Many processes write at once, and die at any moment: nothing that was acknowledged is lost."""

import multiprocessing
import os
import random
import signal
import time
from datetime import timedelta
from pathlib import Path

import pytest
from tiny_prompts import write

from softprompt.store import Store
from softprompt.store.upkeep import gc, verify

FORK = multiprocessing.get_context("fork")  # a child has torch already; its store must make a connection of its own
WRITERS, EACH, KILLS = 8, 25, 12


def publish_all(folder: Path, files: list[Path], acknowledged: Path) -> None:
    """Publish file by file, and write down every one that was acknowledged."""
    store = Store(folder)
    with acknowledged.open("a", buffering=1) as log:
        for path in files:
            log.write(f"{store.publish(path, 's').entry.reference} {path}\n")


def started(folder: Path, files: list[Path], log: Path) -> multiprocessing.process.BaseProcess:
    child = FORK.Process(target=publish_all, args=(folder, files, log))
    child.start()
    return child


def test_eight_writers_lose_nothing_and_no_number_is_given_twice(tmp_path: Path) -> None:
    """The store is not there yet: they also make it at once."""
    seeds = [range(i * EACH, (i + 1) * EACH) for i in range(WRITERS)]
    files = [[write(tmp_path / "made", seed) for seed in own] for own in seeds]
    logs = [tmp_path / f"{i}.log" for i in range(WRITERS)]
    children = [started(tmp_path / "store", own, log) for own, log in zip(files, logs, strict=True)]
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0] * WRITERS
    check(tmp_path / "store", logs, WRITERS * EACH)


def check(folder: Path, logs: list[Path], least: int) -> None:
    """Every acknowledged version is there with the bytes that were published, and nothing dangles."""
    store = Store(folder)
    pairs = [line.split() for log in logs if log.exists() for line in log.read_text().splitlines()]
    assert len(pairs) >= least
    assert len({reference for reference, _ in pairs}) == len(pairs)
    for reference, path in pairs:
        assert store.path(reference).read_bytes() == Path(path).read_bytes()
    found = verify(store)
    assert (found.problems, found.damage) == ([], [])
    versions = [entry.version for entry in store.list(every=True)]
    assert versions == list(range(1, len(versions) + 1))


def test_killed_writers_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    rng = random.Random(0)
    files = [write(tmp_path / "made", seed) for seed in range(400)]
    logs = []
    for turn in range(KILLS):
        own = [files[i] for i in range(len(files)) if i % KILLS == turn]
        logs += [tmp_path / f"{turn}-{half}.log" for half in range(2)]
        children = [started(tmp_path / "store", own[half::2], logs[half - 2]) for half in range(2)]
        time.sleep(rng.uniform(0.02, 0.3))
        for child in children:
            if child.pid is not None and child.is_alive():
                os.kill(child.pid, signal.SIGKILL)
            child.join(60)
            assert child.exitcode in (0, -signal.SIGKILL)
    check(tmp_path / "store", logs, 10)
    assert not Store(tmp_path / "store").list(removed=True)


def test_a_collector_at_work_takes_nothing_from_publishers(tmp_path: Path) -> None:
    files = [write(tmp_path / "made", seed) for seed in range(30)]
    store, logs = Store(tmp_path / "store"), [tmp_path / f"{i}.log" for i in range(3)]
    children = [started(store.folder, files[i::3], log) for i, log in enumerate(logs)]
    rounds = 0
    while any(child.is_alive() for child in children):
        gc(store, timedelta(0))
        rounds += 1
        time.sleep(0.01)
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * 3
    assert rounds > 3
    check(store.folder, logs, 30)


def test_a_file_that_was_collected_before_its_row_was_written_is_written_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, taken = store.keep, []

    def collected(data: bytes) -> str:
        sha256 = keep(data)
        taken.extend(gc(store, timedelta(0)).contents)
        return sha256

    monkeypatch.setattr(store, "keep", collected)
    entry = store.publish(write(tmp_path, 0), "s").entry
    assert taken == [entry.sha256]
    store.load("s")


def test_a_connection_is_not_shared_with_a_forked_child(store: Store, tmp_path: Path) -> None:
    store.publish(write(tmp_path, 0), "s")
    child = FORK.Process(target=store.publish, args=(write(tmp_path, 1), "s"))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert store.publish(write(tmp_path, 2), "s").entry.version == 3
