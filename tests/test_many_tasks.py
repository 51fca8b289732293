"""benchmarks/many_tasks.py: its table against sums by hand, and two processes that ask for the same start."""

import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROTOCOL = {"backbone": "b", "sources": ["a"], "source_rows": 1, "budget": 2, "versions": {"torch": "2"}}


@pytest.fixture(scope="module")
def bench():
    """The benchmark, which imports its neighbours."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import many_tasks
    finally:
        sys.path.pop(0)
    return many_tasks


def cell(task: str, seed: int, **scores: float | None):
    """A cell; a score of None is a prompt that broke off."""
    prompts = {name: {"error": "nan"} if score is None else {"test": score} for name, score in scores.items()}
    found = {name.replace("_", " "): one for name, one in prompts.items()}
    return PROTOCOL | {
        "kind": "cell", "task": task, "seed": seed, "shots": 16, "starts": ["pretrain", "multitask"],
        "steps": 1, "epochs": 1, "test": 9, "prompts": found,
    }  # fmt: skip


def test_the_table_says_the_mean_gain_and_the_half_width_over_seeds(bench):
    cells = [
        cell("x", 0, scratch=0.5, pretrain=0.6, mpt_scratch=0.4, multitask=0.5),
        cell("x", 1, scratch=0.5, pretrain=0.8, mpt_scratch=0.6, multitask=None),
        cell("y", 0, scratch=0.7, pretrain=0.6, mpt_scratch=0.6, multitask=0.9),
        cell("y", 1, scratch=0.7, pretrain=0.8, mpt_scratch=0.7, multitask=0.8),
    ]
    other = cell("x", 0, scratch=0.0, pretrain=1.0) | {"budget": 3}
    text = bench.page([other, *cells])
    lines = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in text.splitlines() if line[:1] == "|"}
    half = 12.706 * 0.1  # of +0.1 and +0.3: t(0.975, 1) x deviation 0.1 x root of two, over root of two
    assert lines["target"][:-1] == ["scratch", "pretrain", "mpt, from scratch", "mpt, from multitask"]
    assert lines["x"][:2] == ["50.0", f"+20.0 ±{100 * half:.1f}"]
    assert lines["x"][3] == "+0.0", "of a prompt that broke off there is no gain"
    assert lines["y"][4].startswith("+20.0 ±"), "multitask over mpt, not over scratch"
    assert lines["**all**"][:2] == ["60.0", f"+10.0 ±{100 * half:.1f}"], "over seeds, not over cells"
    assert lines["**all**"][3] == "+10.0", "a seed that lacks a target is left out"


def test_a_moved_prompt_stands_beside_its_controls(bench):
    controls = dict.fromkeys(("mean of the pairs", "untrained prompt", "bare model"), 0.7)
    scores = {name: {"value": 0.5} for name in ("prompt", *controls, "majority")}
    moved = {
        "dev_loss": 0.6,
        "controls": controls,
        "dev_scores": scores,
        "explained": -0.25,
        "beyond": -1.5,
        "helps": True,
    }
    beside = {"at home": {"loss": 0.4, "accuracy": 0.8}, "trained": {"loss": 0.3, "accuracy": 0.9}}
    run = PROTOCOL | {"kind": "project", "task": "x", "seed": 0, "small": "s", "source_steps": 1, "test": 9}
    text = bench.page([run | {"moved": moved, "beside": beside}])
    assert "| x | loss | 0.60 | 0.70 | 0.70 | 0.70 | - | 0.30 | - | -0.25 | 1 of 1 |" in text
    assert "|  | accuracy | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 | 90.0 | 80.0 |" in text


def test_who_asks_for_a_start_waits_for_the_process_that_learns_it(bench, tmp_path):
    entered = threading.Event()

    def ask() -> None:
        with bench.alone(tmp_path / "start"):  # a file of its own, as another process has
            entered.set()

    asking = threading.Thread(target=ask)
    with bench.alone(tmp_path / "start"):
        asking.start()
        assert not entered.wait(0.2)
    asking.join(10)
    assert entered.is_set()
