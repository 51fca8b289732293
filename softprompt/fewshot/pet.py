"""PET with prompts: an ensemble over several patterns labels texts softly, and one prompt learns from its labels.

Schick, Schütze 2021, "Exploiting Cloze Questions for Few Shot Text Classification and Natural Language Inference",
arXiv:2001.07676, section 3. Deviations: a pattern's prompt is trained, and the backbone stays frozen; what learns from
the soft labels is one prompt over the first pattern, not a classifier; one prompt a pattern, not three. The answers of
pattern p count w(p) of their logarithms, its accuracy on the training examples before training, at temperature 2.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.choices import choose_rate
from softprompt.core import Example
from softprompt.data import read_inputs
from softprompt.data.checks import alike
from softprompt.data.dataset import Columns
from softprompt.ensemble import Ensemble
from softprompt.errors import DataError, TrainingError
from softprompt.evaluate import score
from softprompt.fewshot.patterns import Pattern, asked
from softprompt.files import write_atomically
from softprompt.metrics import Score
from softprompt.plan import Plan, make_plan
from softprompt.prompt import Prompt, without_prompt
from softprompt.recipe import Recipe
from softprompt.run import Listener
from softprompt.stages import claim
from softprompt.sweep import train_all
from softprompt.sweep.lockstep import Member, go_together
from softprompt.sweep.results import Entry, ended, results
from softprompt.training import open_backbone, set_threads
from softprompt.transfer.paired import Compared, compare
from softprompt.transfer.taught import Taught, key
from softprompt.untrained import build

TEMPERATURE = 2.0  # of the soft labels
STUDENT = "distilled"


@dataclass(frozen=True)
class Distilled:
    """The ensemble, the one prompt made of it, and the first pattern's own prompt, on the same test examples."""

    folder: Path
    members: list[Entry]
    weights: list[float]  # of the patterns, which sum to 1
    student: Entry
    ensemble: Score
    agreement: float  # share of unlabelled texts on which all patterns say the same
    texts: int
    left_out: int  # unlabelled texts that are dev or test examples
    test: Compared  # student against the first pattern's own prompt

    @property
    def sentence(self) -> str:
        """What came of it, in one sentence."""
        found = f"{self.test.difference:+.3f} ±{self.test.error:.3f} (p = {self.test.p:.2g}, n = {self.test.n})"
        return f"{self.test.verdict}: the distilled prompt is {found} from the first pattern's own"

    def as_dict(self) -> dict[str, Any]:
        """The outcome as plain values."""
        patterns = [one.as_dict() | {"weight": w} for one, w in zip(self.members, self.weights, strict=True)]
        facts: dict[str, Any] = {"run": str(self.folder), "patterns": patterns, "ensemble": self.ensemble.as_dict()}
        facts |= {"distilled": self.student.as_dict(), "paired_test": self.test.as_dict(), "answer": self.sentence}
        facts |= {"texts": self.texts, "left_out": self.left_out, "agreement": self.agreement}
        return facts | {"prompt": str(self.student.prompt)}


def pet(
    recipe: Recipe,
    folder: str | Path,
    *,
    patterns: Sequence[Pattern],
    unlabelled: str | Path,
    steps: int | None = None,
    backbone: Backbone | None = None,
    listen: Listener = lambda event: None,
) -> Distilled:
    """Train a prompt for every pattern, label the texts of `unlabelled` with all of them, and distil one prompt.

    `steps` is for the distilled prompt; the recipe's where not given. The same folder goes on where it was stopped.
    Raises `RecipeError` SP-E755 for patterns that are no ensemble, `DataError` SP-E756 where no text is left.
    """
    place = Path(folder)
    backbone = backbone or open_backbone(recipe)
    set_threads(recipe)
    recipes = asked(recipe, patterns, backbone)
    members = train_all(recipes, place / "patterns", backbone=backbone, listen=listen).entries
    plans = [make_plan(one, backbone) for one in recipes.values()]
    prompts = [bound(entry, backbone) for entry in members]
    weights = trust([build(plan, backbone) for plan in plans], plans[0].train)
    examples, left_out = texts(unlabelled, plans[0])
    teacher = Teacher(prompts, weights)
    soft = teacher.labels([*examples, *plans[0].train, *plans[0].dev])
    plan = lesson_plan(plans[0], recipe, examples, soft, steps)
    claim(plan, backbone, place / STUDENT)
    if not ended(place / STUDENT):
        student = Student(STUDENT, plan, place / STUDENT, listen)
        student.examples, student.soft = [*plan.train, *plan.dev], soft
        go_together([student], backbone, listen)
    entry = results(place, [STUDENT]).entries[0]
    return judged(place, plan, teacher, members, entry, examples, left_out)


def bound(entry: Entry, backbone: Backbone) -> Prompt:
    """The prompt of a run; raises the error that ended it."""
    if entry.report is None:
        error = entry.error or {}
        raise TrainingError(error["code"], error["found"], error["expected"], error["do"], where=str(entry.folder))
    return Artifact.load(entry.prompt).bind(backbone)


