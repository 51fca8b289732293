"""Writers of small data files, one a format."""

import csv
import json
from pathlib import Path

import pytest

COLUMNS = ("text", "label")


def write_csv(path: Path, rows, **options) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, **options).writerows([COLUMNS, *rows])
    return path


def write_jsonl(path: Path, rows) -> Path:
    lines = [json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    return path


def by_column(rows):
    return {name: [row[at] for row in rows] for at, name in enumerate(COLUMNS)}


def write_parquet(path: Path, rows) -> Path:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(
        pa.table({name: list(column) for name, column in zip(COLUMNS, zip(*rows, strict=True), strict=True)}), path
    )
    return path


@pytest.fixture
def hub(monkeypatch):
    """Make `hub:` read data sets that the test holds in memory; nothing is loaded from a network."""
    datasets = pytest.importorskip("datasets")
    held = {}

    def load(*name, split):
        if (name, split) not in held:
            raise FileNotFoundError(f"no data set {name}")
        return held[name, split]

    monkeypatch.setattr(datasets, "load_dataset", load)
    return held


@pytest.fixture
def store(tmp_path, request):
    """`store(format, rows)` writes rows of (text, label) and returns the source to read."""

    def write(format: str, rows) -> str:
        if format == "hub":
            import datasets

            held = request.getfixturevalue("hub")
            held[("made/up",), "train"] = datasets.Dataset.from_dict(by_column(rows))
            return "hub:made/up"
        writer = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet}[format]
        return str(writer(tmp_path / f"rows.{format}", rows))

    return write


GOOD = [
    ("a fine film", "good"),
    ("dull, and long", "bad"),
    ('he said "no"', "bad"),
    ("a joy\nfrom start to end", "good"),
    ("warm and funny", "good"),
    ("I left early", "bad"),
]


@pytest.fixture
def good():
    return list(GOOD)
