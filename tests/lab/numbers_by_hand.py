"""The numbers of a comparison that nobody ran, to look at what a report makes of them."""

from pathlib import Path
from typing import Any

from softprompt.lab.parts import Parts
from softprompt.lab.protocol import Protocol, Question
from softprompt.lab.verdict import correct, judge
from softprompt.metrics import Score, over_seeds
from softprompt.recipe import make_recipe

PARTS = Parts(Path(), {}, {}, {"train": 600, "selection": 150, "dev": 100, "test": 200})
QUALITY = {"prompt_tuning": 0.71, "prefix": 0.78, "dept": 0.705}
COST = {"prompt_tuning": (2_560, 1.3e10), "prefix": (20_480, 1.1e10), "dept": (3_000, 1.4e10)}


def method(name: str, shift: float, seeds: int) -> dict[str, Any]:
    """One method on one question; `shift` moves all its scores."""
    values = [QUALITY[name] + shift + 0.004 * ((7 * i * len(name) + i) % 5 - 2) for i in range(seeds)]
    scores = [Score("accuracy", value, 0.06, 200) for value in values]
    runs = [
        {"seed": i, "test": s.as_dict(), "dev": s.as_dict(), "others": [], "steps": 40, "operations": COST[name][1]}
        for i, s in enumerate(scores)
    ]
    trials = [
        {"trial": 0, "setting": {}, "selection": Score("accuracy", 0.7, 0.1, 150).as_dict(), "error": None},
        {"trial": 1, "setting": {"optim.lr": 0.3}, "selection": None, "error": {"message": "SP-E520 <not finite>"}},
    ]
    beside = {"majority": 0.25, "zero-shot": 0.41, "untrained prompt": 0.33, "linear probe": 0.69}
    recipe = make_recipe({"method": {"name": name}, "task": {"metric": "accuracy", "kind": "classification"}})
    return {
        "method": name,
        "test": over_seeds(scores).as_dict(),
        "error_over_examples": 0.06,
        "runs": runs,
        "broken": {},
        "parameters": COST[name][0],
        "operations": COST[name][1],
        "trials": trials,
        "chosen": 0,
        "recipe": recipe.model_dump(mode="json", include={"task", "method", "init", "optim", "train"}),
        "baselines": {
            at: Score("accuracy", value, 0.02, 200, seeds).as_dict() | {"error_over_examples": 0.07}
            for at, value in beside.items()
        },
    }


def numbers(sizes: tuple[int | None, ...] = (100, None), seeds: int = 5) -> dict[str, Any]:
    """A whole comparison: two tasks, three methods."""
    tasks = {name: make_recipe({"data": {"train": "x"}}) for name in ("reviews", "a<b>&_50%")}
    protocol = Protocol(tasks=tasks, methods=tuple(QUALITY), seeds=seeds, trials=2, sizes=sizes)
    questions = []
    for question in protocol.questions:
        shift = (0.0 if question.size is None else -0.12) - (0.05 if "<" in question.task else 0.0)
        questions.append(judge(question, PARTS, [method(name, shift, seeds) for name in QUALITY]))
    correct(questions)
    return {"protocol": protocol.facts(), "questions": questions}


def seconds(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The clock of such a comparison."""
    return [
        {"task": q["task"], "size": q["size"], "method": m["method"], "trials": 2}
        | {"cpu_seconds_of_search": 8.0, "cpu_seconds_of_a_run": 4.0 + i, "on_front": i < 2}
        for q in found["questions"]
        for i, m in enumerate(q["methods"])
    ]


__all__ = ["Question", "numbers", "seconds"]