def trust(untrained: Sequence[Prompt], examples: Sequence[Example]) -> list[float]:
    """How much each pattern counts: its accuracy on the training examples before training, as shares of their sum."""
    right = []
    for prompt in untrained:
        answers = without_prompt(prompt).predict(examples)
        right.append(sum(a.answer == e.label for a, e in zip(answers, examples, strict=True)) / len(examples))
    total = sum(right)
    return [share / total if total else 1 / len(right) for share in right]


def texts(source: str | Path, plan: Plan) -> tuple[list[Example], int]:
    """The unlabelled examples that are not the recipe's, once each, and how many were left out for being dev or test.

    Raises `DataError` SP-E756 where none is left.
    """
    data = read_inputs(source, columns=Columns(plan.recipe.data.text), kind="classification")
    barred = {alike(example) for example in [*plan.dev, *plan.test]}
    known = barred | {alike(example) for example in plan.train}
    kept = {alike(example): example for example in reversed(data.examples) if alike(example) not in known}
    if not kept:
        found = f"{len(data)} texts, all of them train, dev or test examples"
        raise DataError("SP-E756", found, "texts without labels", "give other texts", where=str(source))
    return list(kept.values())[::-1], sum(alike(example) in barred for example in data.examples)


class Teacher:
    """The prompts of all patterns, and how much each counts."""

    def __init__(self, prompts: Sequence[Prompt], weights: Sequence[float]) -> None:
        self.prompts, self.weights = list(prompts), torch.tensor(weights, dtype=torch.float64)

    def opinions(self, examples: Sequence[Example]) -> Tensor:
        """Log-chances [N, E, C] by every prompt, classes in the order of the first."""
        votes, _ = Ensemble(self.prompts).answer(examples)
        labels = self.prompts[0].task.labels
        chances = [[[vote.scores[label] for label in labels] for vote in own] for own in votes]
        return torch.tensor(chances, dtype=torch.float64).clamp(min=1e-12).log()

    def labels(self, examples: Sequence[Example], temperature: float = TEMPERATURE) -> Tensor:
        """Soft labels as log-chances [E, C]: weighed scores of all prompts, softened."""
        weighed = (self.weights[:, None, None] * self.opinions(examples)).sum(0)
        return (weighed / temperature).log_softmax(-1).float()

    def answers(self, examples: Sequence[Example]) -> list[str]:
        """The likeliest class of every example."""
        labels = self.prompts[0].task.labels
        return [labels[i] for i in self.labels(examples).argmax(-1).tolist()]


def lesson_plan(plan: Plan, recipe: Recipe, examples: Sequence[Example], soft: Tensor, steps: int | None) -> Plan:
    """The plan of the distilled prompt: texts, each with its likeliest class, and the recipe's own train, dev and test.

    All of them are learned from soft labels; classes are for what is compared with it (majority, probe).
    """
    named = [plan.labels[i] for i in soft[: len(examples)].argmax(-1).tolist()]
    train = [replace(example, label=label) for example, label in zip(examples, named, strict=True)] + plan.train
    digest = hashlib.sha256(repr([example.fields for example in train]).encode() + soft.numpy().tobytes()).hexdigest()
    settings = plan.recipe.train.model_copy(update={"steps": steps} if steps else {})
    asked = plan.recipe.model_copy(update={"train": settings, "optim": recipe.optim})
    rate = {"lr": choose_rate(asked, len(train))}  # there are other steps than for the few examples
    asked = asked.model_copy(update={"optim": recipe.optim.model_copy(update=rate)})
    notes = [f"{len(examples)} texts and {len(plan.train)} examples with soft labels"]
    return replace(plan, recipe=asked, train=train, sha256=plan.sha256 | {"soft labels": digest}, notes=notes)


class Student(Member):
    """A member of a pass that learns from soft labels; scored and stored as any other."""

    examples: list[Example]
    soft: Tensor

    @override
    def build(self, backbone: Backbone) -> None:
        super().build(backbone)
        given = self.prompt
        every = torch.arange(self.soft.shape[1])[None]
        self.prompt = Taught(given.backbone, given.method, given.head, given.template, given.task)
        rows = [given.row(example) for example in self.examples]
        self.prompt.lessons = {key(row): (every, told[None].clone()) for row, told in zip(rows, self.soft, strict=True)}
        self.prompt.fewest = given.fewest


def judged(
    place: Path,
    plan: Plan,
    teacher: Teacher,
    members: list[Entry],
    student: Entry,
    examples: Sequence[Example],
    left_out: int,
) -> Distilled:
    """All of them on the test examples; what came of it goes to pet.json."""
    backbone = teacher.prompts[0].backbone
    found = score(plan.kind, plan.recipe.task.metric, teacher.answers(plan.test), plan.test)
    best = teacher.opinions(examples).argmax(-1)  # [N, E]
    agreement = (best == best[0]).all(0).double().mean().item()
    against = compare(bound(student, backbone), teacher.prompts[0], plan)
    weights = teacher.weights.tolist()
    made = Distilled(place, members, weights, student, found, agreement, len(examples), left_out, against)
    write_atomically(place / "pet.json", json.dumps(made.as_dict(), indent=1).encode())
    return made


__all__ = ["TEMPERATURE", "Distilled", "Pattern", "Teacher", "pet", "trust"]
