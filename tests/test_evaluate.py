"""Numbers of a run: every metric of the task beside its baselines, and a prompt that is left as it was trained."""

from typing import Any

import pytest
import speakers
import torch

from softprompt.baselines import majority
from softprompt.evaluate import Report, dev_score, evaluate, mean_loss, scores
from softprompt.plan import Plan
from softprompt.prompt import Prompt
from softprompt.recipe import make_recipe

CASES = [("llama", head) for head in speakers.KINDS] + [
    ("bert", "classifier"),
    ("t5", "verbalizer"),
    ("vit", "classifier"),
]
METRIC = {
    "verbalizer": "accuracy",
    "classifier": "macro_f1",
    "lm": "exact_match",
    "regressor": "rmse",
    "tagger": "token_accuracy",
}


def plan(head: str, family: str, metric: str = "") -> Plan:
    task = {"kind": speakers.KINDS[head], "head": head, "metric": metric or METRIC[head]}
    data = speakers.examples(head, family)
    return Plan(make_recipe({"task": task, "train": {"batch_size": 3}}), data, data, data, (), {})


def report(prompt: Prompt, planned: Plan) -> tuple[Report, list[dict[str, Any]]]:
    said: list[dict[str, Any]] = []
    untrained = {name: torch.zeros_like(value) for name, value in prompt.state_dict().items()}
    made = evaluate(prompt, planned, untrained=untrained, history=[], listen=said.append)
    return made, said


@pytest.mark.parametrize(("family", "head"), CASES)
def test_a_report_has_every_metric_and_baseline_and_changes_nothing(family: str, head: str) -> None:
    prompt = speakers.prompt(family, head=head)
    planned = plan(head, family)
    before = {name: value.clone() for name, value in prompt.state_dict().items()}
    made, said = report(prompt, planned)
    assert all(torch.equal(value, before[name]) for name, value in prompt.state_dict().items())
    assert made.scores[0].name == METRIC[head]
    assert len({score.name for score in made.scores}) == len(made.scores) >= 1
    assert all(score.n == (18 if score.name == "token_accuracy" else 4) or score.n == 4 for score in made.scores)
    expected = {"majority", "untrained prompt"}
    expected |= {"zero-shot"} if head in ("verbalizer", "lm") or (family, head) == ("bert", "classifier") else set()
    expected |= {"linear probe"} if head not in ("lm", "tagger") else set()
    assert set(made.baselines) == expected
    assert {event["name"] for event in said} == expected
    assert made.parameters == sum(weight.numel() for weight in prompt.parameters())
    assert made.as_dict()["metric"] == METRIC[head]


@pytest.mark.parametrize("head", speakers.KINDS)
def test_scores_are_those_of_the_answers(head: str) -> None:
    prompt, planned = speakers.prompt("llama", head=head), plan(head, "llama")
    right = [type("P", (), {"answer": example.label})() for example in planned.test]
    best = {score.name: score.value for score in scores(prompt, planned.test, METRIC[head], right)}
    assert best[METRIC[head]] == (0 if head == "regressor" else 1)


@pytest.mark.parametrize("head", speakers.KINDS)
def test_the_mean_loss_is_per_label_and_does_not_depend_on_the_batches(head: str) -> None:
    prompt, planned = speakers.prompt("llama", head=head), plan(head, "llama")
    rows = [prompt.row(example) for example in planned.dev]
    batch = prompt.batch(rows)
    whole = prompt.loss(batch).item() / prompt.head.count(batch)
    for size in (1, 3, 32):
        assert mean_loss(prompt, planned.dev, size) == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("head", speakers.KINDS)
def test_a_better_state_has_a_higher_key(head: str) -> None:
    prompt, planned = speakers.prompt("llama", head=head), plan(head, "llama")
    found = dev_score(prompt, planned)
    if head == "lm":
        assert found["key"] == [-found["loss"]]
        return
    value = found[METRIC[head]]
    assert found["key"] == [-value if head == "regressor" else value, -found["loss"]]


def test_the_f1_of_a_named_class_can_decide() -> None:
    prompt, planned = speakers.prompt("llama"), plan("verbalizer", "llama", "f1:good")
    assert set(dev_score(prompt, planned)) == {"loss", "f1:good", "key"}
    made, _ = report(prompt, planned)
    assert made.scores[0].name == "f1:good"
    assert made.baselines["majority"].value in (0, pytest.approx(2 / 3))
    assert majority(planned, planned.test) in (["bad"] * 4, ["good"] * 4)
