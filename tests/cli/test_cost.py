"""What a run will cost, as people and programs are told; and evaluation on rounded weights, for who asks for it."""

import re

import pytest

from softprompt.backbones import quantize
from softprompt.cli.progress import priced, worded

SHORT = ("--epochs", "1", "--set", "method.length=4", "--set", "train.threads=1", "--test", "test.csv")
NAMES = {"steps", "epoch_tokens", "operations", "kept_bytes", "seconds"}
NAMES |= {"peft_epoch_tokens", "peft_operations", "peft_kept_bytes"}


def test_a_dry_run_says_the_cost_on_one_line_and_writes_nothing(sp, workplace):
    before = sorted(workplace.rglob("*"))
    answer = sp("train", "train.csv", "--model", "llama", "--dry-run", *SHORT)
    assert answer.code == 0
    assert answer.out == ""
    assert "recipe (repeats this run):" in answer.err
    line = next(line for line in answer.err.splitlines() if line.startswith("cost:"))
    wanted = r"cost: at most \d+ steps; \d+ tokens a pass over the data, [\d.]+ million operations in all, "
    assert re.match(wanted + r"[\d.]+ .B kept for the backward pass, .*PEFT.* times the tokens", line)
    assert sorted(workplace.rglob("*")) == before


def test_programs_are_told_the_same_of_a_dry_run_and_of_a_run(sp):
    dry = sp("train", "train.csv", "--model", "llama", "--dry-run", "--json", *SHORT).json["cost"]
    real = sp("train", "train.csv", "--model", "llama", "--run", "priced", "--json", *SHORT).json["cost"]
    assert dry.keys() == real.keys() == NAMES
    assert {name: value for name, value in dry.items() if name != "seconds"} == {
        name: value for name, value in real.items() if name != "seconds"
    }


def test_the_line_comes_before_the_first_step(sp):
    errors = sp("train", "train.csv", "--model", "llama", "--run", "told", *SHORT).err
    assert errors.count("cost: ") == 1
    assert errors.index("cost: ") < errors.index("step 1/")


def test_the_line_is_in_plain_words():
    cost = {"steps": 1200, "epoch_tokens": 50_000, "operations": 3.2e12, "kept_bytes": 61_000_000, "seconds": 754.0}
    cost |= {"peft_epoch_tokens": 225_000, "peft_operations": 15.68e12, "peft_kept_bytes": 269_000_000}
    assert priced(cost) == (
        "cost: at most 1,200 steps; 50,000 tokens a pass over the data, 3.2 trillion operations in all, "
        "61.0 MB kept for the backward pass, about 12:34; with the prompt and padding in every row, as PEFT has it: "
        "4.5 times the tokens, 4.9 times the operations, 269.0 MB kept"
    )
    assert "less than a second" in priced(cost | {"seconds": 0.2})
    assert [worded(x) for x in (5e5, 65e6, 2e9, 3e15, 4e18)] == [
        "0.5 million",
        "65.0 million",
        "2.0 billion",
        "3.0 quadrillion",
        "4.0 quintillion",
    ]


# int8


def test_rounded_weights_are_for_who_has_the_library(sp, prompt, monkeypatch):
    monkeypatch.setattr(quantize, "find_spec", lambda name: None)
    answer = sp("evaluate", prompt, "test.csv", "--int8")
    assert answer.code == 2
    assert "SP-E408" in answer.err
    assert "pip install" in answer.err


def test_the_report_says_what_the_weights_were(sp, prompt):
    assert sp("evaluate", prompt, "test.csv", "--json", "--no-baselines").json["weights"] == "float32"


def test_evaluation_on_rounded_weights_says_so_and_is_nearly_the_same(sp, prompt):
    pytest.importorskip("torchao", reason="quantisation on the CPU is torchao's")
    rounded = sp("evaluate", prompt, "test.csv", "--int8", "--json").json
    whole = sp("evaluate", prompt, "test.csv", "--json").json
    assert (rounded["weights"], whole["weights"]) == ("int8", "float32")
    assert abs(rounded["scores"][0]["value"] - whole["scores"][0]["value"]) <= 0.2
    assert "weights rounded to int8" in sp("evaluate", prompt, "test.csv", "--int8").out


def test_a_prompt_of_rounded_weights_is_scored_on_them_and_no_others(sp, workplace):
    pytest.importorskip("torchao", reason="quantisation on the CPU is torchao's")
    line = ("train", "train.csv", "--model", "llama", "--run", "int8", "--set", "backbone.quantize=int8", *SHORT)
    assert sp(*line).code == 0
    assert sp("evaluate", "int8/prompt.safetensors", "test.csv", "--json").json["weights"] == "int8"
    answer = sp("evaluate", "int8/prompt.safetensors", "test.csv", "--int8")
    assert answer.code == 2
    assert "SP-E252" in answer.err
