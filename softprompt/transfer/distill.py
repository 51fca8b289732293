"""A long prompt, or another teacher, into a short one: it learns what the teacher answers, not what the labels say.

No paper in our list defines it; this is the common definition: a model reads [teacher prompt; x], or x alone where the
teacher is a tuned model (`teachers`), the frozen one [student prompt; x], and KL(teacher || student) is minimised where
a label stands.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from softprompt.artifact import Artifact, describe
from softprompt.backbones import Backbone
from softprompt.errors import SoftpromptError, TrainingError
from softprompt.evaluate import score
from softprompt.files import write_atomically
from softprompt.plan import Plan, make_plan
from softprompt.recipe import Recipe
from softprompt.run import Listener
from softprompt.sections import MethodSection
from softprompt.stages import claim, fingerprint
from softprompt.sweep.lockstep import Member, go_together
from softprompt.sweep.results import Entry, ended, results
from softprompt.training import open_backbone, set_threads
from softprompt.transfer.answers import Answers, consult, remembered
from softprompt.transfer.paired import Compared, compared, graded, marks
from softprompt.transfer.similarity import embedding, plain
from softprompt.transfer.sources import Source, adopt, copied, starting_from
from softprompt.transfer.taught import Taught, by_row
from softprompt.transfer.teachers import Teacher, check, of_prompt, reads_words
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
    lengths: tuple[int | None, int]  # of a prompt that teaches, and of the student
    title: str  # of the teacher

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
        facts |= {
            "distilled": self.student.as_dict(),
            "alone": self.control.as_dict(),
            "teacher": self.teacher,
            "taught_by": self.title,
        }
        facts |= {"paired_test": self.test.as_dict(), "against_teacher": self.against_teacher.as_dict()}
        return facts | {"keep": self.kept.name, "prompt": str(self.kept.prompt), "answer": self.sentence}


def distill(
    recipe: Recipe,
    teacher: Source | Teacher,
    folder: str | Path,
    *,
    length: int,
    top: int = TOP,
    backbone: Backbone | None = None,
    listen: Listener = lambda event: None,
) -> Distilled:
    """Train a prompt of `length` vectors to answer as `teacher` does, and one alone, in one pass on the same budget.

    The recipe names the data; method and start are those of a prompt that teaches where it leaves them open. The
    teacher is asked once, its answers stay in `folder`. Raises `SoftpromptError` SP-E624 for a length that is not
    shorter, a teacher of another task, or a head that reads no words, SP-E850 and SP-E851 for teachers that cannot
    answer, and `TrainingError` SP-E514 where the folder has another teacher.
    """
    place, who = Path(folder), teacher if isinstance(teacher, Teacher) else of_prompt(teacher)
    backbone = backbone or open_backbone(recipe)
    set_threads(recipe)
    recipe = shorter(adopt(recipe, [who.source] if who.source else [], backbone), who, length, backbone)
    plan = make_plan(recipe, backbone)
    untrained, known = build(plan, backbone), remembered(place, who, top)
    reads_words(untrained)
    told = None if known else who.ask(plan, untrained, listen)
    if told is not None:
        check(told, untrained, who, plan)
    plans = {CONTROL: plan, STUDENT: make_plan(started(recipe, plan, who, place, length, backbone), backbone)}
    for name, own in plans.items():
        claim(own, backbone, place / name)
    if known is None:
        assert told is not None
        known = consult(who, told, plan, place, top)
        told = None  # it may be a whole model
    if not all(ended(place / name) for name in plans):
        alone = Member(CONTROL, plans[CONTROL], place / CONTROL, listen)
        taught = Student(STUDENT, plans[STUDENT], place / STUDENT, listen)
        taught.answers = known
        go_together([alone, taught], backbone, listen)
    control, student = results(place, list(plans)).entries
    lengths = who.source.artifact.card.method.length if who.source else None, length
    return judged(place, plan, backbone, known, student, control, lengths, who.title)


def shorter(recipe: Recipe, who: Teacher, length: int, backbone: Backbone) -> Recipe:
    """The recipe at the student's length; raises `SoftpromptError` SP-E624 where that is none.

    A prompt of the same model teaches shorter ones only; of another model, for example of one with a LoRA, any.
    """
    card = who.source.artifact.card if who.source else None
    same = card is not None and card.backbone.fingerprint == backbone.fingerprint
    if length < 1 or (same and card is not None and length >= card.method.length):
        most = f"1 to {card.method.length - 1}" if same and card is not None else "1 or more"
        found = f"a length of {length}" + (f" for a teacher of {card.method.length}" if same and card else "")
        raise SoftpromptError("SP-E624", found, most, "choose a shorter one")
    method = recipe.method
    return recipe.model_copy(update={"method": MethodSection(name=method.name, length=length, options=method.options)})


def started(recipe: Recipe, plan: Plan, who: Teacher, place: Path, length: int, backbone: Backbone) -> Recipe:
    """The recipe of the student: it begins at vectors of a prompt, or at words of a text, where that is possible."""
    if who.source is not None:
        own, here = who.source.artifact.card, describe(backbone)
        alike = all(getattr(own.backbone, k) == getattr(here, k) for k in ("family", "hidden", "layers", "tokenizer"))
        if alike and length <= own.method.length:
            copy = copied(who.source, place / "sources")
            return starting_from(recipe, beginning(plan, who.source, copy, length, backbone))
    if who.words and recipe.init.kind == "auto":
        return recipe.model_copy(update={"init": recipe.init.model_copy(update={"kind": "text", "text": who.words})})
    return recipe


def beginning(plan: Plan, teacher: Source, copy: Path, length: int, backbone: Backbone) -> Path:
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
    made = Artifact(tensors, card.model_copy(update=update | {"backbone": describe(backbone)}))
    path = copy.with_name(f"{teacher.name}-{length}.safetensors")
    if not path.exists() or fingerprint(Artifact.load(path)) != fingerprint(made):
        made.save(path)
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

    answers: Answers

    @override
    def build(self, backbone: Backbone) -> None:
        super().build(backbone)
        given = self.prompt
        self.prompt = Taught(given.backbone, given.method, given.head, given.template, given.task)
        self.prompt.fewest = given.fewest
        self.prompt.lessons = by_row(given, [*self.plan.train, *self.plan.dev], self.answers.lessons)


def judged(
    place: Path,
    plan: Plan,
    backbone: Backbone,
    known: Answers,
    student: Entry,
    control: Entry,
    lengths: tuple[int | None, int],
    title: str,
) -> Distilled:
    """Both as an outcome, which goes to distill.json; raises `TrainingError` where one of them broke off."""
    for entry in (student, control):
        if entry.report is None:
            error = entry.error or {}
            raise TrainingError(error["code"], error["found"], error["expected"], error["do"], where=str(entry.folder))
    short, alone = (marks(Artifact.load(entry.prompt).bind(backbone), plan, plan.test) for entry in (student, control))
    found = score(plan.kind, plan.recipe.task.metric, known.test, plan.test)
    pairs = compared(short, alone), compared(short, graded(known.test, plan, plan.test))
    made = Distilled(place, student, control, found.as_dict(), *pairs, lengths, title)
    write_atomically(place / "distill.json", json.dumps(made.as_dict(), indent=1).encode())
    return made


__all__ = ["TOP", "Distilled", "distill", "representatives"]
