"""Who else can teach a short prompt: a text, a LoRA, a tuned model, one tuned here, a prompt over another model."""

import json
import os
import shutil
import signal
from dataclasses import replace

import pytest
import tiny_runs
import tokenizers_tiny
import torch

from softprompt.artifact import Artifact
from softprompt.backbones import load_backbone
from softprompt.errors import DataError, SoftpromptError, TrainingError
from softprompt.plan import make_plan
from softprompt.prompt import Prompt, without_prompt
from softprompt.recipe import ADAPTER
from softprompt.run import Stopped
from softprompt.template import Template
from softprompt.training import train
from softprompt.transfer import distill as module
from softprompt.transfer.distill import distill
from softprompt.transfer.sources import named
from softprompt.transfer.taught import asked
from softprompt.transfer.teachers import of_adapter, of_model, of_prompt, of_text, tuned_here
from softprompt.untrained import build

WORDS = "task.head=verbalizer"
TEXT = "w7 w8\n\nw12 w13 w14 w9 w6\nw52 w53 w9 w5\n{text} w9 {mask}\n"


def untrained(bench, *settings: str) -> tuple:
    plan = make_plan(bench.recipe(WORDS, *settings), bench.backbone)
    return plan, build(plan, bench.backbone)


def answers(teacher, bench, *settings: str) -> list[str]:
    plan, student = untrained(bench, *settings)
    told = teacher.ask(plan, student, lambda event: None)
    return [one.answer for one in told.predict(plan.test)]


@pytest.fixture(scope="module")
def tuned(bench, tmp_path_factory):
    """A folder with a model of other weights, and a run with a LoRA of its own."""
    folder = tmp_path_factory.mktemp("tuned")
    backbone = tiny_runs.open_model(bench.folder)
    with torch.no_grad():
        torch.manual_seed(5)
        for weight in backbone.model.parameters():
            weight.add_(0.5 * weight.std() * torch.randn_like(weight))
    backbone.model.save_pretrained(folder / "model")
    backbone.tokenizer.save_pretrained(folder / "model")
    joint = ("lora.rank=2", "lora.lr=0.05", "train.steps=4", WORDS)
    train(bench.recipe(*joint), folder / "joint", backbone=bench.backbone)
    return folder


def test_a_text_is_asked_as_it_stands_and_its_words_are_where_the_student_begins(bench, tmp_path) -> None:
    path = tmp_path / "shown.txt"
    path.write_text(TEXT)
    plan, student = untrained(bench)
    told = of_text(path).ask(plan, student, lambda event: None)
    written = bench.backbone.tokenizer.decode(told.row(plan.test[0], labelled=False).ids)
    assert written.split()[-1] == "w9"
    assert "w12 w13 w14 w9 w6" in " ".join(written.split())
    assert plan.test[0].fields["text"] in " ".join(written.split())
    made = distill(bench.recipe(WORDS), of_text(path), tmp_path / "d", length=3, backbone=bench.backbone)
    begun = Artifact.load(made.student.prompt).card.recipe["init"]
    assert (begun["kind"], begun["text"].split()[:3]) == ("text", ["w7", "w8", "w12"])
    assert made.lengths == (None, 3)
    assert Artifact.load(made.control.prompt).card.recipe["init"]["kind"] == "vocabulary"
    assert made.as_dict()["taught_by"] == "a text"


def test_a_tuned_model_and_a_lora_answer_without_a_prompt(bench, tuned) -> None:
    plan, student = untrained(bench)
    bare = without_prompt(student)
    for teacher, backbone in (
        (of_model(tuned / "model"), load_backbone(tuned / "model")),
        (
            of_adapter(tuned / "joint" / ADAPTER),
            load_backbone(bench.folder / "llama", adapter=tuned / "joint" / ADAPTER),
        ),
    ):
        told = teacher.ask(plan, student, lambda event: None)
        assert told.backbone.fingerprint == backbone.fingerprint != bench.backbone.fingerprint
        wanted = Prompt(backbone, bare.method, bare.head, bare.template, bare.task)
        for mine, theirs in zip(asked(told, plan.dev, 9), asked(wanted, plan.dev, 9), strict=True):
            torch.testing.assert_close(mine, theirs)
        assert len(answers(teacher, bench)) == len(plan.test)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_model_can_be_tuned_first_and_leaves_the_backbone_as_it_was(bench, tmp_path, kind) -> None:
    before, heard = bench.backbone.fingerprint, []
    weights = [weight.clone() for weight in bench.backbone.model.parameters()]
    settings = (WORDS, "train.steps=12", "train.evaluate_every=6")
    teacher, place = tuned_here(kind), tmp_path / "d"
    made = distill(bench.recipe(*settings), teacher, place, length=2, backbone=bench.backbone, listen=heard.append)
    assert sum("tuning the teacher" in event.get("text", "") for event in heard) == 3, "a note for every rate"
    assert bench.backbone.fingerprint == before
    assert all(torch.equal(a, b) for a, b in zip(weights, bench.backbone.model.parameters(), strict=True))
    plan = make_plan(bench.recipe(*settings), bench.backbone)
    assert len(json.loads((place / "teacher.json").read_text())["answers"]) == len(plan.test)
    assert made.teacher["n"] == len(plan.test)


