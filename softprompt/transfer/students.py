"""The tasks of multitask prompt tuning while they learn: a student each, with one P* and factors of its own.

Wang et al. 2023, arXiv:2303.02861, section 3.3; `multitask` says what comes before and after, and what deviates.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from softprompt.backbones import Backbone
from softprompt.core import Batch, Output
from softprompt.engine import choose
from softprompt.heads import Head
from softprompt.methods import Group, Method
from softprompt.optim import factor, make_optimizer
from softprompt.plan import Plan
from softprompt.prompt import Prompt
from softprompt.sections import MethodSection
from softprompt.sweep.together import Part, outcomes, passes
from softprompt.training import computed, mixed
from softprompt.transfer.distill import TOP
from softprompt.transfer.rounds import Tensors, drawn, moments, move, part, remember
from softprompt.transfer.taught import Lesson, answered, closed, keys, learned
from softprompt.untrained import build


class States(Head):
    """Reads hidden states and loses nothing: what a forward needs to be told to return them."""

    name: ClassVar[str] = "states"
    reads: ClassVar[Literal["hidden", "logits"]] = "hidden"


class Task:
    """One source task: its teacher, its rows, and, once there are students, its own."""

    student: Prompt
    reader: Prompt  # the student, asked for hidden states
    lessons: dict[tuple[int, ...], Lesson]

    def __init__(self, name: str, plan: Plan, teacher: Prompt) -> None:
        self.name, self.plan, self.teacher = name, plan, teacher
        self.watched = Prompt(teacher.backbone, teacher.method, States(), teacher.template, teacher.task).eval()

    def enrol(self, method: Method, untrained: Prompt) -> None:
        """Give the task its student."""
        made = (untrained.backbone, method, untrained.head, untrained.template, untrained.task)
        self.student = Prompt(*made)
        self.reader = Prompt(made[0], method, States(), *made[3:])
        self.lessons = learned(self.teacher, self.student, self.plan.train, TOP)
        self.rows = [self.student.row(example) for example in self.plan.train]
        settings = self.plan.recipe.train
        choose(self.student, self.rows[: settings.batch_size], settings.engine, lambda event: None)

    def batch(self, count: int, seed: int) -> Batch:
        """`count` of its rows, drawn by a seed."""
        return self.student.batch([self.rows[i] for i in drawn(len(self.rows), count, seed, 0)])

    def distance(self, output: Output, seen: Batch, batch: Batch) -> Tensor:
        """KL(teacher || student) [], the mean over the labels of a batch."""
        told = [self.lessons[one] for one in keys(batch)]
        ids = torch.cat([ids for ids, _ in told]).to(self.student.backbone.device)
        wanted = torch.cat([chances for _, chances in told]).to(ids.device)
        own = closed(answered(self.student, output, seen), ids)
        return (wanted.exp() * (wanted - own)).sum() / len(ids)


def factored(plan: Plan, options: dict[str, Any]) -> Plan:
    """The plan with the method whose prompt is shared and multiplied for every task."""
    method = MethodSection(name="mpt", length=plan.recipe.method.length, options=options)
    return Plan(**(vars(plan) | {"recipe": plan.recipe.model_copy(update={"method": method})}))


class Students:
    """One method a task, all with one P*, and the optimiser that moves them: rates for P* and for the factors."""

    def __init__(
        self,
        known: list[Task],
        backbone: Backbone,
        total: int,
        weight: float,
        hidden: bool,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.known, self.total, self.weight, self.hidden = known, total, weight, hidden
        untrained = [build(factored(task.plan, options or {}), backbone) for task in known]
        first: Any = untrained[0].method
        self.methods: list[Any] = first.siblings(len(known))
        for task, method, prompt in zip(known, self.methods, untrained, strict=True):
            task.enrol(method, prompt)
        self.shared = self.methods[0].shared
        own, factors = self.methods[0].groups()
        rows = [weight for method in self.methods for weight in (method.row, method.column)]
        self.section = known[0].plan.recipe.optim
        groups = [own, Group(rows, factors.unit)]
        self.optimizer, self.rates = make_optimizer(self.section, groups, nn.Identity())

    def tensors(self) -> Tensors:
        """P*, all factors, and what the optimiser remembers."""
        made = {f"task/{i}/{name}": w.detach().cpu() for i, m in enumerate(self.methods) for name, w in own(m).items()}
        made["shared/value"] = self.shared.detach().cpu().clone()
        return made | {f"optimizer/{name}": value for name, value in moments(self.optimizer).items()}

    @torch.no_grad()
    def restore(self, tensors: Tensors) -> None:
        """Put all of that back."""
        self.shared.copy_(tensors["shared/value"])
        for i, method in enumerate(self.methods):
            for name, weight in own(method).items():
                weight.copy_(tensors[f"task/{i}/{name}"])
        remember(self.optimizer, part(tensors, "optimizer"))

    def round(self, number: int) -> dict[str, Any]:
        """One step on a batch of some tasks."""
        settings = self.known[0].plan.recipe.train
        seed = settings.seed * 1_000_003 + number
        torch.manual_seed(seed)
        most = len(self.known)
        size = int(torch.randint(2, most + 1, ()).item())  # section 3.3: a random number of tasks, then those tasks
        chosen = [self.known[i] for i in drawn(most, size, settings.seed, number)]
        share = factor(self.section, number, self.total)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share
        self.optimizer.zero_grad(set_to_none=True)
        batches = [task.batch(-(-settings.batch_size // size), seed) for task in chosen]
        with mixed(self.known[0].student.backbone, settings.precision):
            loss = self.loss(chosen, batches) / size
        loss.backward()  # type: ignore[no-untyped-call]
        move(self.optimizer, self.rates, self.section.clip, loss.item())
        return {"loss": loss.item(), "prompts": size, "tokens": sum(computed(batch) for batch in batches)}

    def loss(self, chosen: Sequence[Task], batches: Sequence[Batch]) -> Tensor:
        """L_task + w (L_logits + L_hidden) [], summed over tasks; a forward for all that fit, of every kind."""
        parts = [Part(task.student, b, task.student.inject(b)) for task, b in zip(chosen, batches, strict=True)]
        total = torch.zeros((), device=batches[0].input_ids.device)
        for task, one, (output, seen) in zip(chosen, parts, together(parts), strict=True):
            task_loss = one.prompt.weigh(one.batch, one.injection, output, seen) / max(
                1, one.prompt.head.count(one.batch)
            )
            total = total + task_loss + self.weight * task.distance(output, seen, one.batch)
        if not self.hidden:
            return total
        asked = [Part(task.reader, one.batch, one.injection) for task, one in zip(chosen, parts, strict=True)]
        with torch.no_grad():
            told = [Part(task.watched, b, task.watched.inject(b)) for task, b in zip(chosen, batches, strict=True)]
            wanted = together(told)
        for one, (output, _), (teacher, _) in zip(asked, together(asked), wanted, strict=True):
            total = total + self.weight * apart(output, teacher, one.batch)
        return total


def together(parts: Sequence[Part]) -> list[tuple[Output, Batch]]:
    """What each part's head reads, in as few forwards as they fit."""
    found: dict[int, tuple[Output, Batch]] = {}
    for group in passes(parts):
        found |= dict(zip(group, outcomes([parts[i] for i in group]), strict=True))
    return [found[i] for i in range(len(parts))]


def apart(student: Output, teacher: Output, batch: Batch) -> Tensor:
    """The squared distance [] of hidden states over the text that is asked, in shares of the teacher's mean square."""
    assert student.hidden is not None
    assert teacher.hidden is not None
    asked = batch.question
    mine, theirs = student.hidden[asked].float(), teacher.hidden[asked].float()
    return (mine - theirs).square().mean() / theirs.square().mean()


def own(method: Any) -> dict[str, nn.Parameter]:
    """The factors of a task."""
    return {"row": method.row, "column": method.column}


__all__ = ["Students", "Task", "apart"]
