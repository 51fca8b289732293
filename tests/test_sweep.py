"""Many prompts in one pass: each ends where it would have ended alone, whoever trains beside it."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
from torch import Tensor

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.cli import main
from softprompt.errors import RecipeError, TrainingError
from softprompt.plan import make_plan
from softprompt.prompt import Prompt
from softprompt.recipe import Recipe
from softprompt.run import Stopped
from softprompt.sweep import resume_all, train_all
from softprompt.sweep.grid import expand, parse
from softprompt.sweep.results import Entry, Swept
from softprompt.sweep.together import Part, losses, passes
from softprompt.training import train
from softprompt.untrained import build

SHORT = ("train.epochs=1", "train.evaluate_every=2")
PREFIX = ("method.name=prefix", "method.options={bottleneck: 16, dropout: 0.2}", "task.head=verbalizer")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweeps")


@pytest.fixture(scope="module")
def model(folder: Path) -> Backbone:
    torch.manual_seed(0)
    return tiny_runs.open_model(folder)


def members(folder: Path, over: str, *settings: str) -> dict[str, Recipe]:
    """The recipes of a sweep over a tiny run."""
    base = tiny_runs.recipe(folder, *SHORT, *settings).model_dump(mode="json", exclude_unset=True)
    return expand({"base": base}, parse([over]))


def tensors(run: Path) -> dict[str, Tensor]:
    return Artifact.load(run / "prompt.safetensors").tensors


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run / "log.jsonl").read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["event"] == kind]


def assert_same_run(ours: Path, alone: Path) -> None:
    """Tensors, every loss and the best step are those of the run alone, but for rounding."""
    for name, value in tensors(alone).items():
        torch.testing.assert_close(tensors(ours)[name], value, atol=1e-5, rtol=1e-4)
    for a, b in zip(events(ours, "step"), events(alone, "step"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    best = [max(events(run, "dev"), key=lambda event: event["key"])["step"] for run in (ours, alone)]
    assert best[0] == best[1]


def bits(run: Path, names: list[str]) -> dict[str, bytes]:
    kept = ("prompt.safetensors", "log.jsonl", "dev.json")
    return {f"{name}/{file}": (run / name / file).read_bytes() for name in names for file in kept}


@pytest.mark.parametrize(
    ("over", "settings", "forwards"),
    [
        ("seed=0,1,2", (), 1),
        ("lr=0.1,0.3,length=2,5", (), 1),
        ("seed=0,1,length=2,5", PREFIX, 1),
        ("seed=0,1", ("train.engine=plain",), 1),
        ("batch_size=1,5,accumulate=1,3", (), 1),
        ("method=prompt_tuning,prefix", ("task.head=verbalizer",), 1),
        ("task.head=verbalizer,classifier", (), 2),
    ],
)
def test_each_prompt_ends_where_it_would_have_ended_alone(
    over: str, settings: tuple[str, ...], forwards: int, folder: Path, model: Backbone, tmp_path: Path
) -> None:
    recipes = members(folder, over, *settings)
    told: list[str] = []
    train_all(recipes, tmp_path / "all", backbone=model, listen=lambda e: told.append(e.get("text", "")))
    for name, recipe in recipes.items():
        train(recipe, tmp_path / name, backbone=model)
        assert_same_run(tmp_path / "all" / name, tmp_path / name)
    assert any("forwards one after the other" in text for text in told) == (forwards > 1)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "t5"])
@pytest.mark.parametrize("packs", [True, False])
def test_one_forward_gives_every_prompt_its_own_loss_and_gradient(
    name: str, packs: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = tiny_runs.open_model(folder, name)
    varied = {"prompt_tuning": (1, 4), "prefix": (2, 3), "dept": (3,)}
    made = []
    for method, lengths in varied.items():
        for length in lengths:
            head = "classifier" if name == "bert" else "verbalizer"
            settings = [f"method.name={method}", f"method.length={length}", f"task.head={head}"]
            if method == "dept":
                settings.append("method.options={tokens: 40}")
            made.append(ready_to_train(tiny_runs.recipe(folder, *settings, model=name), frozen, packs))
    parts = [Part(prompt, batch := prompt.batch(rows), prompt.inject(batch)) for prompt, rows in made]
    calls: list[int] = []
    inner = frozen.stack().forward
    monkeypatch.setattr(frozen.stack(), "forward", lambda *a, **k: calls.append(1) or inner(*a, **k))
    groups = passes(parts)
    one_row = packs and frozen.spec.kind == "causal"  # which what DePT adds to every row does not fit into
    assert groups == ([[0, 1, 2, 3], [4]] if one_row else [[0, 1, 2, 3, 4]])
    found = [loss for group in groups for loss in losses([parts[i] for i in group])]
    assert len(calls) == len(groups)
    torch.autograd.backward(found)
    for (prompt, rows), loss in zip(made, found, strict=True):
        own = prompt.loss(prompt.batch(rows))
        torch.testing.assert_close(loss, own, atol=1e-5, rtol=1e-5)
        for weight, right in zip(prompt.parameters(), torch.autograd.grad(own, list(prompt.parameters())), strict=True):
            assert weight.grad is not None
            assert (weight.grad - right).norm() <= 1e-4 * right.norm()
            assert right.norm() > 0


def ready_to_train(recipe: Recipe, frozen: Backbone, packs: bool) -> tuple[Prompt, list[Any]]:
    """A prompt a little away from where it begins, and rows of its own number and lengths."""
    plan = make_plan(recipe, frozen)
    prompt = build(plan, frozen)
    prompt.packs, prompt.fewest = packs and frozen.spec.kind == "causal", 1
    with torch.no_grad():
        for weight in prompt.method.parameters():
            weight.add_(torch.randn_like(weight) * 0.1 * weight.std().nan_to_num(1.0))
    first = plan.recipe.method.length
    return prompt, [prompt.row(example) for example in plan.train[first : 2 * first]]


def test_a_prompt_that_stops_early_leaves_the_others_as_they_are(folder: Path, model: Backbone, tmp_path: Path) -> None:
    settings = ("train.epochs=4", "optim.lr=3.0", "train.evaluate_every=1")
    recipes = members(folder, "patience=1,null", *settings)
    live: list[int] = []
    listen = lambda event: live.append(event["prompts"]) if event["event"] == "pass" else None  # noqa: E731
    train_all(recipes, tmp_path / "all", backbone=model, listen=listen)
    for name, recipe in recipes.items():
        train(recipe, tmp_path / name, backbone=model)
        assert_same_run(tmp_path / "all" / name, tmp_path / name)
    early = len(events(tmp_path / "all" / "patience-1", "step"))
    assert early < len(live) == len(events(tmp_path / "all" / "patience-null", "step"))
    assert live == [2] * early + [1] * (len(live) - early)


def test_a_loss_that_is_not_finite_ends_one_prompt_and_not_the_others(
    folder: Path, model: Backbone, tmp_path: Path
) -> None:
    recipes = members(folder, "seed=0,1")

    def poison(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["member"] == "seed-0" and event["step"] == 2:
            with torch.no_grad():
                prompts["seed-0"].method.prompt.fill_(float("nan"))
        if event["event"] == "plan":
            prompts[event["member"]] = event["prompt"]

    prompts: dict[str, Any] = {}
    swept = train_all(recipes, tmp_path / "all", backbone=model, listen=poison)
    failed, whole = swept.entries
    assert failed.report is None
    assert failed.error is not None
    assert failed.error["code"] == "SP-E520"
    assert swept.best == [whole]
    train(recipes["seed-1"], tmp_path / "alone", backbone=model)
    assert_same_run(tmp_path / "all" / "seed-1", tmp_path / "alone")


def apart(work: Callable[[], object]) -> int:
    """Run `work` in a process of its own, which can be killed; its process id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:
        os._exit(99)
    os._exit(0)


