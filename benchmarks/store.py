"""The store under load: many prompts, many writers, killed writers.

    python benchmarks/store.py [--save] [--keep FOLDER]

10,000 names with 3 versions each: the time of a list, of searches and of a load by name (resolve, read, SHA-256,
artifact). Eight processes publish 200 prompts each under one name, into a store that they make together. Then pairs of
writers are killed (SIGKILL) at random moments, and every version that was acknowledged is looked for.
"""

import argparse
import json
import multiprocessing
import os
import platform
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import tiny_prompts

from softprompt import container
from softprompt.store import Store
from softprompt.store.facts import Facts, gather, remember
from softprompt.store.rows import add_version
from softprompt.store.upkeep import gc, verify

NAMES, VERSIONS, LOADS = 10_000, 3, 2_000
WRITERS, EACH, KILLS = 8, 200, 60
RESULTS = Path(__file__).parent / "results" / "store.json"
FORK = multiprocessing.get_context("fork")


def made_one(job: tuple[Path, int, float]) -> tuple[str, Facts]:
    """Write the file of a prompt as `publish` does, but unsynced; its SHA-256 and what is known of it."""
    folder, seed, accuracy = job
    artifact = tiny_prompts.artifact(seed, accuracy=accuracy, method=("prompt_tuning", "prefix", "p_tuning")[seed % 3])
    data = container.pack(artifact.tensors, artifact.card.model_dump_json())
    with patch("os.fsync"):
        return Store(folder).keep(data), gather(artifact, len(data), ())


def fill(store: Store) -> None:
    """Enter every prompt: files in four processes, rows in one transaction."""
    rng = random.Random(0)
    jobs = [(store.folder, seed, rng.random()) for seed in range(NAMES * VERSIONS)]
    with FORK.Pool(4) as pool:
        made = pool.map(made_one, jobs, chunksize=500)
    with store.writing() as index:
        for seed, (sha256, known) in enumerate(made):
            remember(index, sha256, known)
            name, version = f"task-{seed // VERSIONS:05d}", seed % VERSIONS + 1
            add_version(index, name, version, sha256, note="", origin="")
    store._index.here().execute("PRAGMA wal_checkpoint(TRUNCATE)")  # as smaller transactions would have had it


