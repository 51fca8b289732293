"""A short prompt learns what a long one answers, label by label, beside one of its length that learns alone."""

import json
import math
from functools import partial
from types import SimpleNamespace

import pytest
import tiny_runs
import torch
from torch.nn import functional as F

from softprompt.artifact import Artifact
from softprompt.errors import SoftpromptError
from softprompt.plan import make_plan
from softprompt.prompt import Prompt
from softprompt.training import train
from softprompt.transfer.distill import distill, representatives
from softprompt.transfer.similarity import plain
from softprompt.transfer.sources import named
from softprompt.transfer.taught import Taught, answered, closed, key, keys, learned
from softprompt.untrained import build


def taught(bench, *settings: str, top: int = 96) -> tuple[Taught, Prompt, list]:
    """An untrained student of two vectors, a teacher of four, and rows of the student."""
    torch.manual_seed(1)
    teacher = build(make_plan(bench.recipe(*settings), bench.backbone), bench.backbone)
    plan = make_plan(bench.recipe("method.length=2", *settings), bench.backbone)
    plain = build(plan, bench.backbone)
    with torch.no_grad():
        teacher.method.prompt.add_(torch.randn_like(teacher.method.prompt))
    student = Taught(plain.backbone, plain.method, plain.head, plain.template, plain.task)
    examples = plan.train[:5]
    student.lessons = learned(teacher, student, examples, top)
    return student, teacher, examples


def divergence(student: Prompt, teacher: Prompt, examples: list, one: bool) -> float:
    """KL(teacher || student) written out: one row at a time, at the labels of each, over all classes or tokens."""
    total = 0.0
    for example in examples:
        told = []
        for prompt in (teacher, student):
            batch = prompt.batch([prompt.row(example)])
            output = prompt(batch)
            if one:
                told.append(prompt.head.scores(output, batch))
            else:
                labels = batch.labels[0][output.columns]
                told.append(output.logits[0][labels != -100].log_softmax(-1))
        total += F.kl_div(told[1], told[0], log_target=True, reduction="sum").item()
    return total


@pytest.mark.parametrize(("settings", "one"), [((), True), (("task.kind=generation",), False)])
@pytest.mark.parametrize("packs", [False, True])
def test_the_loss_is_the_divergence_from_the_teacher_where_a_label_stands(bench, settings, one, packs) -> None:
    student, teacher, examples = taught(bench, *settings)
    student.packs = packs
    loss = student.loss(student.batch([student.row(example) for example in examples]))
    assert loss.item() == pytest.approx(divergence(student, teacher, examples, one), rel=1e-3)
    assert loss.item() > 1e-4


@pytest.mark.parametrize("model", ["gpt2", "t5"])
def test_other_families_learn_from_the_chances_of_all_classes(tmp_path, model) -> None:
    settings = ("task.head=verbalizer",)
    backbone = tiny_runs.open_model(tmp_path, model)
    there = SimpleNamespace(backbone=backbone, recipe=partial(tiny_runs.recipe, tmp_path, model=model))
    student, teacher, examples = taught(there, *settings)
    loss = student.loss(student.batch([student.row(example) for example in examples]))
    assert loss.item() == pytest.approx(divergence(student, teacher, examples, True), rel=1e-3)
    assert loss.item() > 1e-5


def test_keys_and_values_are_distilled_from_those_of_the_teacher(bench, tmp_path) -> None:
    settings = ("method.name=prefix", "train.steps=2", "task.head=verbalizer")
    train(bench.recipe(*settings), tmp_path / "long", backbone=bench.backbone)
    (teacher,) = named([tmp_path / "long"])
    made = distill(bench.recipe(*settings), teacher, tmp_path / "d", length=2, backbone=bench.backbone)
    start = plain(Artifact.load(tmp_path / "d" / "sources" / "long-2.safetensors"))["stacks.encoder.prefix"]
    long = plain(teacher.artifact)["stacks.encoder.prefix"]
    assert start.shape == (3, 2, 2, 2, 8)
    assert all(any(torch.allclose(start[:, :, :, i], long[:, :, :, j]) for j in range(4)) for i in range(2))
    assert made.lengths == (4, 2)