@pytest.fixture(scope="module")
def whole(folder: Path, model: Backbone) -> tuple[dict[str, Recipe], dict[str, bytes]]:
    """A sweep in which one member stops early, and what it leaves when nobody disturbs it."""
    recipes = members(folder, "patience=1,null,seed=0,1", "train.epochs=3", "optim.lr=2.0", "train.evaluate_every=1")
    train_all(recipes, folder / "whole", backbone=model)
    return recipes, bits(folder / "whole", list(recipes))


@pytest.mark.parametrize(("step", "pause"), [(1, 0.0), (3, 0.01), (6, 0.03), (12, 0.3)])
def test_a_sweep_that_is_killed_and_repeated_ends_with_the_same_bits(
    step: int, pause: float, whole: tuple[dict[str, Recipe], dict[str, bytes]], model: Backbone, tmp_path: Path
) -> None:
    recipes, wanted = whole
    run = tmp_path / "all"
    child = apart(lambda: train_all(recipes, run, backbone=model))
    deadline = time.monotonic() + 120
    while not any(int(path.stem.split("-")[1]) >= step for path in run.glob("*/states/state-*.sp")):
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    time.sleep(pause)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    train_all(recipes, run, backbone=model)
    assert bits(run, list(recipes)) == wanted


def test_states_that_only_some_members_have_are_not_gone_on_from(
    whole: tuple[dict[str, Recipe], dict[str, bytes]], model: Backbone, tmp_path: Path
) -> None:
    recipes, wanted = whole

    def interrupt(event: dict[str, Any]) -> None:
        if event["event"] == "pass" and event["step"] == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped) as stop:
        train_all(recipes, tmp_path / "all", backbone=model, listen=interrupt)
    assert stop.value.code == 143
    states = sorted((tmp_path / "all" / "patience-null_seed-1" / "states").glob("*.sp"))
    states[-1].write_bytes(states[-1].read_bytes()[:-20])
    notes: list[str] = []
    resume_all(tmp_path / "all", backbone=model, listen=lambda event: notes.append(str(event.get("text"))))
    assert any("SP-E503" in note for note in notes)
    assert bits(tmp_path / "all", list(recipes)) == wanted


