"""Methods x tasks x seeds x sizes under one protocol: search, repeat, judge, report; nothing is run twice.

A folder holds `data/` (the parts of every task), `trials/` and `runs/` (a sweep for every task, size and method, whose
members are ordinary runs), and the report. A comparison that was stopped goes on when it is called again.
"""

import json
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from softprompt import __version__
from softprompt.backbones import Backbone
from softprompt.errors import TrainingError
from softprompt.files import write_atomically
from softprompt.lab.bench import Bench, home
from softprompt.lab.parts import part_out
from softprompt.lab.protocol import Protocol, Question
from softprompt.lab.trials import Tried
from softprompt.lab.verdict import Numbers, correct, front, judge, tell
from softprompt.run import Listener
from softprompt.sweep import plain
from softprompt.sweep.clock import cpu_seconds
from softprompt.training import set_threads


@dataclass(frozen=True)
class Compared:
    """What a comparison found: `numbers` are the same in every repetition, `seconds` and `environment` need not be."""

    folder: Path
    numbers: Numbers
    seconds: list[Numbers]  # CPU seconds by question and method
    environment: Numbers


def compare(
    protocol: Protocol,
    folder: str | Path,
    *,
    backbone: Backbone | None = None,
    listen: Listener = lambda event: None,
) -> Compared:
    """Run a comparison in `folder`, go on with it, or read what it left.

    Raises `RecipeError` for methods or settings that do not fit, `DataError` for parts that would be empty, and
    `TrainingError` where the folder holds something else, or where no run of a method could be trained.
    """
    place = Path(folder)
    threads = claim(protocol, place)
    set_threads(next(iter(protocol.tasks.values())))
    torch.set_num_threads(threads)  # sums over other blocks give other last bits
    parts = {task: part_out(protocol, task, place / "data" / task) for task in protocol.tasks}
    bench = Bench(protocol, place, listen, backbone, parts)
    bench.ahead()
    questions: list[Numbers] = []
    seconds: list[Numbers] = []
    for question in protocol.questions:
        methods, taken = [], []
        for method in protocol.methods:
            tried = bench.tried(question, method)
            told = tell(method, tried, bench.train(bench.repeat(question, method)).entries)
            methods.append(told)
            taken.append(timed(place, question, method, tried, len(told["runs"])))
        questions.append(judge(question, parts[question.task], methods))
        seconds += on_front(questions[-1], taken)
    correct(questions)
    numbers = {"protocol": protocol.facts(), "questions": questions}
    return Compared(place, numbers, seconds, environment(place, threads))


def timed(place: Path, question: Question, method: str, tried: Tried, runs: int) -> Numbers:
    """CPU seconds of training, dev scores included: of all trials, and of one reported run."""
    name = home(question, method)
    search_cost, run_cost = (cpu_seconds(place / kind / name) for kind in ("trials", "runs"))
    facts = {"task": question.task, "size": question.amount, "method": method, "trials": len(tried.entries)}
    return facts | {"cpu_seconds_of_search": search_cost, "cpu_seconds_of_a_run": run_cost / max(1, runs)}


def on_front(question: Numbers, taken: list[Numbers]) -> list[Numbers]:
    """The seconds of a question's methods, and whether no other is as good in less time."""
    sign = 1 if question["higher_is_better"] else -1
    values = [sign * method["test"]["value"] for method in question["methods"]]
    points = {cost["method"]: (v, cost["cpu_seconds_of_a_run"]) for v, cost in zip(values, taken, strict=True)}
    best = front(points)
    return [cost | {"on_front": cost["method"] in best} for cost in taken]


def claim(protocol: Protocol, place: Path) -> int:
    """Say in `place` what is compared there; the threads that it runs on.

    Methods, tasks and sizes may be added later; raises `TrainingError` for anything else that differs.
    """
    path, wanted = place / "compare.json", protocol.facts()
    threads = next(iter(protocol.tasks.values())).train.threads or torch.get_num_threads()
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        threads = before["threads"]
        fixed = [key for key in wanted if key not in ("tasks", "methods", "sizes")]
        other = [key for key in fixed if wanted[key] != before["protocol"][key]]
        if other:
            raise taken_by(f"a comparison with other {', '.join(other)}", place)
    elif place.exists() and any(place.iterdir()):
        raise taken_by("other files", place)
    place.mkdir(parents=True, exist_ok=True)
    facts = {"protocol": wanted, "recipes": plain(protocol.tasks), "threads": threads}
    write_atomically(path, json.dumps(facts, indent=1).encode())
    return int(threads)


def taken_by(what: str, place: Path) -> TrainingError:
    """The error for a folder that holds something else."""
    expected, do = "an empty folder, or this comparison", "use another folder, with --run"
    return TrainingError("SP-E514", what, expected, do, where=str(place))


def environment(place: Path, threads: int) -> Numbers:
    """What the numbers were made on."""
    identity: Any = json.loads(next(place.glob("runs/*/*/*/*/run.json")).read_text(encoding="utf-8"))
    made = {"softprompt": __version__, "python": platform.python_version()}
    made |= {name: version(name) for name in ("torch", "transformers", "numpy", "scipy")}
    machine = f"{platform.system()} {platform.machine()}"
    return made | {"machine": machine, "threads": threads, "fingerprint of the backbone": identity["backbone"]}
