"""What a teacher answered, kept in the folder of a distillation: it is asked once, however often the run is stopped."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from softprompt.container import read_foreign, write_foreign
from softprompt.errors import TrainingError
from softprompt.files import write_atomically
from softprompt.plan import Plan
from softprompt.prompt import Prompt
from softprompt.transfer.taught import Lesson, asked
from softprompt.transfer.teachers import Teacher


@dataclass(frozen=True)
class Answers:
    """The lessons on the training and dev examples, in this order, and the answers to the test examples."""

    lessons: list[Lesson]
    test: list[Any]


def remembered(place: Path, teacher: Teacher, top: int) -> Answers | None:
    """What is kept in `place`, None where there is nothing.

    Raises `TrainingError` SP-E514 for the answers of another teacher, or of more or fewer tokens.
    """
    path = place / "teacher.json"
    if not path.exists():
        return None
    before = json.loads(path.read_text(encoding="utf-8"))
    other = [name for name, value in facts(teacher, top).items() if before.get(name) != value]
    if other:
        found = f"a distillation with another {' and '.join(other)}"
        do = "remove it, or choose another folder with --run"
        raise TrainingError("SP-E514", found, "an empty folder, or this distillation", do, where=str(place))
    kept = read_foreign(place / "lessons.safetensors")
    counts = kept["counts"].tolist()
    pairs = zip(torch.split(kept["ids"], counts), torch.split(kept["chances"], counts), strict=True)
    return Answers(list(pairs), before["answers"])


def consult(teacher: Teacher, prompt: Prompt, plan: Plan, place: Path, top: int) -> Answers:
    """Ask a teacher about every example of a plan, and keep what it says in `place`; `top` as in `asked`."""
    lessons = asked(prompt, [*plan.train, *plan.dev], top)
    answers = [prediction.answer for prediction in prompt.predict(plan.test)]
    place.mkdir(parents=True, exist_ok=True)
    write_foreign(place / "lessons.safetensors", stacked(lessons))
    text = json.dumps(facts(teacher, top) | {"answers": answers}, indent=1)
    write_atomically(place / "teacher.json", text.encode())  # last: where it is, the lessons are
    return Answers(lessons, answers)


def facts(teacher: Teacher, top: int) -> dict[str, Any]:
    """What the answers depend on beyond the data."""
    return {"teacher": teacher.identity, "top": top}


def stacked(lessons: Sequence[Lesson]) -> dict[str, torch.Tensor]:
    """Lessons as tensors: ids [N, top], chances [N, top + 1], and how many of the N belong to each example."""
    ids, chances = (torch.cat(parts) for parts in zip(*lessons, strict=True))
    return {"ids": ids, "chances": chances, "counts": torch.tensor([len(one) for one, _ in lessons])}


__all__ = ["Answers", "consult", "remembered"]
