"""Examples are divided into parts that share none, written once, and sampled in proportion."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
import tiny_runs

from softprompt.data import read
from softprompt.errors import DataError, TrainingError
from softprompt.lab.parts import Parts, part_out
from softprompt.lab.protocol import Protocol, Question
from softprompt.recipe import Recipe, make_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    rows = tiny_runs.write_rows(tmp_path / "train.csv", 100)
    return make_recipe({"data": {"train": str(rows), "split": [0.7, 0.15, 0.15]}})


def divided(recipe: Recipe, folder: Path, **changes: object) -> tuple[Protocol, Parts]:
    asked = Protocol(tasks={"words": recipe}, methods=("prefix",), seeds=2, **{"sizes": (10, 30, None)} | changes)  # type: ignore[arg-type]
    return asked, part_out(asked, "words", folder)


def texts(path: str) -> list[str]:
    return [json.loads(line)["text"] for line in Path(path).read_text().splitlines()]


def test_no_example_is_in_two_parts_and_none_is_lost(recipe: Recipe, tmp_path: Path) -> None:
    _, parts = divided(recipe, tmp_path / "parts")
    found = [text for name in ("train", "selection", "dev", "test") for text in texts(parts.file(name))]
    with Path(recipe.data.train).open() as file:
        assert Counter(found) == Counter(row["text"] for row in csv.DictReader(file))
    assert len(set(found)) == len(found) == 100
    assert parts.counts == {"train": 56, "selection": 14, "dev": 15, "test": 15}


def test_a_trial_reads_neither_dev_nor_test_and_a_run_reads_no_selection(recipe: Recipe, tmp_path: Path) -> None:
    _, parts = divided(recipe, tmp_path / "parts")
    for size in (10, None):
        question = Question("words", size)
        tried, final = parts.trial(question, 0)["data"], parts.final(question, 0)["data"]
        assert [Path(tried[name]).stem for name in ("dev", "test")] == ["selection", "selection"]
        assert [Path(final[name]).stem for name in ("dev", "test")] == ["dev", "test"]
        assert tried["train"] == final["train"]
        held = {text for name in ("selection", "dev", "test") for text in texts(parts.file(name))}
        assert not held & set(texts(final["train"]))


def test_samples_are_nested_in_proportion_and_of_each_seed(recipe: Recipe, tmp_path: Path) -> None:
    _, parts = divided(recipe, tmp_path / "parts")
    small, large = (texts(parts.train(Question("words", size), 0)) for size in (10, 30))
    assert set(small) < set(large) < set(texts(parts.file("train")))
    assert (len(small), len(large)) == (10, 30)
    assert small != texts(parts.train(Question("words", 10), 1))
    rows = [json.loads(line) for line in Path(parts.train(Question("words", 10), 0)).read_text().splitlines()]
    assert Counter(row["label"] for row in rows) == {"w5": 5, "w6": 5}


def test_parts_are_read_back_as_they_were(recipe: Recipe, tmp_path: Path) -> None:
    _, parts = divided(recipe, tmp_path / "parts")
    before = {(tuple(e.fields.items()), e.label) for e in read(recipe.data.train).examples}
    after = set()
    for name in ("train", "selection", "dev", "test"):
        after |= {(tuple(e.fields.items()), e.label) for e in read(parts.file(name)).examples}
    assert after == before


def test_the_same_again_leaves_the_files_and_other_data_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    divided(recipe, tmp_path / "parts")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "parts").iterdir()}
    divided(recipe, tmp_path / "parts")
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "parts").iterdir()} == before
    tiny_runs.write_rows(Path(recipe.data.train), 100, seed=3)
    with pytest.raises(TrainingError, match="SP-E514"):
        divided(recipe, tmp_path / "parts")


def test_a_size_that_is_not_there_and_leaks_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="SP-E132"):
        divided(recipe, tmp_path / "parts", sizes=(57,))
    leaking = recipe.model_copy(update={"data": recipe.data.model_copy(update={"test": recipe.data.train})})
    with pytest.raises(DataError):
        divided(leaking, tmp_path / "other")


def test_tagged_words_and_numbers_keep_their_form(tmp_path: Path) -> None:
    tagged = [{"words": [f"w{i}", "x"], "tags": ["B-a", "O"]} for i in range(20)]
    rated = [{"text": f"w{i} w{i + 1}", "score": i / 4} for i in range(20)]
    for name, rows, kind in (("tagged", tagged, "tagging"), ("rated", rated, "regression")):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        recipe = make_recipe({"data": {"train": str(path)}, "task": {"kind": kind}})
        _, parts = divided(recipe, tmp_path / name, sizes=(5,))
        again = read(parts.train(Question("words", 5), 0), kind=kind)  # type: ignore[arg-type]
        labels = {example.label for example in read(str(path), kind=kind).examples}  # type: ignore[arg-type]
        assert {example.label for example in again.examples} <= labels
        assert len(again.examples) == 5
