"""Between hard and soft: vectors that are tokens answer as the words do, wherever they stand in a template."""

from pathlib import Path

import pytest
import tiny_runs
import torch

from softprompt.plan import make_plan
from softprompt.prompt import Prompt, without_prompt
from softprompt.untrained import build


def made(folder: Path, template: str, text: str) -> Prompt:
    frozen = tiny_runs.open_model(folder)
    length = len(text.split())
    recipe = tiny_runs.recipe(folder, f"task.template={template}", f"init.text={text}", f"method.length={length}")
    return build(make_plan(recipe, frozen), frozen)


@pytest.mark.parametrize(
    ("mixed", "plain"),
    [
        ("{soft:2} so {text} w9 {soft:1} {mask}", "w1 w2 so {text} w9 w3 {mask}"),
        ("w8 {soft:1} {text} {soft:2} w7 {mask}", "w8 w1 {text} w2 w3 w7 {mask}"),
    ],
)
def test_a_template_of_words_and_vectors_begins_at_the_text_it_started_from(
    tmp_path: Path, mixed: str, plain: str
) -> None:
    prompt = made(tmp_path, mixed, "w1 w2 w3")
    examples = make_plan(tiny_runs.recipe(tmp_path), prompt.backbone).test[:4]
    words = made(tmp_path, "{soft:1}" + plain, "w1")
    words = Prompt(prompt.backbone, prompt.method, prompt.head, words.template.without_soft(), prompt.task)
    bare = without_prompt(words)
    for soft, hard in zip(prompt.predict(examples), bare.predict(examples), strict=True):
        assert soft.scores == pytest.approx(hard.scores, abs=1e-5)
    with torch.no_grad():
        prompt.method.prompt[1:].add_(1.0)
    assert prompt.predict(examples[:1])[0].scores != pytest.approx(bare.predict(examples[:1])[0].scores, abs=1e-5)