def milliseconds(work: Callable[[], object], repeat: int) -> dict[str, float]:
    """Median, p99 and worst of some repetitions, and the median of the processor's time alone."""
    times, busy = [], []
    for _ in range(repeat):
        began, worked = time.perf_counter(), time.process_time()
        work()
        times.append(1000 * (time.perf_counter() - began))
        busy.append(1000 * (time.process_time() - worked))
    middle, late, last = (sorted(times)[int(share * (repeat - 1))] for share in (0.5, 0.99, 1))
    cpu = sorted(busy)[repeat // 2]
    figures = {"median_ms": middle, "p99_ms": late, "worst_ms": last, "cpu_median_ms": cpu}
    return {name: round(value, 2) for name, value in figures.items()} | {"n": repeat}


def many(folder: Path) -> dict[str, Any]:
    store, rng = Store(folder), random.Random(1)
    if not store.list():
        fill(store)
    store = Store(folder)
    began = time.perf_counter()
    rows = len(store.list())
    first = 1000 * (time.perf_counter() - began)
    assert rows == NAMES

    def load() -> None:
        store.load(f"task-{rng.randrange(NAMES):05d}@{rng.randint(1, VERSIONS)}")

    found = {
        "names": NAMES,
        "versions": NAMES * VERSIONS,
        "index_bytes": (folder / "index.db").stat().st_size,
        "first_list_ms": round(first, 1),
        "list": milliseconds(store.list, 20),
        "list_every_version": milliseconds(lambda: store.list(every=True), 20),
        "search_metric": milliseconds(lambda: store.list(where=["accuracy>=0.99"]), 20),
        "search_card": milliseconds(lambda: store.list(where=["method.name=prefix", "recipe.optim.lr=0.3"]), 10),
        "search_words": milliseconds(lambda: store.list("llama prefix 0099"), 10),
        "load_by_name": milliseconds(load, LOADS),
        "resolve": milliseconds(lambda: store.resolve(f"task-{rng.randrange(NAMES):05d}"), LOADS),
    }
    began = time.perf_counter()
    assert verify(store).problems == []
    found["verify_seconds"] = round(time.perf_counter() - began, 1)
    began = time.perf_counter()
    assert gc(store, timedelta(0)).contents == []
    return found | {"gc_seconds": round(time.perf_counter() - began, 2)}


def publish_all(folder: Path, files: list[Path], log: Path) -> None:
    store = Store(folder)
    with log.open("a", buffering=1) as acknowledged:
        for path in files:
            acknowledged.write(f"{store.publish(path, 'shared').entry.reference} {path}\n")


def made(folder: Path, count: int) -> list[Path]:
    """Files to publish."""
    with patch("os.fsync"):
        return [tiny_prompts.write(folder / "made", seed) for seed in range(count)]


def start(folder: Path, files: list[Path], log: Path) -> Any:
    child = FORK.Process(target=publish_all, args=(folder, files, log))
    child.start()
    return child


def kept(folder: Path, logs: list[Path]) -> tuple[int, int]:
    """How many publishes were acknowledged, and how many of those are there with their bytes."""
    store = Store(folder)
    pairs = [line.split() for log in logs if log.exists() for line in log.read_text().splitlines()]
    found = [store.path(reference).read_bytes() == Path(path).read_bytes() for reference, path in pairs]
    assert len({reference for reference, _ in pairs}) == len(pairs)
    state = verify(store)
    assert (state.problems, state.damage) == ([], [])
    return len(pairs), sum(found)


def writers(folder: Path) -> dict[str, Any]:
    files = made(folder, WRITERS * EACH)
    logs = [folder / f"{i}.log" for i in range(WRITERS)]
    began = time.perf_counter()
    children = [start(folder / "store", files[i::WRITERS], log) for i, log in enumerate(logs)]
    for child in children:
        child.join()
    seconds = time.perf_counter() - began
    acknowledged, there = kept(folder / "store", logs)
    versions = [entry.version for entry in Store(folder / "store").list(every=True)]
    assert versions == list(range(1, WRITERS * EACH + 1))
    facts = {"writers": WRITERS, "published": WRITERS * EACH, "acknowledged": acknowledged, "kept": there}
    return facts | {"seconds": round(seconds, 1), "publishes_per_second": round(acknowledged / seconds, 1)}


def kills(folder: Path) -> dict[str, Any]:
    rng, logs, killed = random.Random(2), [], 0
    files = made(folder, KILLS * 60)
    for turn in range(KILLS):
        mine = files[60 * turn : 60 * turn + 60]
        own = [folder / f"{turn}-{i}.log" for i in range(2)]
        children = [start(folder / "store", mine[i::2], log) for i, log in enumerate(own)]
        logs += own
        time.sleep(rng.uniform(0.05, 1.2))
        for child in children:
            if child.is_alive():
                os.kill(child.pid, signal.SIGKILL)
            child.join()
            killed += child.exitcode == -signal.SIGKILL
    acknowledged, there = kept(folder / "store", logs)
    return {"killed": killed, "acknowledged": acknowledged, "kept": there}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--only", choices=["writers", "kills", "many"], help="this part; a saved file keeps the others")
    parser.add_argument("--keep", type=Path, help="folder of the large store; filled if it is empty")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if given.only and RESULTS.exists() else {}
    found |= {
        "command": "python benchmarks/store.py --save",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, SQLite {sqlite3.sqlite_version}",
        "load_average": os.getloadavg()[0],
    }
    for part in [part for part in (writers, kills, many) if given.only in (None, part.__name__)]:
        with tempfile.TemporaryDirectory() as folder:
            found[part.__name__] = part(given.keep if given.keep and part is many else Path(folder))
        print(part.__name__, json.dumps(found[part.__name__], indent=1), flush=True)
    if given.save:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
