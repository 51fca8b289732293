"""Prompts learn: on a small backbone that has learnt itself, from the demo's data, far beyond chance.

The head reads words and has no parameters, so whatever is learnt is in the prompt.
"""

import pytest

from softprompt.backbones import Backbone, load_backbone
from softprompt.backbones.embedded import NANO
from softprompt.demo import run as demo
from softprompt.training import train

CHANCE = 1 / 6  # six classes with the same number of rows each


@pytest.fixture(scope="module")
def nano() -> Backbone:
    return load_backbone(NANO)


@pytest.mark.parametrize("method", ["prefix", "prompt_tuning", "residual", "dpt"])
def test_a_prompt_learns_what_questions_ask_for(method, nano, tmp_path):
    settings = [f"method.name={method}", "task.head=verbalizer", "train.epochs=16", "train.threads=1"]
    report = train(demo.recipe("questions", NANO, settings), tmp_path / "run", backbone=nano).report
    found, untrained = report.scores[0], report.baselines["untrained prompt"]
    assert found.value - found.error > 2 * CHANCE
    assert found.value - found.error > untrained.value + untrained.error
