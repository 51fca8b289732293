"""Every task from every other, one table; and who was made from whom."""

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_runs

from softprompt.errors import SoftpromptError
from softprompt.store import Store
from softprompt.transfer.lineage import drawn, lineage
from softprompt.transfer.matrix import HEADER, Cell, matrix, plot, sound, table
from softprompt.transfer.page import page
from softprompt.transfer.paired import Compared


def cell(scratch: float, transferred: float, source: str = "a", target: str = "b", metric: str = "accuracy") -> Cell:
    return Cell(source, target, metric, scratch, transferred, Compared(transferred - scratch, 0.1, 0.5, 20))


def test_the_table_holds_every_pair_and_the_diagonal(bench, tmp_path) -> None:
    other = bench.recipe("train.steps=2")
    file = str(tiny_runs.write_rows(tmp_path / "other.csv", 40, seed=21))
    other = other.model_copy(update={"data": other.data.model_copy(update={"train": file, "dev": None})})
    cells = matrix({"a": bench.recipe("train.steps=2"), "b": other}, tmp_path / "m", backbone=bench.backbone)
    assert [(one.source, one.target) for one in cells] == [("a", "a"), ("b", "a"), ("a", "b"), ("b", "b")]
    with (tmp_path / "m" / "matrix.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == HEADER
    assert [float(row["transferred"]) for row in rows] == [one.transferred for one in cells]
    for one in cells:
        assert one.test.difference == pytest.approx(one.transferred - one.scratch)
    assert "from the source" in (tmp_path / "m" / "matrix.html").read_text(encoding="utf-8")
    assert (tmp_path / "m" / "matrix.png").exists()


def test_the_page_draws_every_pair_and_names_what_is_sure() -> None:
    sure = Cell("a<b", "c", "accuracy", 0.5, 0.75, Compared(0.25, 0.1, 0.01, 40))
    made = page([cell(0.8, 0.8, "a<b", "a<b"), sure, cell(0.8, 0.7, "c", "a<b"), cell(1.0, 1.0, "c", "c")])
    assert made.count("<rect ") == 4
    assert "+50% *" in made, "half of the error, and more than chance"
    assert "Of 2 pairs of different tasks, 1 gain and 0 lose" in made
    assert "a&lt;b to c: gain" in made
    assert "a<b" not in made
    assert "http" not in made.replace("http-equiv", ""), "nothing is loaded from anywhere"


def test_transfer_is_the_share_of_the_error_that_is_taken_away() -> None:
    assert cell(0.8, 0.9).relative == pytest.approx(0.5)
    assert cell(0.8, 0.7).relative == pytest.approx(-0.5)
    assert cell(1.0, 1.0).relative is None
    assert cell(2.0, 1.0, metric="rmse").relative == pytest.approx(0.5), "where less is better, too"


def test_csv_leaves_an_undefined_share_empty() -> None:
    row = table([cell(1.0, 1.0)]).splitlines()[1].split(",")
    assert row[HEADER.index("relative")] == ""


def test_a_run_that_broke_off_is_an_error_and_no_hole() -> None:
    broken = SimpleNamespace(name="a", report=None, error={"message": "nan"}, folder=Path("x"))
    with pytest.raises(SoftpromptError, match="SP-E621"):
        sound([broken])


def test_a_picture_is_drawn_and_where_the_package_is_missing_it_is_named(tmp_path, monkeypatch) -> None:
    cells = [cell(0.8, 0.9, s, t) for t in "ab" for s in "ab"]
    plot(cells, tmp_path / "m.png")
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr("softprompt.transfer.matrix.drawable", lambda: False)
    with pytest.raises(SoftpromptError, match="SP-E625"):
        plot(cells, tmp_path / "n.png")


def test_the_tree_draws_children_under_their_parents(bench, tmp_path) -> None:
    store = Store(tmp_path)
    assert lineage(store) == []
    store.publish(bench.folder / "near", "base")
    store.publish(bench.folder / "far", "child", parents=["base@1", "transfer=base@1"])
    (root,) = lineage(store)
    assert root.entry.reference == "base@1"
    assert [(node.entry.reference, node.relation) for node in root.children] == [("child@1", "transfer")]
    lines = drawn([root])
    assert lines[0].startswith("base@1")
    assert lines[1].startswith("└─ child@1  (transfer)")
