"""A long prompt into a short one: the student learns what the teacher answers, not what the labels say.

No paper in our list defines it; this is the common definition: the same frozen model reads [teacher prompt; x] and
[student prompt; x], and KL(teacher || student) is minimised where a label stands.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.errors import SoftpromptError, TrainingError
from softprompt.evaluate import score
from softprompt.files import write_atomically
from softprompt.heads import LanguageModel
from softprompt.plan import Plan, make_plan
from softprompt.prompt import Prompt
from softprompt.recipe import Recipe
from softprompt.run import Listener
from softprompt.sections import MethodSection
from softprompt.stages import claim
from softprompt.sweep.lockstep import Member, go_together
from softprompt.sweep.results import Entry, ended, results
from softprompt.training import open_backbone, set_threads
from softprompt.transfer.paired import Compared, compare
from softprompt.transfer.similarity import embedding, plain
from softprompt.transfer.sources import Source, adopt, copied, starting_from
from softprompt.transfer.taught import Taught, learned
from softprompt.untrained import build

TOP = 20  # tokens of the teacher that are kept at a label
CONTROL, STUDENT = "alone", "distilled"


@dataclass(frozen=True)
class Distilled:
    """The student, the control of the same length, and the teacher, on the same test examples."""

    folder: Path
    student: Entry
    control: Entry
    teacher: dict[str, Any]  # its test score
    test: Compared  # student against control
    against_teacher: Compared
    lengths: tuple[int, int]  # of teacher and student

    @property
    def kept(self) -> Entry:
        """The short prompt to use: the student only where its lead is more than chance."""
        return self.student if self.test.verdict == "gain" else self.control

    @property
    def sentence(self) -> str:
        """What came of it, in one sentence."""
        found = f"{self.test.difference:+.3f} ±{self.test.error:.3f} (p = {self.test.p:.2g}, n = {self.test.n})"
        do = "use the distilled prompt" if self.kept is self.student else "the prompt trained alone will do"
        return f"{self.test.verdict}: {do}; distilled is {found} from the one trained alone"

    def as_dict(self) -> dict[str, Any]:
        """The outcome as plain values."""
        facts = {"run": str(self.folder), "lengths": {"teacher": self.lengths[0], "student": self.lengths[1]}}
        facts |= {"distilled": self.student.as_dict(), "alone": self.control.as_dict(), "teacher": self.teacher}
        facts |= {"paired_test": self.test.as_dict(), "against_teacher": self.against_teacher.as_dict()}
        return facts | {"keep": self.kept.name, "prompt": str(self.kept.prompt), "answer": self.sentence}


def distill(
    recipe: Recipe,
    teacher: Source,
    folder: str | Path,
    *,
    length: int,
    top: int = TOP,
    backbone: Backbone | None = None,
    listen: Listener = lambda event: None,
) -> Distilled:
    """Train a prompt of `length` vectors to answer as `teacher` does, and one alone, in one pass on the same budget.

    The recipe names the data; method and start are the teacher's where it leaves them open. Raises `SoftpromptError`
    SP-E624 for a length that is not shorter, a teacher of another task, or a head that reads no words.
    """
    place = Path(folder)
    backbone = backbone or open_backbone(recipe)
    set_threads(recipe)
    recipe = shorter(adopt(recipe, [teacher], backbone), teacher, length)
    plan = make_plan(recipe, backbone)
    bound = teacher.artifact.bind(backbone)
    check(bound, build(plan, backbone), teacher)
    start = beginning(plan, teacher, copied(teacher, place / "sources"), length)
    plans = {CONTROL: plan, STUDENT: make_plan(starting_from(recipe, start), backbone)}
    for name, own in plans.items():
        claim(own, backbone, place / name)
    if not all(ended(place / name) for name in plans):
        alone = Member(CONTROL, plans[CONTROL], place / CONTROL, listen)
        taught = Student(STUDENT, plans[STUDENT], place / STUDENT, listen)
        taught.teacher, taught.top = bound, top
        go_together([alone, taught], backbone, listen)
    control, student = results(place, list(plans)).entries
    return judged(place, plan, bound, student, control, (teacher.artifact.card.method.length, length))


def shorter(recipe: Recipe, teacher: Source, length: int) -> Recipe:
    """The recipe at the student's length; raises `SoftpromptError` SP-E624 where that is none."""
    most = teacher.artifact.card.method.length
    if not 0 < length < most:
        found, do = f"a length of {length} for a teacher of {most}", "choose a shorter one"
        raise SoftpromptError("SP-E624", found, f"1 to {most - 1}", do)
    method = recipe.method
    return recipe.model_copy(update={"method": MethodSection(name=method.name, length=length, options=method.options)})