def test_two_tasks_are_trained_in_one_sweep_and_not_compared(folder: Path, model: Backbone, tmp_path: Path) -> None:
    other = tiny_runs.write_rows(folder / "other.csv", 30, seed=5)
    recipes = members(folder, f"data.train={folder / 'train.csv'}|{other}", "data.test=null")
    swept = train_all(recipes, tmp_path / "all", backbone=model)
    assert [entry.name for entry in swept.entries] == ["data-train", "data-other"]
    assert swept.best == swept.entries
    for name, recipe in recipes.items():
        train(recipe, tmp_path / name, backbone=model)
        assert_same_run(tmp_path / "all" / name, tmp_path / name)


def test_members_in_several_passes_are_those_of_one(folder: Path, model: Backbone, tmp_path: Path) -> None:
    recipes = members(folder, "seed=0,1,2")
    for at_once in (2, 3):
        train_all(recipes, tmp_path / str(at_once), backbone=model, at_once=at_once)
    for name in recipes:
        assert_same_run(tmp_path / "2" / name, tmp_path / "3" / name)


def test_the_best_is_chosen_on_dev_whatever_test_says() -> None:
    def entry(name: str, dev: float, test: float) -> Entry:
        return Entry(name, Path(name), {"scores": [{"value": test}]}, None, {}, (dev, 0.0), "the same")

    assert Swept(Path(), [entry("a", 0.7, 0.9), entry("b", 0.8, 0.1), entry("c", 0.8, 1.0)]).best[0].name == "b"


def test_a_folder_of_another_sweep_or_of_a_run_is_left_alone(folder: Path, model: Backbone, tmp_path: Path) -> None:
    train_all(members(folder, "seed=0,1"), tmp_path / "all", backbone=model)
    with pytest.raises(TrainingError, match="SP-E514"):
        train_all(members(folder, "seed=0,2"), tmp_path / "all", backbone=model)
    with pytest.raises(TrainingError, match="SP-E510"):
        train_all(members(folder, "seed=0,1"), tmp_path / "all" / "seed-0", backbone=model)
    with pytest.raises(TrainingError, match="SP-E511"):
        resume_all(tmp_path)


