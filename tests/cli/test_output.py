"""What is printed cannot steer a terminal, break JSON, or be cut by a pipe."""

import io
import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.cli import output, progress, summary


@given(st.text())
def test_no_control_character_survives(text):
    kept = output.escaped(text)
    assert not any(unicodedata.category(c) == "Cc" for c in kept if c not in "\n\t")


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_other_text_is_left_alone(text):
    assert output.escaped(text) == text


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
)


@given(VALUES)
def test_every_document_is_strict_json(value):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    json.loads(json.dumps(output.finite(value), allow_nan=False), parse_constant=refuse)


@pytest.mark.parametrize(
    "seconds, text", [(0.2, "0:00"), (7, "0:07"), (59.6, "1:00"), (750, "12:30"), (3723, "1:02:03")]
)
def test_times_read_like_clocks(seconds, text):
    assert output.duration(seconds) == text


@pytest.mark.parametrize("count, text", [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_500_000, "2.5 MB")])
def test_sizes_are_in_decimal_units(count, text):
    assert output.size(count) == text


def test_a_table_in_a_pipe_is_neither_folded_nor_coloured(capsys):
    output.table(["name", "text"], [["a", "[bold]x[/bold] " * 60]])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].rstrip().endswith("[bold]x[/bold]")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def printed(monkeypatch) -> str:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    output.note("hello", style="red")
    return screen.getvalue()


def test_colours_are_for_terminals_and_no_color_is_respected(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in printed(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in printed(monkeypatch)


def step(number: int, seconds: float = 0.1) -> dict[str, object]:
    facts = {"step": number, "total": 50, "loss": 0.5, "lr": 0.1, "norm": 1.0, "tokens": 100, "seconds": seconds}
    return {"event": "step"} | facts


def test_outside_a_terminal_steps_are_a_line_now_and_then(capsys):
    with progress.Progress() as shown:
        for number in range(1, 51):
            shown(step(number))
        shown({"event": "dev", "step": 50, "loss": 0.4, "accuracy": 0.9, "key": [0.9], "best": True})
        shown({"event": "something new"})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("step 1/50  loss 0.500  rate 0.1  1,000 tokens/s")
    assert lines[1] == "step 50: dev accuracy 0.900  loss 0.400  (best so far)"
    assert shown.step == 50


def report(prompt: float, baseline: float, metric: str = "accuracy") -> dict[str, object]:
    def number(value):
        return {"name": metric, "value": value, "error": 0.05, "n": 100, "seeds": 1}

    return {"metric": metric, "scores": [number(prompt)], "baselines": {"majority": number(baseline)}}


@pytest.mark.parametrize(
    "prompt, baseline, metric, words",
    [
        (0.9, 0.5, "accuracy", "ahead of the best baseline (majority) by 0.400"),
        (0.52, 0.5, "accuracy", "within the ±"),
        (0.5, 0.5, "accuracy", "not better than the majority"),
        (0.5, 0.9, "rmse", "ahead of the best baseline"),
        (0.9, 0.5, "rmse", "not better than the majority"),
    ],
)
def test_the_verdict_is_honest(prompt, baseline, metric, words):
    assert words in summary.verdict(report(prompt, baseline, metric))


def test_a_reader_that_leaves_is_no_error():
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    line = "from softprompt.cli import main; import sys; sys.exit(main(['recipe', 'schema']))"
    pipe = subprocess.PIPE
    writer = subprocess.Popen([sys.executable, "-c", line], stdout=pipe, stderr=pipe, env=environment)
    assert writer.stdout is not None
    assert writer.stderr is not None
    writer.stdout.close()
    errors = writer.stderr.read()
    writer.wait(60)
    assert b"Traceback" not in errors
    assert b"Exception" not in errors