def test_what_is_not_kept_of_the_teacher_counts_as_one_token() -> None:
    logs = torch.randn(3, 10).log_softmax(-1)
    ids = logs.topk(4, dim=1).indices
    made = closed(logs, ids)
    assert made.shape == (3, 5)
    torch.testing.assert_close(made.exp().sum(1), torch.ones(3))
    assert closed(logs, logs.topk(10, dim=1).indices).shape == (3, 10)


def test_fewer_kept_tokens_never_say_more_than_all_of_them(bench) -> None:
    whole, _, examples = taught(bench, "task.kind=generation")
    few, _, _ = taught(bench, "task.kind=generation", top=3)
    found = [one.loss(one.batch([one.row(e) for e in examples])).item() for one in (whole, few)]
    assert 0 < found[1] < found[0]


def test_a_student_that_answers_as_its_teacher_loses_nothing(bench) -> None:
    _, teacher, examples = taught(bench)
    same = Taught(teacher.backbone, teacher.method, teacher.head, teacher.template, teacher.task)
    same.lessons = learned(teacher, same, examples, 20)
    assert same.loss(same.batch([same.row(e) for e in examples])).item() == pytest.approx(0.0, abs=1e-5)


def test_a_batch_finds_the_lessons_of_its_rows_whatever_the_padding(bench) -> None:
    student, _, examples = taught(bench)
    rows = [student.row(example) for example in examples]
    for side in ("left", "right"):
        assert keys(student.batch(rows, side)) == [key(row) for row in rows]


def test_the_start_is_of_the_teachers_own_vectors_and_covers_them() -> None:
    rows = torch.tensor([[0.0, 0.0], [0.1, 0.0], [5.0, 5.0], [5.1, 5.0], [9.0, 0.0]])
    assert len(set(representatives(rows, 3)) & {0, 1}) == 1
    assert 4 in representatives(rows, 3)
    assert representatives(rows, 5) == [0, 1, 2, 3, 4]
    assert representatives(torch.zeros(4, 2), 2) == [0, 1], "equal vectors are still different ones"


def test_a_distilled_prompt_stands_beside_one_of_its_length_and_its_teacher(bench, tmp_path) -> None:
    teacher = bench.sources("near")[0]
    made = distill(bench.recipe("train.steps=20"), teacher, tmp_path, length=2, backbone=bench.backbone)
    student, control = (Artifact.load(entry.prompt) for entry in (made.student, made.control))
    assert student.tensors["method.prompt"].shape == control.tensors["method.prompt"].shape == (2, 32)
    assert student.card.parents == ("near-2.safetensors",)
    assert student.card.head.name == teacher.artifact.card.head.name
    start = Artifact.load(tmp_path / "sources" / "near-2.safetensors")
    long = teacher.artifact.tensors["method.prompt"]
    assert all(any(torch.equal(row, own) for own in long) for row in start.tensors["method.prompt"])
    log = [json.loads(line) for line in (tmp_path / "distilled" / "log.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in log if event["event"] == "dev"]
    assert min(losses) < losses[0] or losses[0] < 0.01
    assert all(math.isfinite(loss) for loss in losses)
    assert made.kept in (made.student, made.control)
    again = distill(bench.recipe("train.steps=20"), teacher, tmp_path, length=2, backbone=bench.backbone)
    assert again.as_dict() == made.as_dict() == json.loads((tmp_path / "distill.json").read_text())


@pytest.mark.parametrize(
    ("length", "settings"), [(4, ()), (9, ()), (2, ("task.head=classifier",)), (2, ("task.kind=generation",))]
)
def test_a_teacher_that_cannot_teach_is_refused(bench, tmp_path, length, settings) -> None:
    teacher = bench.sources("near")[0]
    with pytest.raises(SoftpromptError, match="SP-E624"):
        distill(bench.recipe(*settings), teacher, tmp_path, length=length, backbone=bench.backbone)


def test_answers_are_read_row_by_row_at_every_label(bench) -> None:
    student, _, examples = taught(bench, "task.kind=generation")
    batch = student.batch([student.row(example) for example in examples])
    output = student(batch)
    assert len(answered(student, output, batch)) == int((batch.labels != -100).sum())
