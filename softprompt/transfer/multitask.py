"""Source training of multitask prompt tuning: teachers, and one prompt that learns from all of them.

Wang et al. 2023, arXiv:2303.02861, sections 3.2 and 3.3. First a prompt for each task, the teachers. Then
P_k = P* o (u_k v_k^T) for all tasks, with L = L_task + w (L_logits + L_hidden): KL(teacher || student) at the labels,
and the squared distance of hidden states. In every step a random number of tasks takes part, two at least. What is left
is P* times the mean factors (`methods.mpt.mean_prompt`), which the method `mpt` starts from on a target.

Deviations: the distance of states is taken over the text that is asked, in shares of their mean square, so that w means
the same on every backbone; the paper sums raw squares. The last state is kept, for no single task may choose it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.errors import SoftpromptError
from softprompt.evaluate import mean_loss
from softprompt.files import write_atomically
from softprompt.plan import Plan, make_plan
from softprompt.prompt import Prompt
from softprompt.recipe import Recipe
from softprompt.run import Listener
from softprompt.sections import MethodSection
from softprompt.stages import stage
from softprompt.training import open_backbone, set_threads
from softprompt.transfer.paired import readable
from softprompt.transfer.rounds import claim, go
from softprompt.transfer.sources import Source, copied
from softprompt.transfer.students import Students, Task
from softprompt.untrained import build

WEIGHT = 0.9  # of both distances, the paper's


@dataclass(frozen=True)
class Shared:
    """The shared prompt, and what each task loses on dev with its teacher, with its own factors, and with the mean."""

    path: Path
    losses: dict[str, dict[str, float]]  # by task

    def as_dict(self) -> dict[str, Any]:
        """The outcome as plain values."""
        return {"prompt": str(self.path), "dev_loss": self.losses}


def source_train(
    recipes: Mapping[str, Recipe],
    folder: str | Path,
    *,
    steps: int | None = None,
    weight: float = WEIGHT,
    hidden: bool = True,
    backbone: Backbone | None = None,
    listen: Listener = lambda event: None,
) -> Shared:
    """Train a teacher for every recipe, then one prompt for all of them, in `steps` steps (the most of a teacher's).

    Teachers go to `folder/teachers`, the shared prompt to `folder/prompt.safetensors`. `hidden` off leaves the distance
    of states out, and with it two forwards a step. A stopped one goes on. Raises `SoftpromptError` SP-E716 for less
    than two tasks, for prompts of several lengths, and for heads that read no words.
    """
    place = Path(folder)
    first = next(iter(recipes.values()))
    backbone = backbone or open_backbone(first)
    set_threads(first)
    given = {name: recipe.model_copy(update={"method": plainly(recipe.method)}) for name, recipe in recipes.items()}
    plans = {name: make_plan(recipe, backbone) for name, recipe in given.items()}
    total = steps or max(plan.steps for plan in plans.values())
    check(plans, backbone)
    claim(place, plans, backbone, {"steps": total, "weight": weight, "hidden": hidden, "options": first.method.options})
    teachers = {
        name: stage(recipe, place / "teachers" / name, backbone=backbone, listen=listen).artifact
        for name, recipe in given.items()
    }
    known = [Task(name, plan, Artifact.load(teachers[name]).bind(backbone)) for name, plan in plans.items()]
    work = Students(known, backbone, total, weight, hidden, first.method.options)
    go(work, place, total, first.train.save_seconds, listen)
    parents = tuple(
        copied(Source(name, Artifact.load(path)), place / "sources").name for name, path in teachers.items()
    )
    return left(work, place, total, parents)


def plainly(section: MethodSection) -> MethodSection:
    """The method of the teachers: plain vectors, as many as the recipe says."""
    return MethodSection(name="prompt_tuning", length=section.length)


def check(plans: Mapping[str, Plan], backbone: Backbone) -> None:
    """Raise `SoftpromptError` SP-E716 for tasks that cannot share a prompt in this way."""
    lengths = {name: plan.recipe.method.length for name, plan in plans.items()}
    mute = [name for name, plan in plans.items() if not readable(build(plan, backbone))]
    for wrong, found, expected, do in (
        (len(plans) < 2, f"{len(plans)} task", "two or more", "name more data files or recipes"),
        (len(set(lengths.values())) > 1, f"lengths {lengths}", "one length for all", "set method.length"),
        (bool(mute), f"a trained head in {', '.join(mute)}", "heads that read words", "set task.head=verbalizer"),
    ):
        if wrong:
            raise SoftpromptError("SP-E716", found, expected, do)


def left(work: Students, place: Path, total: int, parents: tuple[str, ...]) -> Shared:
    """The shared prompt as a file that names the teachers, and the losses on dev beside it."""
    backbone = work.known[0].student.backbone
    mean = work.methods[0].middle(work.methods)
    losses: dict[str, dict[str, float]] = {}
    for task in work.known:
        size = 2 * task.plan.recipe.train.batch_size
        student = task.student
        shared = Prompt(backbone, mean, student.head, student.template, student.task)
        asked = {"teacher": task.teacher, "own factors": student, "mean": shared}
        losses[task.name] = {name: mean_loss(prompt, task.plan.dev, size) for name, prompt in asked.items()}
    first = work.known[0]
    prompt = Prompt(backbone, mean, first.student.head, first.student.template, first.student.task)
    facts = {"metric": first.plan.recipe.task.metric, "multitask": {"steps": total, "tasks": list(losses)}}
    path = place / "prompt.safetensors"
    Artifact.of(prompt, first.plan.recipe.shared(), facts, parents).save(path)
    made = Shared(path, losses)
    write_atomically(place / "multitask.json", json.dumps(made.as_dict(), indent=1).encode())
    return made


__all__ = ["WEIGHT", "Shared", "source_train"]
