"""Methods that look at the text see what is asked and nothing else, and train, save, load and write through the API."""

from pathlib import Path

import pytest
import speakers
import tiny_runs
import torch
from families import backbone, start
from torch.testing import assert_close

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.core import IGNORE, Example
from softprompt.errors import Unsupported
from softprompt.methods import find
from softprompt.prompt import Prompt
from softprompt.training import resume, train

LOOKING = ["idpg", "pt_moe", "smop"]
TASKS = [("llama", "lm"), ("gpt2", "verbalizer"), ("gpt2", "tagger"), ("bert", "verbalizer"), ("t5", "lm")]


def loud(method: str, family: str, head: str) -> Prompt:
    """A prompt whose vectors depend on the text by far more than rounding."""
    words = {"words": {"good": "warm and funny", "bad": "dull"}} if family == "gpt2" and head == "verbalizer" else {}
    prompt = speakers.prompt(family, method, head, task=words)
    with torch.no_grad():
        for weight in prompt.method.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    return prompt


@pytest.mark.parametrize("method", LOOKING)
@pytest.mark.parametrize(("family", "head"), TASKS)
@torch.no_grad()
def test_a_row_gets_the_prompt_in_training_that_it_gets_when_it_is_answered(
    method: str, family: str, head: str
) -> None:
    prompt = loud(method, family, head)
    taught = prompt.batch([prompt.row(example) for example in speakers.examples(head)])
    left = "right" if family == "t5" else "left"  # as generation pads
    asked = prompt.batch([prompt.row(example, labelled=False) for example in speakers.examples(head)], side=left)
    ours, theirs = prompt.inject(taught).embeds, prompt.inject(asked).embeds
    assert ours is not None
    assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours[0], ours[1], atol=1e-2)  # rows do differ


@pytest.mark.parametrize("method", LOOKING)
@torch.no_grad()
def test_every_class_is_scored_with_the_same_prompt(method: str) -> None:
    prompt = loud(method, "gpt2", "verbalizer")
    example = speakers.examples("verbalizer")[0]
    rows = [prompt.asked(example, word) for word in prompt.head.words]  # type: ignore[union-attr]
    assert len({len(row.ids) for row in rows}) > 1
    one, other = (prompt.inject(prompt.batch([row])).embeds for row in rows)
    assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_batch_says_which_tokens_are_the_answer(family: str) -> None:
    prompt = speakers.prompt(family, head="lm")
    examples = speakers.examples("lm")
    taught = [prompt.row(example) for example in examples]
    batch = prompt.batch(taught)
    bare = [prompt.row(example, labelled=False) for example in examples]
    assert prompt.batch(bare).answer is None
    for i, (row, plain) in enumerate(zip(taught, bare, strict=True)):
        assert row.answer == sum(label != IGNORE for label in row.labels) - 1 > 0  # the last is predicted, not read
        kept = [token for token, slot in zip(plain.ids, plain.slots, strict=True) if slot < 0]
        assert batch.input_ids[i][batch.question[i]].tolist() == kept


@pytest.mark.parametrize("method", LOOKING)
def test_images_have_no_text_to_look_at(method: str) -> None:
    with pytest.raises(Unsupported, match="SP-E410"):
        find(method)(backbone("vit").spec, start(backbone("vit")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def model(folder: Path) -> Backbone:
    return tiny_runs.open_model(folder)


@pytest.mark.parametrize("kind", ["classification", "generation"])
@pytest.mark.parametrize("method", LOOKING)
def test_a_trained_prompt_answers_the_same_from_its_file(
    method: str, kind: str, folder: Path, model: Backbone, tmp_path: Path
) -> None:
    settings = [f"method.name={method}", f"task.kind={kind}", "task.new_tokens=3", "train.epochs=6"]
    made = tiny_runs.recipe(folder, *settings)
    losses: list[float] = []
    result = train(
        made, tmp_path / "run", backbone=model, listen=lambda e: losses.append(e["loss"]) if "loss" in e else None
    )
    assert sum(losses[-5:]) < sum(losses[:5])
    examples = [words(i) for i in range(6)]
    expected = result.prompt.predict(examples)
    assert Artifact.load(result.artifact).bind(model).predict(examples) == expected
    assert [result.prompt.predict([example])[0].answer for example in examples] == [p.answer for p in expected]
    assert len({str(p.answer) for p in expected}) > 1


def words(number: int) -> Example:
    """A text of either class of `tiny_runs.write_rows`."""
    first = 10 if number % 2 else 50
    return Example({"text": " ".join(f"w{first + 3 * number + i}" for i in range(3 + number % 3))})


@pytest.mark.parametrize("method", LOOKING)
def test_a_run_that_is_stopped_goes_on_to_the_same_bits(
    method: str, folder: Path, model: Backbone, tmp_path: Path
) -> None:
    made = tiny_runs.recipe(folder, f"method.name={method}")
    whole = train(made, tmp_path / "whole", backbone=model).artifact.read_bytes()

    def stop(event: dict[str, object]) -> None:
        if event["event"] == "step" and event["step"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path / "run", backbone=model, listen=stop)
    assert resume(tmp_path / "run", backbone=model).artifact.read_bytes() == whole
