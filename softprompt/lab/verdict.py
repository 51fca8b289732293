"""What the runs say: means with ± over seeds, paired tests with Holm's correction, and who is on the Pareto front.

Every number here is the same, bit for bit, in a repetition; seconds are kept elsewhere. Runs of one seed share their
training examples and their order, so methods are compared in pairs: Student's t over the differences by seed. Holm
1979, "A simple sequentially rejective multiple test procedure", over all pairs of all questions of a report.
"""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from softprompt.lab.parts import Parts
from softprompt.lab.protocol import Question
from softprompt.lab.trials import Tried
from softprompt.metrics import Score, find_metric, over_seeds
from softprompt.recipe import load_recipe
from softprompt.sweep.results import Entry

LEVEL = 0.05  # of the whole family of tests
SHOWN = ("backbone", "task", "method", "init", "optim", "train")  # sections whose every key is reported
OWN = "untrained prompt"  # a baseline that differs from method to method
Numbers = dict[str, Any]


def tell(method: str, tried: Tried, entries: Sequence[Entry]) -> Numbers:
    """Everything about one method on one question."""
    whole = [entry for entry in entries if entry.report is not None]
    runs = [told(entry) for entry in whole]
    score = over_seeds([Score.from_dict(run["test"]) for run in runs])
    trials = [
        {"trial": i, "setting": setting, "selection": trial.dev or None, "error": trial.error}
        for i, (setting, trial) in enumerate(zip(tried.settings, tried.entries, strict=True))
    ]
    return {
        "method": method,
        "test": score.as_dict(),
        "error_over_examples": mean([run["test"]["error"] for run in runs]),
        "runs": runs,
        "broken": {entry.name: entry.error for entry in entries if entry.report is None},
        "parameters": whole[0].report["parameters"] if whole[0].report else 0,
        "operations": mean([run["operations"] for run in runs]),
        "trials": trials,
        "chosen": tried.chosen,
        "recipe": settings(whole[0].folder),
        "baselines": {
            name: over_seeds(scores).as_dict() | {"error_over_examples": mean([score.error for score in scores])}
            for name, scores in baselines(whole).items()
        },
    }


def told(entry: Entry) -> Numbers:
    """One run: its scores, and what its steps cost."""
    assert entry.report is not None
    events = [json.loads(text) for text in (entry.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = sum(event["event"] == "step" for event in events)
    cost = next(event for event in events if event["event"] == "cost")
    seed = load_recipe(entry.folder / "recipe.yaml").train.seed
    facts = {"seed": seed, "test": entry.report["scores"][0], "dev": entry.dev, "others": entry.report["scores"][1:]}
    return facts | {"steps": steps, "operations": cost["operations"] * steps / cost["steps"]}


def settings(folder: Path) -> Numbers:
    """Every key of the resolved recipe but the seed and the machine's paths."""
    recipe = load_recipe(folder / "recipe.yaml")
    values = recipe.model_dump(mode="json")
    values["train"] = {key: value for key, value in values["train"].items() if key not in ("seed", "cache_folder")}
    for section in ("backbone", "init"):
        values[section] |= recipe.shared().get(section, {})  # with names for paths
    return {section: values[section] for section in SHOWN}


def baselines(entries: Sequence[Entry]) -> dict[str, list[Score]]:
    """Scores of what a prompt has to beat, by name."""
    found: dict[str, list[Score]] = {}
    for entry in entries:
        for name, score in (entry.report or {"baselines": {}})["baselines"].items():
            found.setdefault(name, []).append(Score.from_dict(score))
    return found


def judge(question: Question, parts: Parts, methods: list[Numbers]) -> Numbers:
    """A question with its methods: pairs, and the front of quality against what it costs."""
    metric = find_metric(methods[0]["recipe"]["task"]["metric"])
    sign = 1 if metric.higher_is_better else -1
    costs = ("parameters", "operations")
    return {
        "task": question.task,
        "size": question.amount,
        "examples": parts.counts | {"train": question.size or parts.counts["train"]},
        "metric": methods[0]["test"]["name"],
        "higher_is_better": metric.higher_is_better,
        "methods": methods,
        "pairs": [pair(a, b) for a, b in combinations(methods, 2)],
        "front": {cost: front({m["method"]: (sign * m["test"]["value"], m[cost]) for m in methods}) for cost in costs},
    }


def pair(first: Numbers, second: Numbers) -> Numbers:
    """How far the first is above the second on the seeds that both have, and the p of a paired test."""
    sides = [{run["seed"]: run["test"]["value"] for run in method["runs"]} for method in (first, second)]
    gaps = [value - sides[1][seed] for seed, value in sides[0].items() if seed in sides[1]]
    difference, error, p = paired_t(gaps)
    names = {"first": first["method"], "second": second["method"], "seeds": len(gaps)}
    return names | {"difference": difference, "error": error, "p": p}


def paired_t(gaps: Sequence[float]) -> tuple[float, float | None, float | None]:
    """The mean of differences, the half-width of its 95 % interval, and Student's two-sided p; None for one seed.

    Where all differences are the same, t has no scale: then p is that of an exact sign-flip test, which no number of
    seeds below six brings under 0.05.
    """
    values, n = np.array(gaps), len(gaps)
    if n < 2:
        return mean(gaps), None, None
    spread = float(values.std(ddof=1))
    if spread <= 1e-12 * float(np.abs(values).max(initial=1.0)):
        return mean(gaps), 0.0, 1.0 if abs(mean(gaps)) <= 1e-12 else 2.0 ** (1 - n)
    from scipy.stats import t

    scale = spread / math.sqrt(n)
    return mean(gaps), float(t.ppf(0.975, n - 1)) * scale, float(2 * t.sf(abs(mean(gaps)) / scale, n - 1))


def correct(questions: Sequence[Numbers]) -> None:
    """Put Holm's p, and what it means, beside the p of every pair of every question."""
    tested = [pair for question in questions for pair in question["pairs"] if pair["p"] is not None]
    for pair, p in zip(tested, holm([pair["p"] for pair in tested]), strict=True):
        pair["p_holm"] = p
    for question in questions:
        sign = 1 if question["higher_is_better"] else -1
        for pair in question["pairs"]:
            better = pair["first"] if sign * pair["difference"] > 0 else pair["second"]
            pair["better"] = better if pair.get("p_holm", 1.0) < LEVEL else None


def holm(found: Sequence[float]) -> list[float]:
    """Corrected p: the k-th smallest of m times (m - k + 1), at least that of the one before, at most 1."""
    made, least = [0.0] * len(found), 0.0
    for rank, at in enumerate(sorted(range(len(found)), key=found.__getitem__)):
        least = max(least, min(1.0, (len(found) - rank) * found[at]))
        made[at] = least
    return made


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names that no other dominates; of each name quality, larger is better, and cost, smaller is better."""
    return [
        name
        for name, (quality, cost) in points.items()
        if not any(q >= quality and c <= cost and (q > quality or c < cost) for q, c in points.values())
    ]


def mean(values: Sequence[float]) -> float:
    """The mean, of a sum that rounds once."""
    return math.fsum(values) / len(values)
