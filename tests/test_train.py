import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch

from softprompt import checkpoint
from softprompt.artifact import Artifact
from softprompt.backbones import Backbone, precision
from softprompt.errors import TrainingError
from softprompt.plan import make_plan
from softprompt.prompt import Prompt
from softprompt.recipe import Recipe
from softprompt.run import Stopped
from softprompt.training import order, resume, train
from softprompt.untrained import build

METHODS = {
    "prompt_tuning": [],
    "prefix": ["method.name=prefix"],
    "prefix-mlp": ["method.name=prefix", "method.options={bottleneck: 16, dropout: 0.2}"],
    "p_tuning": ["method.name=p_tuning"],
    "p_tuning-mlp": ["method.name=p_tuning", "method.options={encoder: mlp}"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def model(folder: Path) -> Backbone:
    torch.manual_seed(0)
    return tiny_runs.open_model(folder)


def losses(run: Path) -> list[str]:
    return (run / "log.jsonl").read_text().splitlines()


def alone(work: Callable[[], object]) -> int:
    """Run `work` in a process of its own, which can be killed; its process id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except SystemExit as stop:
        os._exit(int(stop.code or 0))
    except BaseException:
        os._exit(99)
    os._exit(0)


def train_until_killed(made: Recipe, run: Path, model: Backbone, moments: list[tuple[int, float]]) -> int:
    """Train, and kill the process a while after each of the given steps; how many kills hit a living run."""
    kills = 0
    for step, pause in [*moments, (10**9, 0.0)]:
        going_on = (run / "recipe.yaml").exists()
        child = alone((lambda: resume(run, backbone=model)) if going_on else (lambda: train(made, run, backbone=model)))
        status = wait_for(child, run, step)
        if status is None:
            time.sleep(pause)
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        kills += 1
    return kills


def wait_for(child: int, run: Path, step: int) -> int | None:
    """Wait until the run has saved a step; its status if it ends before."""
    while step and not any(int(path.stem.split("-")[1]) >= step for path in (run / "states").glob("state-*.sp")):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.0005)
    return None


@pytest.mark.parametrize("method", METHODS)
def test_training_lowers_the_loss_and_leaves_the_backbone_as_it_was(
    method: str, folder: Path, model: Backbone, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    result = train(tiny_runs.recipe(folder, *METHODS[method], "train.epochs=8"), tmp_path / "run", backbone=model)
    steps = [json.loads(line)["loss"] for line in losses(tmp_path / "run") if '"step"' in line and '"norm"' in line]
    assert sum(steps[-5:]) < sum(steps[:5])
    assert all(value.equal(before[name]) for name, value in model.model.state_dict().items())
    assert all(weight.grad is None and not weight.requires_grad for weight in model.model.parameters())
    assert result.artifact.exists()


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix-mlp"])
def test_the_same_recipe_gives_the_same_bits(method: str, folder: Path, model: Backbone, tmp_path: Path) -> None:
    made = tiny_runs.recipe(folder, *METHODS[method])
    first, second = (train(made, tmp_path / name, backbone=model).artifact.read_bytes() for name in ("a", "b"))
    assert first == second
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("trial", range(5))
def test_a_run_killed_at_any_moment_resumes_to_the_same_bits(
    trial: int, method: str, folder: Path, model: Backbone, tmp_path: Path
) -> None:
    """25 runs, each killed up to three times: while it starts, then some milliseconds after steps of the run."""
    settings = [*METHODS[method], "train.accumulate=2", "train.epochs=4", "train.evaluate_every=4"]
    made = tiny_runs.recipe(folder, *settings)
    whole = folder / f"whole-{method}"
    if not whole.exists():
        train(made, whole, backbone=model)
    rng = random.Random(f"{trial} {method}")
    moments = [(step, rng.uniform(0, 0.04)) for step in (trial, trial + 3, trial + 6)]
    assert train_until_killed(made, tmp_path / "run", model, moments) >= 2
    assert (tmp_path / "run" / "prompt.safetensors").read_bytes() == (whole / "prompt.safetensors").read_bytes()
    assert losses(tmp_path / "run") == losses(whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_state_and_says_so_with_its_exit_code(
    number: signal.Signals, code: int, folder: Path, model: Backbone, tmp_path: Path
) -> None:
    made = tiny_runs.recipe(folder, "train.epochs=3", "train.save_seconds=1000")
    whole = train(made, tmp_path / "whole", backbone=model).artifact.read_bytes()

    def interrupt(event: dict[str, object]) -> None:
        if event["event"] == "step" and event["step"] == 7:
            os.kill(os.getpid(), number)

    with pytest.raises(Stopped) as stop:
        train(made, tmp_path / "run", backbone=model, listen=interrupt)
    assert stop.value.code == code
    state, _ = checkpoint.newest(tmp_path / "run" / "states")
    assert state is not None
    assert state.step == 7
    assert resume(tmp_path / "run", backbone=model).artifact.read_bytes() == whole


def test_a_damaged_newest_state_is_passed_over(folder: Path, model: Backbone, tmp_path: Path) -> None:
    made = tiny_runs.recipe(folder)
    whole = train(made, tmp_path / "run", backbone=model).artifact.read_bytes()
    newest = sorted((tmp_path / "run" / "states").glob("*.sp"))[-1]
    newest.write_bytes(newest.read_bytes()[:-20])
    notes: list[str] = []
    again = resume(
        tmp_path / "run",
        backbone=model,
        listen=lambda event: notes.append(str(event)) if event["event"] == "note" else None,
    )
    assert again.artifact.read_bytes() == whole
    assert any("SP-E503" in note for note in notes)


def test_a_run_is_not_overwritten(folder: Path, model: Backbone, tmp_path: Path) -> None:
    made = tiny_runs.recipe(folder, "train.epochs=1")
    train(made, tmp_path / "run", backbone=model)
    with pytest.raises(TrainingError, match="SP-E510"):
        train(made, tmp_path / "run", backbone=model)


def test_a_run_does_not_go_on_with_other_data(model: Backbone, tmp_path: Path) -> None:
    made = tiny_runs.recipe(tmp_path, "train.epochs=1")
    train(made, tmp_path / "run", backbone=model)
    tiny_runs.write_rows(tmp_path / "train.csv", 40, seed=7)
    with pytest.raises(TrainingError, match="SP-E512"):
        resume(tmp_path / "run", backbone=model)


def test_a_run_does_not_go_on_with_another_backbone(folder: Path, model: Backbone, tmp_path: Path) -> None:
    train(tiny_runs.recipe(folder, "train.epochs=1"), tmp_path / "run", backbone=model)
    other = tiny_runs.open_model(tmp_path)
    next(other.model.parameters()).data.add_(0.01)
    with pytest.raises(TrainingError, match="SP-E512"):
        resume(tmp_path / "run", backbone=other)


def test_there_is_nothing_to_resume_in_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="SP-E511"):
        resume(tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_state(
    folder: Path, model: Backbone, tmp_path: Path
) -> None:
    made = tiny_runs.recipe(folder, "train.epochs=4")
    whole = train(made, tmp_path / "whole", backbone=model).artifact.read_bytes()
    prompts: list[Prompt] = []

    def poison(event: dict[str, Any]) -> None:
        if event["event"] == "plan":
            prompts.append(event["prompt"])
        if event["event"] == "step" and event["step"] == 6:  # the loss, not the weights: those may be saved after this
            loss = prompts[0].loss
            prompts[0].loss = lambda *given: loss(*given) * float("nan")  # type: ignore[method-assign]

    with pytest.raises(TrainingError, match=r"SP-E520.*step 7"):
        train(made, tmp_path / "run", backbone=model, listen=poison)
    state, _ = checkpoint.newest(tmp_path / "run" / "states")
    assert state is not None
    assert 1 <= state.step <= 6  # how many steps were saved depends on how long saving takes
    assert all(bool(tensor.isfinite().all()) for tensor in state.tensors.values())
    assert resume(tmp_path / "run", backbone=model).artifact.read_bytes() == whole


def test_accumulated_batches_take_the_same_step_as_one_large_batch(
    folder: Path, model: Backbone, tmp_path: Path
) -> None:
    one = train(tiny_runs.recipe(folder, "train.batch_size=8", "train.epochs=1"), tmp_path / "one", backbone=model)
    parts = ["train.batch_size=3", "train.accumulate=3", "train.epochs=1"]
    whole = ["train.batch_size=9", "train.epochs=1"]
    many = train(tiny_runs.recipe(folder, *parts), tmp_path / "many", backbone=model)
    large = train(tiny_runs.recipe(folder, *whole), tmp_path / "large", backbone=model)
    assert one.artifact.read_bytes() != large.artifact.read_bytes()
    for name, tensor in Artifact.load(many.artifact).tensors.items():
        torch.testing.assert_close(tensor, Artifact.load(large.artifact).tensors[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix"])
def test_activation_checkpointing_changes_nothing(method: str, folder: Path, model: Backbone, tmp_path: Path) -> None:
    runs_of = [
        train(
            tiny_runs.recipe(folder, *METHODS[method], "train.epochs=1", f"train.checkpointing={on}"),
            tmp_path / on,
            backbone=model,
        )
        for on in ("true", "false")
    ]
    first, second = (Artifact.load(run.artifact).tensors for run in runs_of)
    assert all(torch.allclose(tensor, second[name], atol=1e-6) for name, tensor in first.items())


def test_every_epoch_sees_every_example_once_in_a_new_order() -> None:
    steps = [order(10, 4, seed=3, number=number) for number in range(6)]
    first, second = steps[0] + steps[1] + steps[2], steps[3] + steps[4] + steps[5]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_patience_ends_a_run_that_stopped_improving(folder: Path, model: Backbone, tmp_path: Path) -> None:
    made = tiny_runs.recipe(folder, "train.epochs=60", "train.patience=2", "optim.lr=3.0")  # too large: dev gets worse
    train(made, tmp_path / "run", backbone=model)
    done = [json.loads(line)["step"] for line in losses(tmp_path / "run")]
    assert max(done) < 60 * make_plan(made, model).steps_per_epoch


def test_the_best_state_on_dev_is_kept_and_not_the_last(folder: Path, model: Backbone, tmp_path: Path) -> None:
    made = tiny_runs.recipe(folder, "train.epochs=6", "optim.lr=0.3")
    result = train(made, tmp_path / "run", backbone=model)
    keys = [tuple(json.loads(line)["key"]) for line in losses(tmp_path / "run") if '"key"' in line]
    from softprompt.evaluate import dev_score

    assert tuple(dev_score(result.prompt, make_plan(made, model))["key"]) == pytest.approx(max(keys), abs=1e-5)


def test_the_untrained_prompt_of_a_plan_is_the_same_twice(folder: Path, model: Backbone) -> None:
    plan = make_plan(tiny_runs.recipe(folder, "method.name=p_tuning"), model)
    first, second = build(plan, model).state_dict(), build(plan, model).state_dict()
    assert all(value.equal(second[name]) for name, value in first.items())


def test_a_warm_start_begins_at_the_stored_prompt(folder: Path, model: Backbone, tmp_path: Path) -> None:
    stored = train(tiny_runs.recipe(folder), tmp_path / "run", backbone=model).artifact
    plan = make_plan(tiny_runs.recipe(folder, f"init.source={stored}"), model)
    began = build(plan, model).state_dict()["method.prompt"]
    assert began.equal(Artifact.load(stored).tensors["method.prompt"])
    again = train(plan.recipe, tmp_path / "next", backbone=model)
    assert Artifact.load(again.artifact).card.parents == ("prompt.safetensors",)


def test_tensorboard_gets_a_curve_when_asked(folder: Path, model: Backbone, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tiny_runs.recipe(folder, "train.track=[tensorboard]", "train.epochs=1"), tmp_path / "run", backbone=model)
    curves = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert len(curves.Scalars("step/loss")) == 5
    assert "dev/accuracy" in curves.Tags()["scalars"]


def test_a_run_can_be_resumed_from_another_folder(
    model: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny_runs.recipe(tmp_path, "train.epochs=1", "data.train=train.csv", "data.test=test.csv")
    monkeypatch.chdir(tmp_path)
    whole = train(made, tmp_path / "run", backbone=model).artifact.read_bytes()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert resume(tmp_path / "run", backbone=model).artifact.read_bytes() == whole


def test_mixed_precision_rounds_the_backbone_and_keeps_the_prompt_in_float32(
    folder: Path, model: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "capabilities", lambda: {"avx512_bf16": True})  # what rounds, not what is fast
    full, mixed = (
        Artifact.load(
            train(
                tiny_runs.recipe(folder, f"train.precision={kind}", "train.epochs=1"),
                tmp_path / kind,
                backbone=model,
            ).artifact
        ).tensors["method.prompt"]
        for kind in ("auto", "bfloat16")
    )
    assert mixed.dtype == torch.float32
    assert not mixed.equal(full)
    assert bool(mixed.isfinite().all())
