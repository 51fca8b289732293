"""A start from which any task of a kind is learned quickly: Reptile and first-order MAML over tasks, for any method.

Nichol, Achiam, Schulman 2018, "On First-Order Meta-Learning Algorithms", arXiv:1803.02999: of a start t, tasks are
adapted to p_k by a few steps each. Reptile (section 4): t <- t + e mean_k(p_k - t). First-order MAML (section 2; Finn,
Abbeel, Levine 2017, arXiv:1703.03400): t moves against the mean gradient that other examples of the tasks have at p_k.
Neither differentiates through the steps, so whatever trains in the one loop can be started so.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.core import Row
from softprompt.engine import choose
from softprompt.errors import SoftpromptError
from softprompt.evaluate import mean_loss
from softprompt.methods import Method
from softprompt.optim import factor, make_optimizer
from softprompt.plan import Plan, make_plan
from softprompt.prompt import Prompt
from softprompt.recipe import Recipe
from softprompt.run import Listener
from softprompt.training import computed, mixed, open_backbone, order, set_threads, step, warn_cut
from softprompt.transfer.rounds import Tensors, claim, drawn, go, moments, move, part, remember
from softprompt.untrained import build

Rule = Literal["reptile", "fomaml"]


@dataclass(frozen=True)
class Started:
    """A learned start, and what a few steps from it leave of the loss, beside the same steps from where it began."""

    path: Path
    losses: dict[str, tuple[float, float]]  # on dev after the steps, by task: from the learned start, from the first
    steps: int  # of one adaptation

    @property
    def better(self) -> int:
        """How many tasks lose less from the learned start."""
        return sum(learned < first for learned, first in self.losses.values())

    def as_dict(self) -> dict[str, Any]:
        """The outcome as plain values."""
        losses = {name: {"learned": own, "first": first} for name, (own, first) in self.losses.items()}
        return {"prompt": str(self.path), "steps": self.steps, "dev_loss": losses, "better": self.better}


def meta(
    recipes: Mapping[str, Recipe],
    folder: str | Path,
    *,
    rule: Rule = "reptile",
    rounds: int = 100,
    steps: int = 5,
    tasks: int = 4,
    rate: float = 1.0,
    backbone: Backbone | None = None,
    listen: Listener = lambda event: None,
) -> Started:
    """Learn a start for the method of `recipes` in `rounds`; it goes to `folder/prompt.safetensors`.

    A round adapts `tasks` of them, drawn anew, by `steps` steps of the one training loop each. `rate` is e of Reptile,
    which falls to 0 along a line, or how many times the recipe's rate the start has in first-order MAML. A stopped one
    goes on. Raises `SoftpromptError` SP-E712 for recipes whose methods are not of one shape, SP-E713 for a method that
    is stored as something that no run can start from.
    """
    place = Path(folder)
    backbone = backbone or open_backbone(next(iter(recipes.values())))
    set_threads(next(iter(recipes.values())))
    plans = {name: make_plan(brief(recipe, steps), backbone) for name, recipe in recipes.items()}
    settings = {"rule": rule, "rounds": rounds, "steps": steps, "tasks": tasks, "rate": rate}
    claim(place, plans, backbone, settings)
    known = [Task(name, plan, build(plan, backbone), rule, listen) for name, plan in plans.items()]
    agree(known)
    work = Learner(known, rule, rounds, steps, tasks, rate)
    first = work.theta()
    go(work, place, rounds, known[0].plan.recipe.train.save_seconds, listen)
    path, learned = place / "prompt.safetensors", work.theta()
    losses = {task.name: (task.after(learned, steps), task.after(first, steps)) for task in known}
    made = known[0]
    made.begin(learned)
    facts = {"metric": made.plan.recipe.task.metric, "meta": settings | {"task_names": list(plans)}}
    Artifact.of(made.prompt, made.plan.recipe.shared(), facts).save(path)
    return Started(path, losses, steps)


def brief(recipe: Recipe, steps: int) -> Recipe:
    """The recipe for one adaptation: so many steps, at one rate."""
    train = recipe.train.model_copy(update={"steps": steps, "compare": ()})
    optim = recipe.optim.model_copy(update={"schedule": "constant", "warmup": 0.0})
    return recipe.model_copy(update={"train": train, "optim": optim})


class Task:
    """A task that is adapted to: its prompt, the rows that it learns from and, for MAML, those that it is asked."""

    def __init__(self, name: str, plan: Plan, prompt: Prompt, rule: Rule, listen: Listener) -> None:
        self.name, self.plan, self.prompt = name, plan, prompt
        settings = plan.recipe.train
        rows = [prompt.row(example) for example in plan.train]
        warn_cut(rows, listen)
        mixture = order(len(rows), len(rows), settings.seed, 0)  # files are often sorted by class
        half = -(-len(rows) // 2) if rule == "fomaml" else len(rows)
        self.rows = [rows[i] for i in mixture[:half]]
        self.asked = [rows[i] for i in mixture[half:]] or self.rows
        self.head = {key: value.clone() for key, value in prompt.head.state_dict().items()}
        choose(prompt, self.rows[: settings.batch_size], settings.engine, listen)

    def begin(self, theta: Tensors) -> None:
        """Stand at a start; a head that is trained begins anew, since it is the task's own."""
        self.prompt.method.load_state_dict(theta)
        self.prompt.head.load_state_dict(self.head)

    def adapt(self, theta: Tensors, number: int, steps: int) -> tuple[float, int]:
        """Learn from a start, with a new optimiser: the loss of the last step, and the tokens of all."""
        self.begin(theta)
        optimizer, rates = make_optimizer(self.plan.recipe.optim, self.prompt.method.groups(), self.prompt.head)
        loss, tokens = 0.0, 0
        for i in range(steps):
            loss, _, more = step(self.prompt, self.plan, self.rows, optimizer, rates, number * steps + i)
            tokens += more
        return loss, tokens

    def gradient(self, number: int) -> tuple[dict[str, Tensor], int]:
        """The gradient of the method's parameters, where they are now, on rows that were not learned from."""
        settings = self.plan.recipe.train
        rows: list[Row] = [self.asked[i] for i in order(len(self.asked), settings.batch_size, settings.seed, number)]
        self.prompt.zero_grad(set_to_none=True)
        batch = self.prompt.batch(rows)
        with mixed(self.prompt.backbone, settings.precision):
            loss = self.prompt.loss(batch) / max(1, self.prompt.head.count(batch))
        loss.backward()  # type: ignore[no-untyped-call]
        found = {name: weight.grad for name, weight in self.prompt.method.named_parameters()}
        return {name: grad for name, grad in found.items() if grad is not None}, computed(batch)

    def after(self, theta: Tensors, steps: int) -> float:
        """The loss on dev after one adaptation from a start."""
        self.adapt(theta, 0, steps)
        return mean_loss(self.prompt, self.plan.dev, 2 * self.plan.recipe.train.batch_size)


