"""Demonstrations are written as the template writes the text, stay out of training, and may be voted over."""

from pathlib import Path

import pytest
import tiny_runs
import torch

from softprompt.artifact import Artifact
from softprompt.core import Example
from softprompt.errors import RecipeError
from softprompt.fewshot.demonstrations import demonstrated, over_sets, set_apart
from softprompt.plan import make_plan
from softprompt.training import reopen, train

SHOWN = [Example({"text": "dull {x}"}, label="neg"), Example({"text": "warm"}, label="pos")]
WORDS = {"neg": "bad", "pos": "great"}


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        (
            "{soft}{text}\nIt was {mask}",
            "{soft:4}dull {{x}}\nIt was bad\n\nwarm\nIt was great\n\n{text}\nIt was {mask}",
        ),
        ("{bos}{soft:1}a {text}{soft:3}{sep}{mask}", None),
    ],
)
def test_they_stand_behind_the_first_vectors_in_the_words_of_the_template(template: str, wanted: str | None) -> None:
    made = demonstrated(template, 4, SHOWN, WORDS)
    if wanted is None:
        wanted = "{bos}{soft:1}a dull {{x}}{sep}bad\n\na warm{sep}great\n\na {text}{soft:3}{sep}{mask}"
    assert made == wanted


def test_what_is_shown_is_not_trained_on_and_is_one_of_each_class() -> None:
    pool = [Example({"text": f"{i}"}, label="ab"[i % 2]) for i in range(10)]
    shown, rest = set_apart(pool, 3)
    assert [example.label for example in shown] == ["a", "b"]
    assert len(rest) == 8
    assert not any(example in rest for example in shown)
    assert set_apart(pool, 3) == (shown, rest)


@pytest.mark.parametrize("labels", [["a", "a", "b"], [0.5, 0.7]])
def test_what_cannot_be_shown_is_refused(labels: list[str | float]) -> None:
    with pytest.raises(RecipeError, match="SP-E752"):
        set_apart([Example({"text": f"{i}"}, label=label) for i, label in enumerate(labels)], 0)


def test_a_prompt_keeps_its_demonstrations_and_several_sets_vote(tmp_path: Path) -> None:
    frozen = tiny_runs.open_model(tmp_path)
    recipe = tiny_runs.recipe(tmp_path, "data.few_shot=4", "task.demonstrations=true", "train.steps=2")
    result = train(recipe, tmp_path / "run", backbone=frozen)
    plan, _ = reopen(tmp_path / "run", frozen)
    assert len(plan.train) == 6
    assert len(plan.shown) == 2
    card = Artifact.load(result.artifact).card
    for example in plan.shown:
        assert str(example.fields["text"]) in card.template.text
    stored = Artifact.load(result.artifact).bind(frozen)
    joint = over_sets(stored, plan, 3)
    alone, together = joint.answer(plan.test)
    assert [p.answer for p in alone[0]] == [p.answer for p in result.prompt.predict(plan.test)]
    texts = {prompt.template.text for prompt in joint.prompts}
    assert len(texts) > 1
    for i, answer in enumerate(together):
        mean = torch.tensor([[own[i].scores[label] for label in plan.labels] for own in alone]).mean(0)
        assert list(answer.scores.values()) == pytest.approx(mean.tolist(), abs=1e-6)


def test_a_prompt_without_demonstrations_has_no_other_sets(tmp_path: Path) -> None:
    frozen = tiny_runs.open_model(tmp_path)
    plan = make_plan(tiny_runs.recipe(tmp_path), frozen)
    with pytest.raises(RecipeError, match="SP-E752"):
        over_sets(None, plan, 3)  # type: ignore[arg-type]
