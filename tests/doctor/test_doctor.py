"""Guard-rails inside training, the command, and `--fix`, on tiny real runs."""

import json
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_runs

from softprompt.cli import main
from softprompt.core import Example
from softprompt.doctor import RULES, Finding, answers, before, of_error, ranked
from softprompt.doctor.after import signatures
from softprompt.doctor.findings import CODES
from softprompt.doctor.fix import fix
from softprompt.doctor.trace import Trace, read
from softprompt.errors import DataError, TrainingError
from softprompt.recipe import Recipe, load_recipe
from softprompt.training import train


def test_a_run_that_cannot_move_its_prompt_is_stopped_before_its_first_step(tmp_path):
    recipe = tiny_runs.recipe(tmp_path, "optim.lr=0.0001", "train.steps=60")
    with pytest.raises(TrainingError, match="cannot-move") as stopped:
        train(recipe, tmp_path / "run")
    assert stopped.value.code == "SP-E530"
    assert "--set optim.lr=auto" in stopped.value.do


def test_a_try_of_few_steps_is_told_and_goes_on(tmp_path):
    told = []
    recipe = tiny_runs.recipe(tmp_path, "optim.lr=0.0001", "train.steps=2")
    train(recipe, tmp_path / "run", listen=told.append)
    assert [event["finding"]["rule"] for event in told if "finding" in event] == ["small-eval", "cannot-move"][::-1]


def test_how_a_run_failed_is_in_its_log(tmp_path):
    recipe = tiny_runs.recipe(tmp_path, "optim.lr=1e38", "train.steps=20")
    with pytest.raises(TrainingError, match="SP-E520"):
        train(recipe, tmp_path / "run")
    failure = read(tmp_path / "run").failure
    assert failure is not None
    assert failure["code"] == "SP-E520"
    assert next(signatures(read(tmp_path / "run"))).rule == "not-finite"


def traced(losses, dev=(), report=None) -> Trace:
    events = [{"loss": loss, "key": [-loss]} for loss in dev]
    return Trace(Recipe.model_validate({"train": {"patience": None}}), list(losses), events, None, report)


@pytest.mark.parametrize(
    ("trace", "rules"),
    [
        (traced([0.7] * 40), ["not-converging"]),
        (traced([0.1] * 40), []),  # there was nothing left to learn
        (traced([0.7 * 0.95**i for i in range(60)]), []),
        (traced([*[0.3] * 30, 40.0, *[0.2] * 30]), ["spike"]),
        (traced([0.7 * 0.9**i for i in range(60)], dev=[0.5, 0.4, 0.9]), ["gap"]),
        (traced([0.7 * 0.9**i for i in range(60)], dev=[0.5, 0.2, 0.1]), []),
        (traced([0.7 * 0.99**i for i in range(60)], dev=[0.6, 0.3] * 4), ["unstable"]),
    ],
)
def test_signatures_of_losses(trace, rules):
    assert [finding.rule for finding in signatures(trace)] == rules


@pytest.mark.parametrize(
    ("train", "dev", "seen"),
    [
        ((156, 4), (30, 30), True),
        ((80, 80), (30, 30), False),
        ((100, 60), (30, 30), False),  # not far apart
        ((10, 2), (5, 5), False),  # not many
        ((160,), (30, 30), False),  # one class, which is another finding
    ],
)
def test_classes_that_are_rare_in_train_and_not_on_dev_are_seen(train, dev, seen):
    counts = [Counter(dict(zip(("no", "yes"), count, strict=False))) for count in (train, dev)]
    found = list(before.shift(*counts))
    assert [finding.rule for finding in found] == ["shift"] * seen
    if seen:
        assert "98% of train and 50% of dev" in found[0].seen


@pytest.mark.parametrize(
    ("scores", "seen"),
    [
        ([0.7, 0.7, 0.8], True),
        ([0.7, 0.8, 0.9], False),
        ([0.3, 0.3], True),
        ([0.7, 0.8, 0.7, 0.9], False),
        ([0.7], False),
    ],
)
def test_dev_scores_that_stay_those_of_one_answer_are_seen(scores, seen):
    """Of ten dev examples seven are "no": 0.7 is always answering "no", 0.3 always "yes"."""
    dev = [Example({"text": "x"}, "no" if i < 7 else "yes") for i in range(10)]
    recipe = Recipe.model_validate({"task": {"kind": "classification", "metric": "accuracy"}})
    plan = SimpleNamespace(dev=dev, kind="classification", labels=("no", "yes"), recipe=recipe)
    trace = Trace(recipe, [], [{"accuracy": value} for value in scores], None, None)
    assert [finding.rule for finding in answers.stuck(plan, trace)] == ["majority"] * seen