class Learner:
    """The start that is learned: a method of its own, moved by what tasks make of copies of it."""

    def __init__(self, known: list[Task], rule: Rule, rounds: int, steps: int, tasks: int, rate: float) -> None:
        self.known, self.rule, self.rounds, self.steps, self.tasks, self.rate = known, rule, rounds, steps, tasks, rate
        first = known[0]
        self.method: Method = copy.deepcopy(first.prompt.method)
        optim = first.plan.recipe.optim
        assert optim.lr != "auto"
        self.section = optim.model_copy(update={"schedule": "linear", "lr": rate * optim.lr})
        self.optimizer, self.rates = make_optimizer(self.section, self.method.groups(), torch.nn.Identity())

    def theta(self) -> Tensors:
        """A copy of the start, by name."""
        return {name: value.detach().clone() for name, value in self.method.state_dict().items()}

    def tensors(self) -> Tensors:
        """The start, and what its optimiser remembers."""
        theta = {f"theta/{name}": value.cpu() for name, value in self.theta().items()}
        return theta | {f"optimizer/{name}": value for name, value in moments(self.optimizer).items()}

    def restore(self, tensors: Tensors) -> None:
        """Put both back."""
        self.method.load_state_dict(part(tensors, "theta"))
        remember(self.optimizer, part(tensors, "optimizer"))

    def round(self, number: int) -> dict[str, Any]:
        """Adapt some tasks, and move the start."""
        seed = self.known[0].plan.recipe.train.seed
        chosen = [self.known[i] for i in drawn(len(self.known), self.tasks, seed, number)]
        theta = self.theta()
        found, loss, tokens = [], 0.0, 0
        for task in chosen:
            last, count = task.adapt(theta, number, self.steps)
            if self.rule == "fomaml":
                grads, more = task.gradient(number)
                found.append(grads)
                count += more
            else:
                found.append({name: weight.detach().clone() for name, weight in task.prompt.method.named_parameters()})
            loss, tokens = loss + last / len(chosen), tokens + count
        if self.rule == "fomaml":
            self.descend(found, number, loss)
        else:
            self.approach(found, number)
        return {"loss": loss, "prompts": len(chosen), "tokens": tokens}

    @torch.no_grad()
    def approach(self, adapted: list[dict[str, Tensor]], number: int) -> None:
        """Reptile: t + e mean_k(p_k - t)."""
        share = self.rate * (1 - number / self.rounds)
        for name, weight in self.method.named_parameters():
            weight.add_(torch.stack([one[name] - weight for one in adapted]).mean(0), alpha=share)

    def descend(self, gradients: list[dict[str, Tensor]], number: int, loss: float) -> None:
        """First-order MAML: the mean gradient at the adapted points, taken by the optimiser as if it were the start's.

        A parameter that one of the tasks does not reach has no gradient there, which counts as zero.
        """
        for name, weight in self.method.named_parameters():
            zero = torch.zeros_like(weight)
            weight.grad = torch.stack([one.get(name, zero) for one in gradients]).mean(0)
        share = factor(self.section, number, self.rounds)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share
        move(self.optimizer, self.rates, self.section.clip, loss)


def agree(known: list[Task]) -> None:
    """Raise `SoftpromptError` SP-E712 for methods of several shapes, SP-E713 for one that leaves no start behind."""
    first = known[0]
    for task in known[1:]:
        mine, theirs = ({k: v.shape for k, v in one.prompt.method.state_dict().items()} for one in (first, task))
        if type(first.prompt.method) is not type(task.prompt.method) or mine != theirs:
            found, do = f"another method in {task.name} than in {first.name}", "set method.name and length for all"
            raise SoftpromptError("SP-E712", found, "one method, length and options for all tasks", do)
    stored = first.prompt.method.fold().state_dict()
    if stored.keys() != {"prompt"} and not any(name.startswith("stacks.") for name in stored):
        found = f"{', '.join(sorted(stored))[:120]}, which is what {first.plan.recipe.method.name} leaves"
        expected, do = "vectors, or keys and values", "learn a start for prompt_tuning, prefix or their kin"
        raise SoftpromptError("SP-E713", found, expected, do)


__all__ = ["Rule", "Started", "meta"]