def test_a_prompt_with_a_lora_under_it_teaches_one_on_the_bare_model(bench, tuned, tmp_path) -> None:
    (source,) = named([tuned / "joint"])
    home = load_backbone(bench.folder / "llama", adapter=tuned / "joint" / ADAPTER)
    with pytest.raises(SoftpromptError, match="SP-E320"):
        distill(bench.recipe(WORDS), source, tmp_path / "x", length=2, backbone=bench.backbone)
    made = distill(
        bench.recipe(WORDS), of_prompt(source, lambda: home), tmp_path / "d", length=2, backbone=bench.backbone
    )
    student = Artifact.load(made.student.prompt)
    student.bind(bench.backbone)
    assert student.card.parents == ("joint-2.safetensors",), "it begins at vectors of its teacher all the same"
    long = source.artifact.tensors["method.prompt"]
    start = Artifact.load(tmp_path / "d" / "sources" / "joint-2.safetensors").tensors["method.prompt"]
    assert all(any(torch.equal(row, own) for own in long) for row in start)


def test_a_teacher_is_asked_once_however_often_the_run_is_stopped(bench, tmp_path, monkeypatch) -> None:
    path = tmp_path / "shown.txt"
    path.write_text(TEXT)
    recipe = bench.recipe(WORDS, "train.save_seconds=1e-6")
    whole = distill(recipe, of_text(path), tmp_path / "whole", length=2, backbone=bench.backbone)

    def stop(event: dict) -> None:
        if event["event"] == "pass" and event["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        distill(recipe, of_text(path), tmp_path / "d", length=2, backbone=bench.backbone, listen=stop)
    monkeypatch.setattr(module, "consult", None)  # it would be called for an answer
    made = distill(recipe, of_text(path), tmp_path / "d", length=2, backbone=bench.backbone)
    assert made.student.prompt.read_bytes() == whole.student.prompt.read_bytes()
    assert made.as_dict()["against_teacher"] == whole.as_dict()["against_teacher"]


def test_a_folder_keeps_to_one_teacher_and_one_number_of_tokens(bench, tmp_path) -> None:
    near, far = bench.sources("near", "far")
    given = {"length": 2, "backbone": bench.backbone}
    distill(bench.recipe(), near, tmp_path / "d", **given)
    with pytest.raises(TrainingError, match=r"SP-E514.*another teacher"):
        distill(bench.recipe(), far, tmp_path / "d", **given)
    with pytest.raises(TrainingError, match=r"SP-E514.*another top"):
        distill(bench.recipe(), near, tmp_path / "d", **given, top=3)


def test_all_classes_are_kept_however_few_tokens_are_asked_for(bench) -> None:
    plan, student = untrained(bench)
    ids, chances = asked(student, plan.dev[:2], 1)[0]
    assert ids.shape == chances.shape == (1, 2)
    assert chances.exp().sum().item() == pytest.approx(1.0, abs=1e-5)


def test_where_answers_are_written_their_tokens_must_be_those_of_the_student(bench, tmp_path, monkeypatch) -> None:
    path = tmp_path / "shown.txt"
    path.write_text(TEXT)
    given, written = {"length": 2, "backbone": bench.backbone}, ("task.kind=generation", "train.steps=1")
    made = distill(bench.recipe(*written), of_text(path), tmp_path / "d", **given)
    assert made.title == "a text"
    ask = of_text(path).ask

    def otherwise(plan, student, listen):
        told = ask(plan, student, listen)
        monkeypatch.setattr(told.template, "continue_with", lambda text: [7, 8])
        return told

    with pytest.raises(SoftpromptError, match=r"SP-E624 found answers of other tokens"):
        distill(bench.recipe(*written), replace(of_text(path), ask=otherwise), tmp_path / "x", **given)


def test_teachers_that_cannot_answer_are_refused(bench, tuned, tmp_path) -> None:
    given = {"length": 2, "backbone": bench.backbone}
    for text in ("{text} and no place for an answer", "{soft:2}{text} {mask}"):
        (tmp_path / "bad.txt").write_text(text)
        with pytest.raises(SoftpromptError, match="SP-E851"):
            distill(bench.recipe(WORDS), of_text(tmp_path / "bad.txt"), tmp_path / "x", **given)
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe{text}")
    with pytest.raises(DataError, match="SP-E105"):
        of_text(tmp_path / "bytes.txt")
    other = tmp_path / "other"
    shutil.copytree(tuned / "model", other)
    tokenizers_tiny.words(90).save_pretrained(other)
    with pytest.raises(SoftpromptError, match="SP-E850"):
        distill(bench.recipe(WORDS), of_model(other), tmp_path / "x", **given)
    assert not (tmp_path / "x").exists(), "nothing is left of what was refused"


def test_a_text_is_a_template_without_vectors(bench, tmp_path) -> None:
    path = tmp_path / "shown.txt"
    path.write_text(TEXT)
    plan, student = untrained(bench)
    told = of_text(path).ask(plan, student, lambda event: None)
    assert told.template.vectors == 0
    assert told.template.hash == Template(TEXT.rstrip(), bench.backbone, length=1).hash
    assert told.inject(told.batch([told.row(plan.test[0])])).embeds is None
