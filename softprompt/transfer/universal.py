"""Transferable prompts of similar tasks: one meta-learner for all, then an adaptation to each, or none.

Wang et al. 2021 (TransPrompt), EMNLP 2021. First all tasks are learned together (`methods.transprompt`), an example
counting by how typical it is (`prototypes`), and the entropy of answers is raised, so that no task is learned by heart:
the mean of w CE - l H. Then a task goes on by itself (`adapting`). One that took no part has MLP(E*(e)) alone.
Deviation: the backbone is frozen; the paper's is tuned. With `lora.rank` in the recipes a LoRA that all tasks share is
trained with the meta-learner (`softprompt.joint`), and stays as it is then.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from softprompt import joint
from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.baselines import states
from softprompt.core import Batch
from softprompt.engine import choose
from softprompt.errors import RecipeError, SoftpromptError
from softprompt.files import write_atomically
from softprompt.heads import Verbalizer
from softprompt.methods import Group
from softprompt.optim import factor, make_optimizer
from softprompt.plan import Plan, make_plan
from softprompt.prompt import Prompt
from softprompt.recipe import ADAPTER, Recipe
from softprompt.run import Listener
from softprompt.sections import LoraSection, MethodSection
from softprompt.training import computed, mixed, open_backbone, set_threads
from softprompt.transfer.adapting import Adapted, adapt, around, parts
from softprompt.transfer.controls import Measured, measured
from softprompt.transfer.prototypes import typical
from softprompt.transfer.rounds import Tensors, claim, drawn, go, moments, move, part, remember
from softprompt.untrained import build

ENTROPY, SHARE = 0.01, 0.5  # l and a, the authors'


@dataclass(frozen=True)
class Transferable:
    """The prompt of unseen tasks, every task adapted, and what unseen tasks make of the former without training."""

    path: Path
    adapted: dict[str, Adapted]
    zero: dict[str, Measured]

    def as_dict(self) -> dict[str, Any]:
        """The outcome as plain values."""
        tasks = {name: one.as_dict() for name, one in self.adapted.items()}
        return {"prompt": str(self.path), "tasks": tasks, "unseen": {n: m.as_dict() for n, m in self.zero.items()}}


def learn_transferable(
    recipes: Mapping[str, Recipe],
    folder: str | Path,
    *,
    others: Mapping[str, Recipe] | None = None,
    steps: int | None = None,
    entropy: float = ENTROPY,
    share: float = SHARE,
    backbone: Backbone | None = None,
    listen: Listener = lambda event: None,
) -> Transferable:
    """Train the meta-learner on `recipes` for `steps` (the most of a recipe's), then adapt it to each of them.

    The prompt of unseen tasks goes to `folder/prompt.safetensors`; `others` are such tasks, scored on dev with it.
    `entropy` is l, `share` a of the prototypes. A LoRA of the recipes goes to `folder/lora`, and everything after the
    meta-learner, controls included, stands on the backbone with it. A stopped one goes on. Raises `SoftpromptError`
    SP-E717 for less than two tasks, other classes, other lengths, or heads that do not score all classes at once;
    `RecipeError` for a LoRA that cannot be (`joint.build`), SP-E852 where one of `others` has the data of a task.
    """
    place, first = Path(folder), next(iter(recipes.values()))
    backbone = backbone or open_backbone(first)
    set_threads(first)
    plans = {name: make_plan(encoded(recipe), backbone) for name, recipe in recipes.items()}
    foreign = {name: make_plan(encoded(recipe), backbone) for name, recipe in (others or {}).items()}
    check(plans, foreign, backbone)
    total = steps or max(plan.steps for plan in plans.values())
    claim(place, plans, backbone, {"steps": total, "entropy": entropy, "share": share})
    work = MetaLearner(plans, backbone, total, entropy, share)
    go(work, place, total, first.train.save_seconds, listen)
    backbone = work.settled(place / ADAPTER, listen)
    plans, foreign = ({name: after(plan, place) for name, plan in some.items()} for some in (plans, foreign))
    made = Prompt(backbone, work.methods[0].unseen(), *around(work.prompts[0]))
    path = place / "prompt.safetensors"
    section = next(iter(plans.values())).recipe
    Artifact.of(made, section.shared(), {"metric": section.task.metric, "tasks": list(plans)}).save(path)
    zero = {}
    for name, plan in foreign.items():
        prompt = Prompt(backbone, made.method, *around(build(plan, backbone)))
        zero[name] = measured(prompt, plan, {})
    adapted = {
        name: adapt(plan, method, place / name, entropy, backbone, listen)
        for (name, plan), method in zip(plans.items(), work.methods, strict=True)
    }
    outcome = Transferable(path, adapted, zero)
    write_atomically(place / "transprompt.json", json.dumps(outcome.as_dict(), indent=1).encode())
    return outcome


def encoded(recipe: Recipe) -> Recipe:
    """The recipe with this method, at its own length and options."""
    own = recipe.method
    method = MethodSection(name="transprompt", length=own.length, options=own.options)
    return recipe.model_copy(update={"method": method})


def after(given: Plan, place: Path) -> Plan:
    """The plan of what follows the meta-learner: over the LoRA in `place`, if there is one; it learns no more."""
    if not given.recipe.lora.rank:
        return given
    stands = given.recipe.under(place)
    return replace(given, recipe=given.recipe.model_copy(update={"backbone": stands, "lora": LoraSection()}))


def check(plans: Mapping[str, Plan], foreign: Mapping[str, Plan], backbone: Backbone) -> None:
    """Raise `SoftpromptError` SP-E717 for tasks that are not of one kind."""
    first = next(iter(plans.values()))
    if len(plans) < 2:
        raise SoftpromptError("SP-E717", f"{len(plans)} task", "two similar ones or more", "name more data files")
    seen = {plan.sha256["train"] for plan in plans.values()}
    for name, plan in foreign.items():
        if plan.sha256["train"] in seen:
            found, do = f"data of {name}, which is to take no part, among those of a task", "leave it out"
            raise RecipeError("SP-E852", found, "different tasks", do)
    for name, plan in [*plans.items(), *foreign.items()]:
        head = build(joint.alone(plan), backbone).head
        if not isinstance(head, Verbalizer) or not head.one_pass:
            expected, do = "classes of one word's token each", "set task.head=verbalizer and task.words"
            raise SoftpromptError("SP-E717", f"a {head.name} head in {name}", expected, do)
        if kind(plan) != kind(first):
            found, expected = f"other classes, vectors or LoRA in {name}", f"classes {', '.join(first.labels)[:80]}"
            raise SoftpromptError("SP-E717", found, expected, "give similar tasks, with the same names of classes")


def kind(given: Plan) -> tuple[object, ...]:
    """What tasks that are learned together have in common."""
    return given.labels, given.recipe.method, given.recipe.lora


class MetaLearner:
    """The methods of all tasks, with one e, E* and MLP, the LoRA that they may share, and what moves all of it."""

    def __init__(self, plans: Mapping[str, Plan], backbone: Backbone, total: int, entropy: float, share: float) -> None:
        self.plans, self.total, self.entropy = list(plans.values()), total, entropy
        self.backbone, self.prompts = backbone, [build(joint.alone(plan), backbone) for plan in self.plans]
        first: Any = self.prompts[0].method
        self.methods: list[Any] = first.siblings(len(plans))
        self.prompts = [Prompt(backbone, m, *around(p)) for m, p in zip(self.methods, self.prompts, strict=True)]
        self.rows = [[p.row(e) for e in plan.train] for p, plan in zip(self.prompts, self.plans, strict=True)]
        seen = [states(p, plan.train) for p, plan in zip(self.prompts, self.plans, strict=True)]
        classes = [torch.tensor([int(row.target or 0) for row in rows]) for rows in self.rows]
        self.weights = typical(seen, classes, len(self.plans[0].labels), share)
        if self.plans[0].recipe.lora.rank:
            self.prompts = with_lora(self.prompts, self.plans[0])
        settings = self.plans[0].recipe.train
        for prompt, rows in zip(self.prompts, self.rows, strict=True):
            choose(prompt, rows[: settings.batch_size], settings.engine, lambda event: None)
        *shared, own = self.methods[0].groups()
        lora = self.prompts[0].groups()[len(shared) + 1 :]
        each = [weight for method in self.methods for weight in method.groups()[-1].parameters]
        self.section = self.plans[0].recipe.optim
        moved = [*shared, Group(each, own.unit), *lora]
        self.optimizer, self.rates = make_optimizer(self.section, moved, nn.Identity())

    def tensors(self) -> Tensors:
        """All weights, and what the optimiser remembers."""
        made = {
            f"task/{i}/{name}": value.detach().cpu().clone()
            for i, method in enumerate(self.methods)
            for name, value in method.state_dict().items()
        }
        made |= {f"lora/{i}": value.detach().cpu().clone() for i, value in enumerate(self.lora)}
        return made | {f"optimizer/{name}": value for name, value in moments(self.optimizer).items()}

    @property
    def lora(self) -> list[nn.Parameter]:
        """The matrices of the LoRA that all tasks share; none without."""
        first = self.prompts[0]
        return list(first.lora) if isinstance(first, joint.Joint) else []

    def settled(self, folder: Path, listen: Listener) -> Backbone:
        """The backbone that the tasks were learned on: with the LoRA, which is written to `folder`, or as it was."""
        first = self.prompts[0]
        return joint.settled(first, folder, listen).backbone if isinstance(first, joint.Joint) else self.backbone

    def restore(self, tensors: Tensors) -> None:
        """Put all of that back."""
        for i, method in enumerate(self.methods):
            method.load_state_dict(part(tensors, f"task/{i}"))
        for i, weight in enumerate(self.lora):
            weight.data.copy_(tensors[f"lora/{i}"])
        remember(self.optimizer, part(tensors, "optimizer"))

    def round(self, number: int) -> dict[str, Any]:
        """One step on a batch of every task."""
        settings = self.plans[0].recipe.train
        torch.manual_seed(settings.seed * 1_000_003 + number)
        share = factor(self.section, number, self.total)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share
        self.optimizer.zero_grad(set_to_none=True)
        size, value, tokens = -(-settings.batch_size // len(self.prompts)), 0.0, 0
        for i, prompt in enumerate(self.prompts):
            chosen = drawn(len(self.rows[i]), size, settings.seed + i, number)
            batch = prompt.batch([self.rows[i][j] for j in chosen])
            with mixed(prompt.backbone, settings.precision):
                loss = self.loss(prompt, batch, self.weights[i][chosen]) / len(self.prompts)
            loss.backward()  # type: ignore[no-untyped-call]
            value, tokens = value + loss.item(), tokens + computed(batch)
        move(self.optimizer, self.rates, self.section.clip, value)
        return {"loss": value, "prompts": len(self.prompts), "tokens": tokens}

    def loss(self, prompt: Prompt, batch: Batch, weights: Tensor) -> Tensor:
        """The mean [] of w CE - l H over the rows of a batch."""
        output, seen = prompt.outcome(batch, prompt.inject(batch))
        wrong, unsure = parts(prompt, output, seen)
        return (weights.to(wrong.device) * wrong - self.entropy * unsure).mean()


def with_lora(prompts: Sequence[Prompt], given: Plan) -> list[Prompt]:
    """The prompts over one LoRA, which is trained with all of them."""
    joint.check(given)
    first = joint.graft(prompts[0], given)
    return [first, *(joint.Joint(one, first.backbone, list(first.lora), first.unit) for one in prompts[1:])]


__all__ = ["ENTROPY", "SHARE", "MetaLearner", "Transferable", "learn_transferable"]