def check(teacher: Prompt, student: Prompt, source: Source) -> None:
    """Raise `SoftpromptError` SP-E624 where the teacher's answers are no lesson for the student."""
    if not isinstance(student.head, LanguageModel):
        found, do = f"a trained {student.head.name} head", "set task.head=verbalizer"
        raise SoftpromptError("SP-E624", found, "a head that reads words", do)
    same = (teacher.head.name, teacher.head.options(), teacher.task.labels)
    if same != (student.head.name, student.head.options(), student.task.labels):
        found = f"a {teacher.head.name} for {', '.join(teacher.task.labels)[:80] or teacher.task.kind} in {source.name}"
        raise SoftpromptError("SP-E624", found, "a teacher of the same task", "give the data that it was trained for")


def beginning(plan: Plan, teacher: Source, copy: Path, length: int) -> Path:
    """A file of those of the teacher's vectors that stand for all of them best, in their order."""
    chosen = representatives(embedding(teacher.artifact), length)
    tensors = {
        f"method.{name}": (x[chosen] if x.dim() == 2 else x[:, :, :, chosen]).float()
        for name, x in plain(teacher.artifact).items()
    }
    card = teacher.artifact.card
    method = card.method.model_copy(update={"length": length})
    template = card.template.model_copy(update={"text": plan.recipe.task.template})
    update = {"method": method, "template": template, "report": {}, "canaries": [], "parents": (copy.name,)}
    path = copy.with_name(f"{teacher.name}-{length}.safetensors")
    if not path.exists():
        Artifact(tensors, card.model_copy(update=update)).save(path)
    return path


def representatives(rows: Tensor, count: int) -> list[int]:
    """Which of some vectors [P, F] to keep: one by one, the one that brings all vectors nearest to a kept one."""
    apart = torch.cdist(rows, rows)  # [P, P]
    kept: list[int] = []
    nearest = torch.full((len(rows),), float("inf"), dtype=rows.dtype)
    for _ in range(count):
        left = torch.minimum(nearest, apart).sum(1)
        left[kept] = float("inf")
        kept.append(int(left.argmin()))
        nearest = torch.minimum(nearest, apart[kept[-1]])
    return sorted(kept)


class Student(Member):
    """A member of a pass that learns from a teacher; scored and stored as any other."""

    teacher: Prompt
    top: int

    @override
    def build(self, backbone: Backbone) -> None:
        super().build(backbone)
        lessons = learned(self.teacher, self.prompt, [*self.plan.train, *self.plan.dev], self.top)
        given = self.prompt
        self.prompt = Taught(given.backbone, given.method, given.head, given.template, given.task)
        self.prompt.fewest, self.prompt.lessons = given.fewest, lessons


def judged(
    place: Path, plan: Plan, teacher: Prompt, student: Entry, control: Entry, lengths: tuple[int, int]
) -> Distilled:
    """Both as an outcome, which goes to distill.json; raises `TrainingError` where one of them broke off."""
    for entry in (student, control):
        if entry.report is None:
            error = entry.error or {}
            raise TrainingError(error["code"], error["found"], error["expected"], error["do"], where=str(entry.folder))
    short, alone = (Artifact.load(entry.prompt).bind(teacher.backbone) for entry in (student, control))
    answers = [prediction.answer for prediction in teacher.predict(plan.test)]
    found = score(plan.kind, plan.recipe.task.metric, answers, plan.test)
    pairs = compare(short, alone, plan), compare(short, teacher, plan)
    made = Distilled(place, student, control, found.as_dict(), *pairs, lengths)
    write_atomically(place / "distill.json", json.dumps(made.as_dict(), indent=1).encode())
    return made


__all__ = ["TOP", "Distilled", "distill", "representatives"]
