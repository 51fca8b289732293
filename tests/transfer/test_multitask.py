"""Source training of MPT: the loss is the paper's, one P* for all tasks, and what is left is where a target begins."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
from torch.nn import functional as F

from softprompt.artifact import Artifact
from softprompt.errors import SoftpromptError
from softprompt.methods.mpt import mean_prompt
from softprompt.plan import make_plan
from softprompt.prompt import Prompt
from softprompt.recipe import Recipe
from softprompt.run import Stopped
from softprompt.sections import MethodSection
from softprompt.transfer.multitask import source_train
from softprompt.transfer.sources import cautions, named, placed
from softprompt.transfer.students import Students, Task
from softprompt.untrained import build


@pytest.fixture(scope="module")
def recipes(bench) -> dict[str, Recipe]:
    """Three tasks; a state after every round."""
    made = {}
    for i, name in enumerate("abc"):
        given = bench.recipe("train.save_seconds=1e-6", "train.steps=3", "optim.lr=0.3")
        train = str(tiny_runs.write_rows(bench.folder / f"multi-{name}.csv", 24, seed=40 + i))
        made[name] = given.model_copy(update={"data": given.data.model_copy(update={"train": train})})
    return made


@pytest.fixture
def work(bench, recipes) -> Students:
    """Students that have moved, with teachers that are somewhere else."""
    known = []
    for i, (name, recipe) in enumerate(recipes.items()):
        plan = make_plan(recipe, bench.backbone)
        teacher = build(plan, bench.backbone).eval()
        torch.manual_seed(50 + i)
        with torch.no_grad():
            teacher.method.prompt.add_(torch.randn_like(teacher.method.prompt))
        known.append(Task(name, plan, teacher))
    made = Students(known, bench.backbone, total=6, weight=0.7, hidden=True)
    with torch.no_grad():
        for method in made.methods:
            method.row.add_(torch.randn_like(method.row) * 0.2)
            method.column.add_(torch.randn_like(method.column) * 0.2)
    return made


def written_out(task: Task, rows: list, weight: float) -> float:
    """L_task + w (KL(teacher || student) + |H - H_T|^2 / |H_T|^2), one row at a time, all classes."""
    own = kl = gap = size = 0.0
    for row in rows:
        told, states = [], []
        for prompt in (task.student, task.teacher):
            batch = prompt.batch([row])
            output = prompt.backbone(batch, prompt.inject(batch), columns=(batch.labels[0] != -100).nonzero()[:, 0])
            told.append(prompt.head.scores(output, batch))
            hidden = prompt.backbone(batch, prompt.inject(batch)).hidden[0]
            states.append(
                hidden[[i for i, slot in enumerate(row.slots) if slot == -1][: len(row.ids) - 4 - row.answer]]
            )
        own -= told[0][0, int(row.target)].item()
        kl += F.kl_div(told[0], told[1], log_target=True, reduction="sum").item()
        gap += (states[0] - states[1]).square().sum().item()
        size += states[1].square().sum().item()
    return own / len(rows) + weight * (kl / len(rows) + gap / size)


@pytest.mark.parametrize("packs", [True, False])
def test_the_loss_is_that_of_the_task_and_two_distances_from_the_teacher(work, packs) -> None:
    chosen = work.known[:2]
    for task in chosen:
        task.student.packs = packs
    rows = [task.rows[:5] for task in chosen]
    batches = [task.student.batch(some) for task, some in zip(chosen, rows, strict=True)]
    found = work.loss(chosen, batches).item()
    wanted = [written_out(task, some, 0.7) for task, some in zip(chosen, rows, strict=True)]
    assert found == pytest.approx(sum(wanted), rel=2e-3)
    work.hidden = False
    assert work.loss(chosen, batches).item() < found


def test_a_step_moves_the_shared_prompt_and_the_factors_of_those_that_took_part(work) -> None:
    before = {name: value.clone() for name, value in work.tensors().items()}
    facts = work.round(0)
    after = work.tensors()
    moved = {i for i in range(3) if not torch.equal(before[f"task/{i}/row"], after[f"task/{i}/row"])}
    assert len(moved) == facts["prompts"] >= 2
    assert not torch.equal(before["shared/value"], after["shared/value"])
    assert all(method.shared is work.shared for method in work.methods)
    rms = work.known[0].student.backbone.spec.rms
    assert work.rates == pytest.approx([0.3 * rms, 0.4]), "the paper's two rates, of P* in embeddings"


def test_every_number_of_tasks_takes_part_and_all_tasks_do(work) -> None:
    counts = {work.round(number)["prompts"] for number in range(6)}
    assert counts == {2, 3}
    assert all(method.row.grad is not None or bool(work.optimizer.state[method.row]) for method in work.methods)


@pytest.fixture(scope="module")
def whole(bench, recipes, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("multitask")
    source_train(recipes, folder, steps=3, backbone=bench.backbone)
    return folder


def test_a_target_begins_at_exactly_what_is_left(bench, recipes, whole) -> None:
    artifact = Artifact.load(whole / "prompt.safetensors")
    assert artifact.card.parents == ("a.safetensors", "b.safetensors", "c.safetensors")
    assert all((whole / "sources" / name).is_file() for name in artifact.card.parents)
    assert cautions(make_plan(recipes["b"], bench.backbone), named([whole])), "it was trained on this task too"
    recipe = bench.recipe().model_copy(update={"method": MethodSection(name="mpt", length=4)})
    begun = placed(make_plan(recipe, bench.backbone), whole / "prompt.safetensors", bench.backbone)
    assert torch.equal(begun.method.product(), artifact.tensors["method.prompt"])


def test_before_the_first_step_every_student_is_the_untrained_prompt(bench, recipes) -> None:
    plans = [make_plan(recipe, bench.backbone) for recipe in recipes.values()]
    known = [Task(str(i), plan, build(plan, bench.backbone).eval()) for i, plan in enumerate(plans)]
    made = Students(known, bench.backbone, 1, 0.9, True)
    start: Prompt = build(plans[0], bench.backbone)
    assert all(torch.equal(method.product(), start.method.prompt) for method in made.methods)
    torch.testing.assert_close(mean_prompt(made.methods), start.method.prompt.detach())


def test_killed_or_told_to_stop_it_goes_on_to_the_same_bits(bench, recipes, whole, tmp_path) -> None:
    def at(kind: str, step: int, number: int):
        def listen(event: dict[str, Any]) -> None:
            if event["event"] == kind and event["step"] == step:
                os.kill(os.getpid(), number)

        return listen

    child = os.fork()
    if not child:
        try:
            source_train(recipes, tmp_path, steps=3, backbone=bench.backbone, listen=at("step", 2, signal.SIGKILL))
        finally:
            os._exit(99)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    with pytest.raises(Stopped):
        source_train(recipes, tmp_path, steps=3, backbone=bench.backbone, listen=at("pass", 2, signal.SIGTERM))
    source_train(recipes, tmp_path, steps=3, backbone=bench.backbone)
    assert (tmp_path / "prompt.safetensors").read_bytes() == (whole / "prompt.safetensors").read_bytes()


def test_tasks_that_cannot_share_a_prompt_so_are_refused(bench, recipes, tmp_path) -> None:
    longer = recipes["b"].model_copy(update={"method": MethodSection(length=5)})
    trained = recipes["b"].model_copy(update={"task": recipes["b"].task.model_copy(update={"head": "classifier"})})
    for given in ({"a": recipes["a"]}, recipes | {"b": longer}, recipes | {"b": trained}):
        with pytest.raises(SoftpromptError, match="SP-E716"):
            source_train(given, tmp_path / "x", backbone=bench.backbone)
