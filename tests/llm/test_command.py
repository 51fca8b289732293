"""`softprompt write` on the command line, over real HTTP."""

import json

import pytest
from llm.colours import SIZES, write_colours
from llm.fake import serving
from serve.running import running, small_shelf
from serve.small_engine import SmallEngine

from softprompt.cli import main

PARTS = ("train.csv", "--dev", "dev.csv", "--test", "test.csv", "--set", "task.metric=accuracy")
NOWHERE = ("--task-url", "http://127.0.0.1:9/v1", "--task-model", "task")
HASTE = ("--task-set", "pause=0.001", "--task-set", "attempts=3")


@pytest.fixture
def sp(capsys, tmp_path, monkeypatch):
    """`sp("write", ...)` runs a command beside the colours; its exit code, output and messages."""
    monkeypatch.chdir(tmp_path)
    write_colours(tmp_path)

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_without_a_gain_the_seed_prompt_is_kept_and_the_run_goes_on_by_resume(sp, tmp_path):
    (tmp_path / "seed.txt").write_text("Name it slowly\n")
    with serving(faults=10) as fake:
        task = ("--task-url", fake.url, "--task-model", "task", "--start", "seed.txt", *HASTE)
        code, out, err = sp("write", *PARTS, *task, "--strategy", "exemplars", "--calls", 130, "--run", "a")
        assert code == 0, err
        assert "no significant gain: keep the seed prompt" in out
        assert "prompt: 'Name it slowly'" in out
        assert "at most 130 calls" in err
        assert "next: softprompt train a/recipe.yaml --run a/soft" in err
        report = json.loads((tmp_path / "a" / "report.json").read_text())
        assert report["found"].startswith("Name it slowly")
        assert (tmp_path / "a" / "prompt.txt").read_text() == "Name it slowly"
        assert {"the seed prompt", "majority"} == set(report["baselines"]) == set(report["compared"])
        assert fake.calls <= 130
        fake.own_temperature = True
        code, _, err = sp("write", *PARTS, *task, "--strategy", "exemplars", "--calls", 130, "--run", "b")
        assert (code, "tempered=false" in err.splitlines()[-1]) == (2, True)
        assert (
            sp("write", *PARTS, *task, "--task-set", "tempered=false", "--strategy", "exemplars", "--calls", 130)[0]
            == 0
        )
        fake.own_temperature, before = False, fake.calls
        code, out, _ = sp("resume", "a", "--json")
        again = json.loads(out)
        assert (code, again["text"], again["verdict"]) == (0, report["text"], report["verdict"])
        assert fake.calls == before
        code, _, err = sp("write", *PARTS, *task, "--strategy", "exemplars", "--calls", 140, "--run", "a")
        assert (code, err.splitlines()[-1][:8]) == (2, "SP-E514 ")


def test_the_estimate_asks_nothing_and_knows_the_cost_where_both_prices_are_given(sp):
    both = (*NOWHERE, "--optimizer-url", "http://127.0.0.1:9/v1", "--optimizer-model", "writer")
    prices = ("--task-price", "1,2", "--optimizer-price", "10,20")
    code, out, err = sp("write", *PARTS, *both, *prices, "--calls", 300, "--dry-run", "--json")
    assert code == 0, err
    made = json.loads(out)
    assert made["calls"] == 300
    assert made["closing"] == 4 * 6 + 2 * SIZES["test"]
    assert made["writing"] == round((300 - made["closing"] - 12) / 13)
    answering = made["calls"] - made["writing"]
    tokens = made["tokens"] - made["writing"] * 1100
    assert tokens % answering == 0
    read = tokens // answering - 4
    assert made["cost"] == pytest.approx((answering * (read + 8) + made["writing"] * (10_000 + 2_000)) / 1e6)
    assert "cost unknown" in sp("write", *PARTS, *both, "--calls", 300, "--dry-run")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--strategy", "opro"), "SP-E732", "no endpoint that writes prompts"),
        (("--strategy", "opra"), "SP-E740", "did you mean 'opro'"),
        (("--strategy", "exemplars", "--task-set", "tokens=5"), "SP-E732", "tokens"),
        (("--strategy", "exemplars", "--task-key", "NO_SUCH_KEY"), "SP-E731", "NO_SUCH_KEY"),
        (("--strategy", "exemplars", "--cost", "1"), "SP-E732", "without prices"),
        (("--strategy", "exemplars", "--optimizer-model", "m"), "SP-E732", "half an endpoint"),
        (("--strategy", "exemplars", "--start", "none.txt"), "SP-E308", "none.txt"),
        (("--strategy", "exemplars", "--start", " "), "SP-E741", "without text"),
        (("--strategy", "exemplars", "--calls", "20"), "SP-E736", "calls or more"),
        (("--strategy", "exemplars", *HASTE), "SP-E734", "no connection"),
    ],
)
def test_mistakes_are_one_line_with_a_code_and_nothing_falls_back(sp, tmp_path, arguments, code, text):
    calls = () if "--calls" in arguments else ("--calls", 150)
    exit_code, out, err = sp("write", *PARTS, *NOWHERE, *calls, "--run", "b", *arguments)
    last = err.splitlines()[-1]
    assert (exit_code, out) == (2, "")
    assert last.startswith(code)
    assert text in last
    assert (tmp_path / "b").exists() == (code == "SP-E734")  # only a run that has begun leaves a folder


def test_our_own_server_can_be_the_model_that_answers(sp, tmp_path):
    for name, count in (("train", 6), ("dev", 6), ("test", 4)):
        rows = [f"{name} text {i},{'yes ' * (i + 2)}no\n" for i in range(count)]
        (tmp_path / f"{name}.csv").write_text("text,answer\n" + "".join(rows))
    with running(SmallEngine(), small_shelf()) as server:
        task = ("--task-url", f"{server.url}/v1", "--task-model", "writer", "--task-set", "max_tokens=8", *HASTE)
        data = ("train.csv", "--dev", "dev.csv", "--test", "test.csv", "--set", "task.kind=generation")
        code, out, err = sp(
            "write", *data, *task, "--strategy", "exemplars", "--calls", 60, "--run", "c", "--json", "--candidates", 2
        )
        assert code == 0, err
        events = [json.loads(line) for line in (tmp_path / "c" / "events.jsonl").read_text().splitlines()]
        answers = [event["text"] for event in events if event["event"] == "answered"]
        assert 20 < len(answers) == json.loads(out)["budget"]["calls"] <= 60
        assert all(answers)
