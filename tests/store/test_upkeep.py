"""Damage is found and named, mended from copies, and only what nobody needs is deleted."""

import os
import random
import shutil
import time
from datetime import timedelta
from pathlib import Path

import pytest
from tiny_prompts import write

from softprompt.errors import SoftpromptError
from softprompt.store import Store
from softprompt.store.transfer import push
from softprompt.store.upkeep import gc, repair, verify

NOW = timedelta(0)


def damage(store: Store, reference: str) -> Path:
    path = store.path(reference)
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    return path


@pytest.fixture
def full(store: Store, tmp_path: Path) -> Store:
    for seed in range(12):
        store.publish(write(tmp_path / "made", seed), f"p{seed % 4}")
    return store


def test_verify_names_every_damaged_file_and_no_other(full: Store) -> None:
    assert verify(full).problems == []
    rng = random.Random(0)
    for count in (1, 3, 6):
        chosen = rng.sample([entry.reference for entry in full.list(every=True)], count)
        kept = {reference: full.path(reference).read_bytes() for reference in chosen}
        for reference in chosen[1:]:
            damage(full, reference)
        full.path(chosen[0]).unlink()
        found = {problem.references[0]: problem.state for problem in verify(full).problems}
        assert found == dict.fromkeys(chosen[1:], "damaged") | {chosen[0]: "missing"}
        for data in kept.values():
            full.blobs.put(data)
    assert verify(full).problems == []


def test_repair_finds_the_file_that_was_published(full: Store, tmp_path: Path) -> None:
    damage(full, "p0@1")
    full.path("p1@2").unlink()
    done = repair(full)
    assert [(problem.references, where) for problem, where in done.restored] == [
        (("p0@1",), str((tmp_path / "made" / "prompt-0.safetensors").resolve())),
        (("p1@2",), str((tmp_path / "made" / "prompt-5.safetensors").resolve())),
    ]
    assert done.lost == []
    assert verify(full).problems == []


@pytest.mark.parametrize("kind", ["export", "store", "folder", "file", "memory"])
def test_repair_takes_copies_from_anywhere(full: Store, tmp_path: Path, kind: str) -> None:
    place = {
        "export": str(tmp_path / "out"),
        "store": str(full.folder.with_name("other")),
        "folder": str(tmp_path / "moved"),
        "file": str(tmp_path / "moved" / "prompt-0.safetensors"),
        "memory": "memory://repair",
    }[kind]
    if kind in ("export", "memory"):
        push(full, place)
    if kind == "store":
        shutil.copytree(full.folder, place)
    (tmp_path / "made").rename(tmp_path / "moved")  # the files are no longer where they were published from
    damage(full, "p0@1")
    assert [problem.references for problem in repair(full).lost] == [("p0@1",)]
    done = repair(full, [str(tmp_path / "nothing"), place])
    assert [problem.references for problem, _ in done.restored] == [("p0@1",)]
    assert verify(full).problems == []
    full.load("p0@1")


def test_what_cannot_be_mended_is_set_aside_and_stays_a_version(full: Store, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "made")
    path = damage(full, "p0@1")
    wrong = path.read_bytes()
    done = repair(full, [str(write(tmp_path / "other", 99).parent)])  # of the same size, but another content
    assert done.restored == []
    assert [aside.read_bytes() for aside in done.set_aside] == [wrong]
    assert not path.exists()
    with pytest.raises(SoftpromptError, match="SP-E613"):
        full.load("p0@1")
    assert [problem.state for problem in verify(full).problems] == ["missing"]
    assert len(full.list(every=True)) == 12


def test_gc_deletes_nothing_that_a_version_needs(full: Store) -> None:
    assert gc(full, NOW).contents == []
    entries = full.list(every=True)
    full.publish(full.path("p0@1"), "twin")
    full.remove("p0@1")  # its content is the twin's too
    full.remove("p1@1")
    gone = next(entry.sha256 for entry in entries if entry.reference == "p1@1")
    assert gc(full, NOW, dry_run=True).contents == [gone]
    assert full.blobs.has(gone)
    found = gc(full, NOW)
    assert (found.contents, found.size) == ([gone], entries[0].size)
    assert not full.blobs.has(gone)
    assert verify(full).problems == []
    full.load("twin")
    with pytest.raises(SoftpromptError, match=r"SP-E613.*gc"):
        full.restore("p1@1")
    assert full.restore("p0@1").version == 1


def test_gc_spares_what_was_removed_or_written_lately(full: Store, tmp_path: Path) -> None:
    full.remove("p0@1")
    stray = full.blobs.put(b"a publisher has written this and not yet its row")
    assert gc(full).contents == []
    old = time.time() - 2 * 86400
    os.utime(full.blobs.path(stray), (old, old))
    assert gc(full).contents == [stray]
    full.restore("p0@1")


def test_gc_sweeps_what_killed_writers_left_and_spares_writers_at_work(full: Store) -> None:
    dead, alive = (full.blobs.folder / f".softprompt-{digit * 16}.part" for digit in "ab")
    for path in (dead, alive):
        path.write_bytes(b"half")
    os.utime(dead, (0, 0))
    assert gc(full, NOW).unfinished == 1
    assert (dead.exists(), alive.exists()) == (False, True)


def test_a_damaged_index_is_found(full: Store) -> None:
    with full.writing() as index:
        index.execute("PRAGMA defer_foreign_keys=ON")
    connection = full._index.here()
    connection.execute("PRAGMA foreign_keys=OFF")
    connection.execute("DELETE FROM prompts WHERE sha256 = (SELECT sha256 FROM versions LIMIT 1)")
    assert verify(full).damage
