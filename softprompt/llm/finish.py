"""What a run leaves: the prompt as text, a recipe that starts a soft prompt from it, and paired tests on test."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompt.files import write_atomically
from softprompt.llm.leak import Guard
from softprompt.llm.loop import Chosen
from softprompt.llm.strategy import Board
from softprompt.llm.task import Task
from softprompt.metrics import Difference, Score, majority_predictions, paired, reported_metrics
from softprompt.recipe import Recipe
from softprompt.sections import InitSection

LEVEL = 0.05  # the p below which a difference counts as one
NO_GAIN = "no significant gain: keep the seed prompt"


@dataclass(frozen=True)
class Written:
    """The prompt that a run ends with (the start, where nothing was significantly better), and the report."""

    text: str
    report: dict[str, Any]
    folder: Path


def finish(board: Board, chosen: Chosen, recipe: Recipe, folder: Path) -> Written:
    """Score the winner and the start on test and write prompt.txt, report.json and recipe.yaml.

    The winner is kept only where a paired test says that it is better than the start.
    """
    task, start = board.task, board.start.text
    texts = list(dict.fromkeys((chosen.winner, start)))
    answers = dict(zip(texts, board.judge.answers(texts, task.test), strict=True))
    gain = paired(board.judge.values(chosen.winner, task.test), board.judge.values(start, task.test))
    better = gain.difference > 0 and gain.p < LEVEL
    text = chosen.winner if better else start
    compared = {"the seed prompt": gain._asdict()}
    beside = {"the seed prompt": task.score(answers[start], task.test)}
    if task.words:
        beside["majority"], compared["majority"] = majority(task, answers[chosen.winner])
    report = {
        "metric": task.metric,
        "scores": [one.as_dict() for one in every_score(task, answers[chosen.winner])],
        "baselines": {name: one.as_dict() for name, one in beside.items()},
        "compared": compared,
        "verdict": f"significantly better than the seed prompt (paired test at p < {LEVEL})" if better else NO_GAIN,
        "text": text,
        "found": chosen.winner,
        "start": start,
        "steps": board.step,
        "ended": chosen.ended,
        "examples": {name: len(getattr(task, name)) for name in ("train", "race", "fresh", "test")},
        "fresh": {one: sum(values) / len(values) for one, values in chosen.fresh.items()},
        "dev": [{"text": one.text, "mean": one.mean, "n": len(one.values)} for one in board.rated.values()],
        "written": dict(board.writer.fate),
        "cut_off": board.judge.cut,
        "overlap": overlap(task, chosen.winner),
        "budget": board.judge.client.budget.facts(),
    }
    write_atomically(folder / "prompt.txt", text.encode())
    made = recipe.model_copy(update={"init": InitSection(kind="text", text=text)})
    write_atomically(folder / "recipe.yaml", made.rooted().to_yaml(full=True).encode())
    write_atomically(folder / "report.json", json.dumps(report, indent=1, ensure_ascii=False).encode())
    return Written(text, report, folder)


def every_score(task: Task, answers: list[str]) -> list[Score]:
    """Every metric of the task on test, the deciding one first."""
    counts = Counter(str(example.label) for example in task.test)
    labels = tuple(task.words) or tuple(sorted(counts))
    reported = reported_metrics(task.kind, labels, [counts[label] for label in labels])
    names = [task.metric, *(name for name in reported if name != task.metric)]
    return [task.score(answers, task.test, name) for name in names]


def majority(task: Task, mine: list[str]) -> tuple[Score, dict[str, float]]:
    """The score of the commonest class of train, and how much better the answers are."""
    answers: list[str] = majority_predictions(task.kind, [one.label for one in task.train], len(task.test))
    right = [[task.value(a, e) for a, e in zip(one, task.test, strict=True)] for one in (mine, answers)]
    found: Difference = paired(right[0], right[1])
    return task.score(answers, task.test), found._asdict()


def overlap(task: Task, prompt: str) -> dict[str, str | None]:
    """A run of words that the prompt shares with the texts of each part, or None."""
    parts = {"train": task.train, "dev": [*task.race, *task.fresh], "test": task.test}
    return {name: Guard(map(task.shown, examples)).found(prompt) for name, examples in parts.items()}