class Reader:
    """A prompt that knows the classes of ten texts, of others only if they are written as it learnt them."""

    def predict(self, examples):
        return [
            SimpleNamespace(answer=str(int(e.fields["text"]) % 2) if e.fields["text"].isdigit() else "?")
            for e in examples
        ]


def test_answers_that_depend_on_the_form_of_a_text_are_worth_knowing():
    dev = [Example({"text": str(i)}, str(i % 2)) for i in range(20)]
    told = [str(example.label) for example in dev]
    (found,) = answers.forms(Reader(), dev, told)
    assert (found.rule, found.severity) == ("format", "info")
    assert "100 points fewer of 20 dev examples" in found.seen
    steady = SimpleNamespace(predict=lambda examples: [SimpleNamespace(answer=e.label) for e in examples])
    assert not list(answers.forms(steady, dev, told))


def test_the_first_remedy_that_lets_a_stopped_recipe_begin_is_kept(tmp_path, capsys):
    recipe = tiny_runs.recipe(tmp_path, "train.steps=60", "optim.lr=1e-6")
    (tmp_path / "still.yaml").write_text(recipe.to_yaml())
    assert main(["doctor", str(tmp_path / "still.yaml"), "--fix", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["findings"][0]["rule"] == "cannot-move"
    assert found["settings"][0] == "optim.lr=auto"
    assert load_recipe(found["recipe"]).optim.lr == "auto"
    assert found["arms"][0]["kept"]


def test_causes_come_before_symptoms_and_errors_before_warnings():
    symptom, cause = Finding("majority", "warning", "a", "b"), Finding("will-explode", "warning", "a", "b")
    error = Finding("no-answer", "error", "a", "b")
    assert ranked([symptom, cause, error, cause]) == [error, cause, symptom]


def test_the_page_has_every_rule_and_a_rule_for_every_guard_rail():
    page = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")
    rules, _, rest = page.partition("### The fifteen guard-rails")
    lines = [line.split("|")[1] for line in rules.splitlines() if line.startswith("| `")]
    assert {name for line in lines for name in re.findall(r"`([\w-]+)`", line)} == set(RULES) - {"refused"}
    guards = re.findall(r"^\| (\d+) \| [^|]+ \| ([^|]+) \|", rest, re.MULTILINE)
    assert [int(number) for number, _ in guards] == list(range(1, 16))
    assert all(set(re.findall(r"`([\w-]+)`", named)) <= set(RULES) for _, named in guards)


def test_an_error_is_a_finding_with_its_own_remedy():
    finding = of_error(DataError("SP-E131", "2 dev examples", "others", "remove them", where="a.csv"))
    assert (finding.rule, finding.severity, finding.command()) == ("leak", "error", "remove them")
    assert set(CODES) <= set(RULES)


def test_the_command_tells_healthy_from_sick_by_its_exit_code(tmp_path, capsys):
    recipe = tiny_runs.recipe(tmp_path, "train.steps=400", "data.split=[0.3, 0.7, 0.0]")
    (tmp_path / "good.yaml").write_text(recipe.to_yaml())
    assert main(["doctor", str(tmp_path / "good.yaml")]) == 0
    assert "healthy" in capsys.readouterr().out
    assert main(["doctor", str(tmp_path / "good.yaml"), "--set", "optim.lr=1e-6", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["healthy"]
    assert found["findings"][0]["rule"] == "cannot-move"
    assert found["findings"][0]["command"].endswith("--set optim.lr=auto")


def test_a_remedy_stays_only_if_it_wins_on_dev(tmp_path):
    settings = ("optim.lr=0.02", "train.steps=300", "data.split=[0.5, 0.5, 0.0]", "task.head=classifier")
    recipe = tiny_runs.recipe(tmp_path, *settings, "optim.head_lr=0.01")
    texts = [(" ".join(f"w{10 + 40 * (at % 2) + at * k % 3}" for k in range(1, 6)), at) for at in range(160)]
    rows = [f"{text} w{20 + at % 7} w{80 + at // 12},w{5 + at % 2}" for text, at in texts]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]))
    useless, good = ("train.accumulate=1",), ("optim.head_lr=4.0", "optim.lr=0.3")
    finding = Finding("not-converging", "warning", "a", "b", settings=useless, remedies=(good,))
    done = fix(recipe, [finding], tmp_path / "doctor")
    assert [arm.kept for arm in done.arms] == [False, True]
    assert done.settings == good
    assert "head_lr: 4.0" in done.path.read_text() or "lr: 0.3" in done.path.read_text()
    assert done.arms[0].p == 1.0
