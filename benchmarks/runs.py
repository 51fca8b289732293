"""Runs of the comparisons as lines of a file: written, found again, averaged, and put into a page."""

import json
import platform
from pathlib import Path
from typing import Any

import torch
import transformers
from results import combined

from softprompt.backbones import Backbone
from softprompt.metrics import METRICS, Score

Run = dict[str, Any]


def facts(backbone: Backbone) -> Run:
    return {
        "backbone": backbone.fingerprint,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "machine": f"{platform.machine()}, 1 thread",
    }


def done(log: Path) -> list[Run]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def known(log: Path, key: Run) -> bool:
    return any(all(run.get(name) == value for name, value in key.items()) for run in done(log))


def note(log: Path, run: Run) -> None:
    with log.open("a") as file:
        file.write(json.dumps(run) + "\n")
    shown = {name: value for name, value in run.items() if name in ("task", "method", "seed", "claim", "variant")}
    score = percent(Score.from_dict(run["score"])) if "score" in run else "timed"
    print(shown, score, f"{run.get('cpu_s', 0)} CPU s", flush=True)


def percent(score: Score) -> str:
    """A score on a scale of 100, whatever the scale of its metric."""
    scale = 100 / METRICS[score.name].best
    return f"{scale * score.value:.1f} ±{scale * score.error:.1f}"


def mean(group: list[Run]) -> str:
    return percent(combined([Score.from_dict(run["score"]) for run in group]))


def versions(runs: list[Run]) -> str:
    return " and ".join(sorted({", ".join(f"{k} {v}" for k, v in run["versions"].items()) for run in runs}))


def put(path: Path, name: str, text: str) -> None:
    """Write a text between the two markers of its name; raises `ValueError` where the page has none."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"no {begin} ... {end} in {path}")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def split(text: str) -> list[str]:
    return text.split(",")


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]
