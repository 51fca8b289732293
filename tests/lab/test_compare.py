"""A comparison on a tiny model: nothing is run twice, killed and repeated it is the same, and test chooses nothing."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.cli import main
from softprompt.errors import TrainingError
from softprompt.lab import Protocol, bench, compare, write
from softprompt.lab.trials import Tried, group
from softprompt.recipe import Recipe, load_recipe
from softprompt.run import Stopped
from softprompt.sweep.results import Entry

METHODS = ("prompt_tuning", "prefix")
STEPS = ("train.steps=2", "train.evaluate_every=1", "task.head=verbalizer", "train.save_seconds=0.01")
SAME = ("numbers.json", "runs.csv", "trials.csv", "pairs.csv", "table.tex")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("comparisons")


@pytest.fixture(scope="module")
def model(folder: Path) -> Backbone:
    torch.manual_seed(0)
    return tiny_runs.open_model(folder)


@pytest.fixture(scope="module")
def recipe(folder: Path, model: Backbone) -> Recipe:
    return tiny_runs.recipe(folder, *STEPS)


def asked(recipe: Recipe, **changes: Any) -> Protocol:
    values: dict[str, Any] = {"tasks": {"words": recipe}, "methods": METHODS, "seeds": 2, "trials": 2, "sizes": (8,)}
    return Protocol(**values | changes)


@pytest.fixture(scope="module")
def whole(recipe: Recipe, model: Backbone, folder: Path) -> Path:
    """A comparison that nobody disturbed."""
    write(compare(asked(recipe), folder / "whole", backbone=model), "compare")
    return folder / "whole"


def test_a_trial_that_would_be_stopped_before_its_first_step_is_a_trial_spent(
    recipe: Recipe, model: Backbone, tmp_path: Path
) -> None:
    """Else a rate that was drawn too low would end the comparison."""
    made = {
        f"trial-{i}": recipe.model_copy(
            update={
                "optim": recipe.optim.model_copy(update={"lr": lr}),
                "train": recipe.train.model_copy(update={"steps": 50, "evaluate_every": 50}),
            }
        )
        for i, lr in enumerate((1e-6, 0.3))
    }
    for again in range(2):
        found = group(made, tmp_path / "trials", lambda: model, 8, lambda event: None).entries
        assert [entry.name for entry in found] == list(made)
        assert (found[0].error or {})["code"] == "SP-E530"
        assert found[1].report is not None
        assert again or trained(tmp_path)
    with pytest.raises(TrainingError, match="SP-E530"):
        group({"trial-0": made["trial-0"]}, tmp_path / "alone", lambda: model, 8, lambda event: None)


def test_sides_of_one_method_are_compared_and_keep_apart(recipe: Recipe, model: Backbone, tmp_path: Path) -> None:
    sides = ("prompt_tuning+init.kind=random", "prompt_tuning+init.kind=vocabulary+length=2")
    found = compare(asked(recipe, methods=sides, seeds=1, trials=1), tmp_path / "sides", backbone=model)
    told = found.numbers["questions"][0]["methods"]
    assert [one["method"] for one in told] == list(sides)
    assert [one["recipe"]["init"]["kind"] for one in told] == ["random", "vocabulary"]
    assert [one["parameters"] for one in told] == [4 * 32, 2 * 32]
    assert (tmp_path / "sides/runs/words/8" / sides[0] / "seed-0/prompt.safetensors").exists()


def same(place: Path) -> dict[str, bytes]:
    return {name: (place / name).read_bytes() for name in SAME}


def trained(place: Path) -> dict[str, int]:
    """When each prompt was written."""
    return {str(path.relative_to(place)): path.stat().st_mtime_ns for path in place.rglob("prompt.safetensors")}


def test_every_method_gets_the_same_trials_and_seeds_and_every_cell_is_a_run(whole: Path) -> None:
    for method in METHODS:
        for kind, names in (("trials", ["trial-0", "trial-1"]), ("runs", ["seed-0", "seed-1"])):
            place = whole / kind / "words" / "8" / method
            assert sorted(path.parent.name for path in place.rglob("prompt.safetensors")) == names
            assert all(load_recipe(place / name / "recipe.yaml").method.name == method for name in names)
    told = json.loads((whole / "numbers.json").read_text())["questions"][0]
    assert [[trial["setting"] for trial in method["trials"]] for method in told["methods"]] == [
        [{}, {"optim.lr": told["methods"][0]["trials"][1]["setting"]["optim.lr"]}]
    ] * 2
    assert Artifact.load(whole / "runs/words/8/prefix/seed-1/prompt.safetensors").tensors


def test_the_chosen_setting_is_that_of_the_reported_runs(whole: Path) -> None:
    for method in json.loads((whole / "numbers.json").read_text())["questions"][0]["methods"]:
        place, chosen = whole / "runs/words/8" / method["method"], method["trials"][method["chosen"]]
        best = max(trial["selection"]["value"] for trial in method["trials"])
        assert chosen["selection"]["value"] == best
        for run in ("seed-0", "seed-1"):
            rate = load_recipe(place / run / "recipe.yaml").optim.lr
            tried = load_recipe(
                whole / "trials/words/8" / method["method"] / f"trial-{chosen['trial']}" / "recipe.yaml"
            )
            assert rate == chosen["setting"].get("optim.lr", tried.optim.lr)


def test_no_trial_names_dev_or_test(whole: Path) -> None:
    for path in (whole / "trials").rglob("recipe.yaml"):
        data = load_recipe(path).data
        assert [Path(str(part)).name for part in (data.dev, data.test)] == ["selection.jsonl"] * 2
        assert "dev.jsonl" not in path.read_text()
        assert "test.jsonl" not in path.read_text()


def test_the_choice_is_by_the_selection_split_the_first_of_equals_and_never_what_broke_off() -> None:
    def entry(key: float, test: float, *, broke: bool = False) -> Entry:
        report = None if broke else {"scores": [{"value": test}]}
        return Entry("", Path(), report, {"message": ""} if broke else None, {}, (key,), "")

    entries = [entry(0.5, 0.9), entry(0.7, 0.1), entry(0.7, 1.0), entry(0.9, 1.0, broke=True)]
    assert Tried(entries, [{}] * 4).chosen == 1


def test_repeated_it_trains_nothing_and_opens_no_model(
    recipe: Recipe, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, files = trained(whole), same(whole)
    monkeypatch.setattr(bench, "open_backbone", lambda recipe: pytest.fail("a model was opened"))
    found = compare(asked(recipe), whole)
    write(found, "compare")
    assert trained(whole) == before
    assert same(whole) == files
    assert [cost["method"] for cost in found.seconds] == list(METHODS)
    assert all(cost["cpu_seconds_of_a_run"] > 0 and cost["cpu_seconds_of_search"] > 0 for cost in found.seconds)


def test_killed_and_repeated_it_ends_with_the_same_numbers(
    recipe: Recipe, model: Backbone, whole: Path, tmp_path: Path
) -> None:
    """Stopped inside the first trials by a signal, killed inside the first runs: then it goes on to the end."""
    place, passes = tmp_path / "all", []

    def interrupt(event: dict[str, Any]) -> None:
        passes.append(event["event"])
        if passes.count("pass") == 1 and event["event"] == "pass":
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        compare(asked(recipe), place, backbone=model, listen=interrupt)
    child = os.fork()
    if not child:
        compare(asked(recipe), place, backbone=model)
        os._exit(0)
    deadline = time.monotonic() + 200
    while not any(place.glob("runs/*/*/*/*/states/state-*.sp")):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    first = {name: at for name, at in trained(place).items() if name.startswith("trials/words/8/prompt_tuning")}
    assert len(first) == 2
    write(compare(asked(recipe), place, backbone=model), "compare")
    assert same(place) == same(whole)
    assert first.items() <= trained(place).items()


def test_a_method_is_added_without_running_the_others_again_and_seeds_are_not(
    recipe: Recipe, model: Backbone, whole: Path
) -> None:
    before, told = trained(whole), json.loads((whole / "numbers.json").read_text())["questions"][0]["methods"]
    found = compare(asked(recipe, methods=(*METHODS, "dpt"), over=("lr=0.005..0.3",)), whole, backbone=model)
    assert before.items() <= trained(whole).items()
    assert len(trained(whole)) == len(before) + 4
    assert json.loads(json.dumps(found.numbers["questions"][0]["methods"]))[:2] == told
    for changes in ({"seeds": 3}, {"trials": 3}, {"selection": 0.3}, {"seed": 1}):
        with pytest.raises(TrainingError, match="SP-E514"):
            compare(asked(recipe, **changes), whole, backbone=model)
    changed = recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"clip": 0.5})})
    with pytest.raises(TrainingError, match="SP-E514"):
        compare(asked(changed), whole, backbone=model)


def test_a_folder_of_something_else_is_left_alone(recipe: Recipe, model: Backbone, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TrainingError, match="SP-E514"):
        compare(asked(recipe), tmp_path, backbone=model)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_command_repeated_reads_writes_the_report_and_says_what_is_next(
    recipe: Recipe, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "words.yaml"
    path.write_text(recipe.to_yaml())
    before = same(whole)
    options = ["--methods", "prompt_tuning,prefix", "--seeds", "2", "--trials", "2", "--sizes", "8"]
    command = ["compare", str(path), *options, "--run", str(whole)]
    assert main(command) == 0
    shown = capsys.readouterr()
    assert "±" in shown.out
    assert "Best baseline" in shown.out
    assert "next: python -m webbrowser" in shown.err
    assert same(whole) == before
    page = (whole / "report.html").read_text()
    assert f"softprompt compare {path}" in page
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["questions"] == json.loads(before["numbers.json"])["questions"]
    assert Path(told["report"]) == whole / "report.html"
    assert main(["compare", str(path), "--sizes", "few", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["code"] == "SP-E280"
    assert main(["compare", str(path), "--address", "127.0.0.1:1", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["code"] == "SP-E252"
