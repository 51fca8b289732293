"""What a prompt is measured against by training: the whole model, LoRA, or the head alone, on the plan of the prompt.

Same rows without the slots, same head from the same start, same batches, schedule, dev set and early stopping. The
steps are `training.step` and `Run.judge` chooses the best state, so nothing differs by accident. What is trained is a
float32 copy: the backbone keeps every bit. As for prompts, no dropout.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn
from typing_extensions import override

from softprompt.backbones import Backbone, wrap
from softprompt.errors import RecipeError, TrainingError
from softprompt.joint import add_lora, alone, save_lora
from softprompt.methods import Group
from softprompt.optim import make_optimizer
from softprompt.plan import Plan
from softprompt.prompt import Bare, Prompt, without_prompt
from softprompt.run import Event, Run, restore
from softprompt.sections import LoraSection
from softprompt.training import step
from softprompt.untrained import build

Kind = Literal["full", "lora", "head"]
Key = tuple[float, ...]
NAMES: dict[Kind, str] = {"full": "full fine-tuning", "lora": "LoRA", "head": "head only"}
# Absolute rates of AdamW, of which dev chooses: models of 0.1 to 100 million parameters want larger ones than the 2e-5
# of BERT's paper (measured: docs/comparators.md).
RATES: dict[Kind, tuple[float, ...]] = {
    "full": (5e-5, 2e-4, 1e-3),
    "lora": (2e-4, 1e-3, 5e-3),
    "head": (1e-3, 1e-2, 6e-2),
}
RANK = 8  # of LoRA, in every linear layer: Dettmers et al. 2023, arXiv:2305.14314, found that all layers matter most
LORA = LoraSection(rank=RANK)
SHARED_HEAD = 1e-3  # absolute rate of a trained head beside other weights


@dataclass(frozen=True)
class Comparator:
    """A trained alternative to a prompt, and what it cost."""

    kind: Kind
    answers: list[Any]  # [N], on the plan's test examples
    dev: float  # the best dev score: the plan's metric, or the loss of written answers
    parameters: int  # trained numbers that the loss reaches
    seconds: float  # of training at the rate that was chosen, its dev scores included
    lr: float  # the absolute rate that was given, or that dev chose
    tried: dict[float, float]  # dev score by rate; a rate at which the loss left the numbers is absent

    def facts(self) -> dict[str, str | int | float]:
        """What is the same at every repetition: how many numbers were trained, at which rate, and the dev score."""
        return {"parameters": self.parameters, "lr": self.lr, "dev": self.dev}


class Weights(Bare):
    """A method that adds nothing to a batch: what it trains are weights of the backbone itself."""

    def __init__(self, weights: list[nn.Parameter]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(weights)

    @override
    def groups(self) -> list[Group]:
        return [Group(list(self.weights), 1.0)]


class Log:
    """Where dev scores go: nowhere. A comparator is cheap to repeat and leaves no run behind."""

    def write(self, event: Event) -> None:
        """Take a line."""


def check(plan: Plan, kinds: Sequence[Kind]) -> None:
    """Raise `RecipeError` for comparators that cannot be trained, before hours go into the prompt."""
    recipe = plan.recipe
    for kind in kinds:
        if kind == "head" and recipe.task.head in ("verbalizer", "lm"):
            found = f"head-only training of a {recipe.task.head} head, which has no parameters"
            do = "set task.head=classifier, or compare with full or lora"
            raise RecipeError("SP-E265", found, "a head that is trained", do)
        if kind == "lora" and find_spec("peft") is None:
            raise RecipeError("SP-E266", "no package peft", "the package that LoRA comes from", "pip install peft")
        if kind != "head" and recipe.backbone.quantize != "none":
            found = f"{NAMES[kind]} of a backbone in {recipe.backbone.quantize}"
            raise RecipeError("SP-E267", found, "weights that can be trained", "leave backbone.quantize out")


def fine_tune(
    plan: Plan,
    backbone: Backbone,
    *,
    kind: Kind,
    lr: float | None = None,
    seed: int | None = None,
    save: str | Path | None = None,
) -> Comparator:
    """Train one comparator and answer the plan's test examples; `backbone` is left as it is.

    Without `lr`, every rate of `RATES` is tried and dev chooses. `save` is a folder for the chosen LoRA, in the form of
    PEFT. Raises `RecipeError` for a head that has nothing to train and for LoRA without the package peft, and
    `TrainingError` where the loss is not finite at any rate.
    """
    check(plan, [kind])
    if save is not None and kind != "lora":
        raise ValueError("only LoRA is saved: the other kinds leave no adapter")
    if seed is not None:
        settings = plan.recipe.train.model_copy(update={"seed": seed})
        plan = replace(plan, recipe=plan.recipe.model_copy(update={"train": settings}))
    best: tuple[Key, Comparator] | None = None
    tried: dict[float, float] = {}
    for rate in RATES[kind] if lr is None else (lr,):
        try:
            key, made, prompt = trained(plan, backbone, kind, rate)
        except TrainingError as error:
            if lr is not None or error.code != "SP-E520":
                raise
            failure = error
            continue
        tried[rate] = made.dev
        if best is None or key > best[0]:
            best = key, made
            if save is not None:
                save_lora(prompt.backbone.model, Path(save))
    if best is None:
        raise failure
    return replace(best[1], tried=tried)


def trained(plan: Plan, backbone: Backbone, kind: Kind, rate: float) -> tuple[Key, Comparator, Prompt]:
    """One comparator at one rate, the key by which dev orders them, and what was trained."""
    prompt = make(plan, backbone, kind)
    plan = with_rate(plan, prompt, kind, rate)
    began = time.monotonic()
    run = learn(prompt, plan)
    seconds = time.monotonic() - began
    restore(prompt, run.best)
    best = max(run.history, key=lambda event: tuple(event["key"]))
    parameters = sum(weight.numel() for weight in prompt.parameters() if weight.grad is not None)
    answers = [prediction.answer for prediction in prompt.predict(plan.test)]
    dev: float = best[plan.recipe.task.metric] if plan.recipe.task.metric in best else best["loss"]
    return tuple(best["key"]), Comparator(kind, answers, dev, parameters, seconds, rate, {}), prompt


def learn(prompt: Prompt, plan: Plan) -> Run:
    """The steps of `training.fit` without its states: what can be repeated need not be resumed."""
    rows = [prompt.row(example) for example in plan.train]
    optimizer, rates = make_optimizer(plan.recipe.optim, prompt.method.groups(), prompt.head)
    settings = plan.recipe.train
    every = settings.evaluate_every or plan.steps_per_epoch
    run, log = Run.new(prompt), cast(Any, Log())
    prompt.backbone.recompute(settings.checkpointing)
    while run.step < plan.steps and not run.patience_is_over(settings.patience):
        step(prompt, plan, rows, optimizer, rates, run.step)
        run.step += 1
        if run.step % every == 0 or run.step == plan.steps:
            run.judge(prompt, plan, log, lambda event: None)
    prompt.backbone.recompute(False)
    return run


def with_rate(plan: Plan, prompt: Prompt, kind: Kind, rate: float) -> Plan:
    """The plan at an absolute rate of AdamW, whatever optimiser the prompt has: its rates are those of a prompt."""
    head = list(prompt.head.parameters())
    own = rate if kind == "head" else SHARED_HEAD
    changed: dict[str, Any] = {"name": "adamw", "lr": rate, "head_lr": own * head[0].shape[-1] if head else 1.0}
    optim = plan.recipe.optim.model_copy(update=changed)
    return replace(plan, recipe=plan.recipe.model_copy(update={"optim": optim}))


def make(plan: Plan, backbone: Backbone, kind: Kind) -> Prompt:
    """The untrained comparator: the head and the rows of the plan's prompt over weights that can be trained."""
    bare = without_prompt(build(alone(plan), backbone))
    if kind == "head":
        return Prompt(backbone, Weights([]), bare.head, bare.template, bare.task)
    own = wrap(copy.deepcopy(backbone.model).float(), backbone.tokenizer, backbone.name)
    torch.manual_seed(plan.recipe.train.seed)
    weights = add_lora(own, LORA) if kind == "lora" else list(own.model.requires_grad_(True).parameters())
    return Prompt(own, Weights(weights), bare.head, bare.template, bare.task)
