"""Reptile and first-order MAML do what their formulas say, for any method, and no kill undoes a round."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch

from softprompt.artifact import Artifact
from softprompt.errors import SoftpromptError, TrainingError
from softprompt.plan import make_plan
from softprompt.recipe import Recipe
from softprompt.run import Stopped
from softprompt.training import order
from softprompt.transfer.metainit import Learner, Task, brief, meta
from softprompt.transfer.sources import placed
from softprompt.untrained import build

STEPS, RATE = 2, 0.3  # of an adaptation, in embeddings


@pytest.fixture(scope="module")
def recipes(bench) -> dict[str, Recipe]:
    """Three tasks of one kind."""
    made = {}
    for i, name in enumerate("abc"):
        given = bench.recipe()
        train = str(tiny_runs.write_rows(bench.folder / f"meta-{name}.csv", 24 + 4 * i, seed=30 + i))
        made[name] = given.model_copy(update={"data": given.data.model_copy(update={"train": train})})
    return made


def learner(bench, recipes: dict[str, Recipe], rule: str) -> Learner:
    plans = {name: make_plan(brief(recipe, STEPS), bench.backbone) for name, recipe in recipes.items()}
    known = [Task(name, plan, build(plan, bench.backbone), rule, lambda event: None) for name, plan in plans.items()]
    return Learner(known, rule, rounds=10, steps=STEPS, tasks=2, rate=0.5)


def clipped(grad: torch.Tensor, rate: float) -> torch.Tensor:
    """At most 1 in units of the rate."""
    return grad * min(1.0, 1 / (grad * rate).norm().item())


def loss_at(task: Task, vectors: torch.Tensor, rows: list) -> torch.Tensor:
    """The mean loss of rows with these vectors, padded."""
    method = task.prompt.method
    kept = method.prompt.detach().clone()
    with torch.no_grad():
        method.prompt.copy_(vectors)
    batch = task.prompt.batch(rows)
    loss = task.prompt.loss(batch) / len(rows)
    (grad,) = torch.autograd.grad(loss, [method.prompt])
    with torch.no_grad():
        method.prompt.copy_(kept)
    return grad


def adapted(task: Task, theta: torch.Tensor, number: int) -> torch.Tensor:
    """AdamW's first steps written out: moments with bias correction, no decay."""
    point, first, second = theta.clone(), torch.zeros_like(theta), torch.zeros_like(theta)
    rate = RATE * task.prompt.backbone.spec.rms
    for t in range(1, STEPS + 1):
        chosen = order(len(task.rows), 8, 0, number * STEPS + t - 1)
        grad = clipped(loss_at(task, point, [task.rows[i] for i in chosen]), rate)
        first, second = 0.9 * first + 0.1 * grad, 0.999 * second + 0.001 * grad.square()
        point = point - rate * (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
    return point


def drawn(work: Learner, number: int) -> list[Task]:
    generator = torch.Generator().manual_seed(number)
    return [work.known[i] for i in sorted(torch.randperm(3, generator=generator)[:2].tolist())]


def test_reptile_moves_towards_the_mean_of_the_adapted_prompts(bench, recipes) -> None:
    """t + e (1 - n / N) mean_k(p_k - t)."""
    work = learner(bench, recipes, "reptile")
    for number in (0, 1):
        theta = work.theta()["prompt"]
        wanted = torch.stack([adapted(task, theta, number) - theta for task in drawn(work, number)]).mean(0)
        work.round(number)
        moved = work.theta()["prompt"] - theta
        torch.testing.assert_close(moved, 0.5 * (1 - number / 10) * wanted, atol=2e-5, rtol=1e-3)
        assert moved.abs().max() > 1e-3


def test_first_order_maml_takes_the_gradient_at_the_adapted_point_on_other_rows(bench, recipes) -> None:
    work = learner(bench, recipes, "fomaml")
    theta = work.theta()["prompt"]
    chosen, grads = drawn(work, 0), []
    for task in chosen:
        assert not {id(row) for row in task.rows} & {id(row) for row in task.asked}
        rows = [task.asked[i] for i in order(len(task.asked), 8, 0, 0)]
        grads.append(loss_at(task, adapted(task, theta, 0), rows))
    work.round(0)
    rate = 0.5 * RATE * bench.backbone.spec.rms
    grad = clipped(torch.stack(grads).mean(0), rate)
    found = work.method.prompt.grad
    torch.testing.assert_close(found, grad, atol=1e-5 * float(grad.abs().max()) + 1e-7, rtol=2e-3)
    torch.testing.assert_close(
        work.theta()["prompt"], theta - work.optimizer.param_groups[0]["lr"] * found.sign(), atol=1e-4, rtol=1e-3
    )


COURSE: dict[str, Any] = {"rounds": 4, "steps": 2, "tasks": 2}


def quick(recipes: dict[str, Recipe]) -> dict[str, Recipe]:
    """The same, with a state after every round."""
    return {
        name: recipe.model_copy(update={"train": recipe.train.model_copy(update={"save_seconds": 1e-6})})
        for name, recipe in recipes.items()
    }


@pytest.fixture(scope="module")
def whole(bench, recipes, tmp_path_factory) -> dict[str, Path]:
    """A start of each rule that nobody disturbed."""
    folder = tmp_path_factory.mktemp("meta")
    for rule in ("reptile", "fomaml"):
        meta(quick(recipes), folder / rule, rule=rule, **COURSE, backbone=bench.backbone)
    return {rule: folder / rule for rule in ("reptile", "fomaml")}


@pytest.mark.parametrize("rule", ["reptile", "fomaml"])
def test_killed_in_a_round_or_told_to_stop_it_goes_on_to_the_same_bits(bench, recipes, whole, tmp_path, rule) -> None:
    def at(step: int, number: int):
        def listen(event: dict[str, Any]) -> None:
            if event["event"] == "pass" and event["step"] == step:
                os.kill(os.getpid(), number)

        return listen

    given = {"rule": rule, **COURSE, "backbone": bench.backbone}
    child = os.fork()
    if not child:
        try:
            meta(quick(recipes), tmp_path, **given, listen=at(2, signal.SIGKILL))
        finally:
            os._exit(99)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    with pytest.raises(Stopped):
        meta(quick(recipes), tmp_path, **given, listen=at(3, signal.SIGTERM))
    meta(quick(recipes), tmp_path, **given)
    assert (tmp_path / "prompt.safetensors").read_bytes() == (whole[rule] / "prompt.safetensors").read_bytes()
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [event["step"] for event in log] == [1, 2, 3, 4]


def test_the_start_is_a_prompt_that_runs_begin_at(bench, recipes, whole) -> None:
    path = whole["reptile"] / "prompt.safetensors"
    plan = make_plan(bench.recipe(), bench.backbone)
    begun = placed(plan, path, bench.backbone)
    assert torch.equal(begun.method.prompt, Artifact.load(path).tensors["method.prompt"])
    assert not torch.equal(begun.method.prompt, build(plan, bench.backbone).method.prompt)


def test_keys_and_values_and_trained_heads_are_started_too(bench, recipes, tmp_path) -> None:
    settings = {"method": {"name": "prefix", "length": 4}}
    base = {name: Recipe.model_validate(recipe.model_dump() | settings) for name, recipe in recipes.items()}
    made = meta(base, tmp_path / "prefix", rounds=1, steps=1, tasks=1, backbone=bench.backbone)
    plan = make_plan(next(iter(base.values())), bench.backbone)
    assert placed(plan, made.path, bench.backbone).method.length == 4
    heads = {
        name: recipe.model_copy(update={"task": recipe.task.model_copy(update={"head": "classifier"})})
        for name, recipe in recipes.items()
    }
    made = meta(heads, tmp_path / "heads", rule="fomaml", rounds=1, steps=1, tasks=2, backbone=bench.backbone)
    fresh = build(make_plan(heads["a"], bench.backbone), bench.backbone)
    assert torch.equal(Artifact.load(made.path).tensors["head.linear.weight"], fresh.head.linear.weight.detach())
    assert made.losses.keys() == {"a", "b", "c"}


def test_what_cannot_share_a_start_or_leaves_none_is_refused(bench, recipes, whole, tmp_path) -> None:
    def methods(**sections: Any) -> dict[str, Recipe]:
        one = Recipe.model_validate(recipes["a"].model_dump() | {"method": sections})
        return {"a": one, "b": recipes["b"]}

    with pytest.raises(SoftpromptError, match="SP-E712"):
        meta(methods(name="prompt_tuning", length=2), tmp_path / "x", backbone=bench.backbone)
    dept = {"a": methods(name="dept", length=4, options={"rank": 2, "tokens": 16})["a"]}
    with pytest.raises(SoftpromptError, match="SP-E713"):
        meta(dept, tmp_path / "y", backbone=bench.backbone)
    with pytest.raises(TrainingError, match=r"SP-E514 .*settings"):
        meta(quick(recipes), whole["reptile"], rounds=5, backbone=bench.backbone)


def test_a_gradient_that_is_not_finite_is_an_error_and_moves_nothing(bench, recipes, monkeypatch) -> None:
    work = learner(bench, recipes, "fomaml")
    before = work.theta()
    broken = {name: torch.full_like(weight, torch.nan) for name, weight in work.method.named_parameters()}
    monkeypatch.setattr(Task, "gradient", lambda self, number: (broken, 0))
    with pytest.raises(TrainingError, match="SP-E520"):
        work.round(0)
    assert all(torch.equal(before[name], weight) for name, weight in work.theta().items())