@pytest.mark.parametrize(
    ("over", "found"),
    [
        ("0.1,0.3", "without a key"),
        ("lr=", "no value"),
        ("lr=0.1,0.1", "twice"),
        ("lr=0.1,lr=0.2", "twice"),
        ("leer=0.1", "did you mean"),
        ("name=a", "backbone.name or"),
        ("optim.rate=1", "no_such"),
    ],
)
def test_a_wrong_over_is_an_error_that_says_what_is_wrong(over: str, found: str) -> None:
    with pytest.raises(RecipeError, match="SP-E218") as error:
        parse([over])
    assert found in str(error.value) or found == "no_such"


def test_an_over_is_read_with_commas_bars_brackets_and_short_names() -> None:
    assert parse(["lr=0.1,0.3,seed=0|1", "length=2"]) == {
        "optim.lr": ["0.1", "0.3"],
        "train.seed": ["0", "1"],
        "method.length": ["2"],
    }
    assert parse(["method.options={a: 1, b: 2}|{a: 2}"]) == {"method.options": ["{a: 1, b: 2}", "{a: 2}"]}


def test_members_are_named_after_what_varies(folder: Path) -> None:
    base = tiny_runs.recipe(folder).model_dump(mode="json", exclude_unset=True)
    names = list(expand({"a": base, "b": base}, parse(["data.seed=0,1,seed=7", "init=text"])))
    assert names == [
        "a_data.seed-0_seed-7_init-text",
        "a_data.seed-1_seed-7_init-text",
        "b_data.seed-0_seed-7_init-text",
        "b_data.seed-1_seed-7_init-text",
    ]
    assert list(expand({"a": base}, {})) == ["a"]


@pytest.mark.parametrize("over", ["threads=1,2", "dtype=float32,bfloat16", "checkpointing=true,false"])
def test_what_concerns_the_one_backbone_cannot_vary(over: str, folder: Path, model: Backbone, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="SP-E219"):
        train_all(members(folder, over), tmp_path / "all", backbone=model)


def test_the_command_trains_shows_a_table_and_repeated_only_reads(
    folder: Path, model: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(tiny_runs.recipe(folder, *SHORT).to_yaml())
    command = ["sweep", str(recipe), "--over", "lr=0.1,0.3", "--run", str(tmp_path / "all")]
    assert main(command) == 0
    shown = capsys.readouterr()
    assert shown.out.count("best on dev") == 2  # in the table, and in words
    assert "±" in shown.out
    assert "next: softprompt predict" in shown.err
    before = bits(tmp_path / "all", ["lr-0.1", "lr-0.3"])
    assert main([*command, "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert [member["name"] for member in read["members"]] == ["lr-0.1", "lr-0.3"]
    assert read["best_on_dev"][0] in ("lr-0.1", "lr-0.3")
    assert all(member["dev"]["error"] > 0 for member in read["members"])
    assert main(["resume", str(tmp_path / "all")]) == 0
    assert bits(tmp_path / "all", ["lr-0.1", "lr-0.3"]) == before
    assert main(["evaluate", str(tmp_path / "all" / "lr-0.1" / "prompt.safetensors"), str(folder / "test.csv")]) == 0
    assert main(["sweep", str(recipe), "--over", "no=1"]) == 2


def test_members_that_differ_in_the_seed_only_are_averaged(folder: Path, model: Backbone, tmp_path: Path) -> None:
    swept = train_all(members(folder, "seed=0,1,length=2,3"), tmp_path / "all", backbone=model)
    found = {tuple(names): score for names, score in swept.over_seeds}
    assert list(found) == [("seed-0_length-2", "seed-1_length-2"), ("seed-0_length-3", "seed-1_length-3")]
    values = [entry.report["scores"][0]["value"] for entry in swept.entries if entry.report]
    assert found["seed-0_length-2", "seed-1_length-2"].value == pytest.approx((values[0] + values[2]) / 2)
    assert all(score.seeds == 2 for score in found.values())
