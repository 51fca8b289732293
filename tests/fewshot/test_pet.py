"""PET: the ensemble's soft labels are the weighed, softened scores, and one prompt learns from them."""

import json
from pathlib import Path

import pytest
import tiny_runs
import torch
from torch.nn import functional as F

from softprompt.artifact import Artifact
from softprompt.errors import DataError, RecipeError
from softprompt.fewshot.patterns import Pattern, asked, patterns_of
from softprompt.fewshot.pet import Teacher, pet, trust
from softprompt.plan import make_plan
from softprompt.prompt import without_prompt
from softprompt.untrained import build

PATTERNS = [Pattern("{text} w1 {mask}"), Pattern("{soft}w2 {text} w3 {mask}", {"w5": "w90", "w6": "w91"})]
QUICK = ("data.few_shot=4", "train.steps=4", "train.evaluate_every=4")


def texts(folder: Path) -> Path:
    """Texts with two columns more that nobody reads, among them two test examples."""
    lines = tiny_runs.write_rows(folder / "more.csv", 30, seed=9).read_text().splitlines()
    test = (folder / "test.csv").read_text().splitlines()[1:3]
    path = folder / "unlabelled.csv"
    path.write_text("\n".join(["text", *(line.rpartition(",")[0] for line in [*lines[1:], *test])]) + "\n")
    return path


def test_an_ensemble_labels_texts_and_one_prompt_learns_from_it(tmp_path: Path) -> None:
    frozen = tiny_runs.open_model(tmp_path)
    recipe = tiny_runs.recipe(tmp_path, *QUICK)
    unlabelled = texts(tmp_path)
    made = pet(recipe, tmp_path / "pet", patterns=PATTERNS, unlabelled=unlabelled, steps=30, backbone=frozen)
    assert [entry.name for entry in made.members] == ["pattern-1", "pattern-2"]
    assert sum(made.weights) == pytest.approx(1.0)
    assert (made.texts, made.left_out) == (30, 2)
    assert 0 <= made.agreement <= 1
    prompt = Artifact.load(made.student.prompt).bind(frozen)
    assert prompt.template.text == "{soft}{text} w1 {mask}"
    first = make_plan(asked(recipe, PATTERNS, frozen)["pattern-1"], frozen)
    teacher = Teacher([Artifact.load(one.prompt).bind(frozen) for one in made.members], made.weights)
    wanted = teacher.labels(first.dev)
    far = []
    for one in (build(first, frozen), prompt):
        chances = [[answer.scores[label] for label in first.labels] for answer in one.predict(first.dev)]
        far.append(F.kl_div(torch.tensor(chances).log(), wanted, log_target=True, reduction="batchmean").item())
    assert far[1] < far[0]
    again = pet(recipe, tmp_path / "pet", patterns=PATTERNS, unlabelled=unlabelled, steps=30, backbone=frozen)
    assert again.as_dict() == made.as_dict() == json.loads((tmp_path / "pet" / "pet.json").read_text())


def test_soft_labels_are_weighed_scores_at_temperature_two(tmp_path: Path) -> None:
    frozen = tiny_runs.open_model(tmp_path)
    plans = [make_plan(one, frozen) for one in asked(tiny_runs.recipe(tmp_path, *QUICK), PATTERNS, frozen).values()]
    prompts, examples = [build(plan, frozen) for plan in plans], plans[0].dev
    found = Teacher(prompts, [0.75, 0.25]).labels(examples)
    for i, example in enumerate(examples):
        answers = [prompt.predict([example])[0].scores for prompt in prompts]
        scores = [answers[0][label] ** (0.75 / 2) * answers[1][label] ** (0.25 / 2) for label in plans[0].labels]
        assert found[i].exp().tolist() == pytest.approx([score / sum(scores) for score in scores], abs=1e-5)


def test_a_pattern_counts_as_much_as_it_is_right_before_training(tmp_path: Path) -> None:
    frozen = tiny_runs.open_model(tmp_path)
    plans = [make_plan(one, frozen) for one in asked(tiny_runs.recipe(tmp_path, *QUICK), PATTERNS, frozen).values()]
    prompts = [build(plan, frozen) for plan in plans]
    right = [
        sum(a.answer == e.label for a, e in zip(without_prompt(p).predict(plans[0].train), plans[0].train, strict=True))
        for p in prompts
    ]
    assert trust(prompts, plans[0].train) == pytest.approx([share / sum(right) for share in right])


@pytest.mark.parametrize(
    "patterns",
    [
        PATTERNS[:1],
        [PATTERNS[0], PATTERNS[0]],
        [PATTERNS[0], Pattern("{text} {mask}", {"w5": "w5 w7"})],
    ],
)
def test_patterns_that_are_no_ensemble_are_refused(tmp_path: Path, patterns: list[Pattern]) -> None:
    with pytest.raises(RecipeError, match="SP-E755"):
        asked(tiny_runs.recipe(tmp_path, *QUICK), patterns, tiny_runs.open_model(tmp_path))


def test_texts_that_are_all_test_examples_are_refused(tmp_path: Path) -> None:
    recipe = tiny_runs.recipe(tmp_path, *QUICK, "train.steps=1")
    with pytest.raises(DataError, match="SP-E756"):
        pet(
            recipe,
            tmp_path / "pet",
            patterns=PATTERNS,
            unlabelled=recipe.data.test,
            backbone=tiny_runs.open_model(tmp_path),
        )


def test_patterns_are_read_from_templates_and_files(tmp_path: Path) -> None:
    file = tmp_path / "patterns.yaml"
    file.write_text("- '{text} It was {mask}'\n- {template: '{text} so {mask}', words: {w5: good}}\n")
    assert patterns_of(["a {text} {mask}", str(file)]) == [
        Pattern("a {text} {mask}"),
        Pattern("{text} It was {mask}"),
        Pattern("{text} so {mask}", {"w5": "good"}),
    ]
    for wrong in ("just text", "- {words: {a: b}}", "- {template: 'x', more: 1}", "- {template: 'x', words: [1]}"):
        file.write_text(wrong)
        with pytest.raises(RecipeError, match="SP-E755"):
            patterns_of([str(file)])
