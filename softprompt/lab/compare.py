"""Methods x tasks x seeds x sizes under one protocol: search, repeat, judge, report; nothing is run twice.

A folder holds `data/` (the parts of every task), `trials/` and `runs/` (a sweep for every task, size and method, whose
members are ordinary runs), and the report. A comparison that was stopped goes on when it is called again.
"""

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from softprompt import __version__
from softprompt.backbones import Backbone
from softprompt.errors import TrainingError
from softprompt.files import write_atomically
from softprompt.lab.parts import Parts, part_out
from softprompt.lab.protocol import Protocol, Question, folder_of
from softprompt.lab.trials import Tried, cpu_seconds, group, repeat, search
from softprompt.lab.verdict import Numbers, correct, front, judge, tell
from softprompt.recipe import Recipe
from softprompt.run import Listener
from softprompt.sweep import Swept, plain
from softprompt.training import open_backbone, set_threads


@dataclass(frozen=True)
class Compared:
    """What a comparison found: `numbers` are the same in every repetition, `seconds` and `environment` need not be."""

    folder: Path
    numbers: Numbers
    seconds: list[Numbers]  # CPU seconds by question and method
    environment: Numbers


@dataclass
class Bench:
    """The one backbone and the folder of a comparison."""

    protocol: Protocol
    folder: Path
    listen: Listener
    backbone: Backbone | None

    def open(self) -> Backbone:
        """The backbone, loaded when the first run needs it."""
        if self.backbone is None:
            self.backbone = open_backbone(next(iter(self.protocol.tasks.values())))
        return self.backbone

    def train(self, recipes: Mapping[str, Recipe], place: Path, what: str) -> Swept:
        """Train a group, or read it."""
        self.listen({"event": "note", "text": f"{place.relative_to(self.folder)}: {len(recipes)} {what}"})
        return group(recipes, place, self.open, self.protocol.at_once, self.listen)


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
    bench = Bench(protocol, place, listen, backbone)
    parts = {task: part_out(protocol, task, place / "data" / task) for task in protocol.tasks}
    questions: list[Numbers] = []
    seconds: list[Numbers] = []
    for question in protocol.questions:
        methods, taken = [], []
        for method in protocol.methods:
            tried, told = answer(bench, question, method, parts[question.task])
            methods.append(told)
            taken.append(timed(place, question, method, tried, len(told["runs"])))
        questions.append(judge(question, parts[question.task], methods))
        seconds += on_front(questions[-1], taken)
    correct(questions)
    numbers = {"protocol": protocol.facts(), "questions": questions}
    return Compared(place, numbers, seconds, environment(place, threads))


def answer(bench: Bench, question: Question, method: str, parts: Parts) -> tuple[Tried, Numbers]:
    """Search and repeat one method on one question."""
    protocol, name = bench.protocol, home(question, method)
    tried = search(
        protocol, question, method, parts, lambda made: bench.train(made, bench.folder / "trials" / name, "trials")
    )
    setting = tried.settings[tried.chosen]
    train = lambda made: bench.train(made, bench.folder / "runs" / name, "seeds")  # noqa: E731
    entries = repeat(protocol, question, method, setting, parts, train)
    return tried, tell(method, tried, entries)


def home(question: Question, method: str) -> str:
    """The folder of a method's group, inside `trials` and `runs`."""
    return f"{question.task}/{question.amount}/{folder_of(method)}"


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
            do = "use another folder, with --run"
            raise TrainingError(
                "SP-E514", f"a comparison with other {', '.join(other)}", "this one", do, where=str(place)
            )
    elif place.exists() and any(place.iterdir()):
        raise TrainingError(
            "SP-E514", "other files", "an empty folder, or a comparison", "use another", where=str(place)
        )
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
