"""Members of a sweep, step by step: a batch of each, one forward for all, and each moves by its own gradient."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from softprompt import checkpoint
from softprompt.backbones import Backbone
from softprompt.checkpoint import State
from softprompt.core import Row
from softprompt.cost import announce
from softprompt.engine import Once, choose, once
from softprompt.errors import TrainingError
from softprompt.evaluate import score
from softprompt.files import sweep, write_atomically
from softprompt.frozen import remember
from softprompt.heads import LanguageModel, Verbalizer
from softprompt.plan import Plan
from softprompt.prompt import Prompt
from softprompt.run import Event, Listener, Log, Run, Stopped, restore, snapshot, stopping
from softprompt.sweep.together import Part, losses, passes
from softprompt.track import tracker
from softprompt.training import SAVING, computed, deliver, mixed, move, prepared, ready
from softprompt.untrained import build


@dataclass
class Member:
    """One prompt of a sweep: its plan and its folder, and, once it is built, all that changes while it is trained."""

    name: str
    plan: Plan
    place: Path
    listen: Listener
    seconds: float = 0.0  # its share of the passes
    error: TrainingError | None = None  # why it cannot go on
    prompt: Prompt = field(init=False)
    untrained: dict[str, Tensor] = field(init=False)
    rows: list[Row] = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    rates: list[float] = field(init=False)
    run: Run = field(init=False)
    log: Log = field(init=False)

    def build(self, backbone: Backbone) -> None:
        """The untrained prompt."""
        sweep(self.place)  # what a killed process was writing
        sweep(self.place / "states")
        name, hear = self.name, self.listen
        self.listen = tracker(self.plan.recipe, self.place, lambda event: hear(event | {"member": name}))
        self.prompt = build(self.plan, backbone)
        self.prompt.fewest = 1  # beside others, a batch of one row is worth packing too
        if self.plan.recipe.train.compare:
            from softprompt.comparators import check  # which takes its steps from training

            check(self.plan, self.plan.recipe.train.compare)  # before hours go into the prompt
        self.listen({"event": "plan", "plan": self.plan, "prompt": self.prompt})
        self.untrained = snapshot(self.prompt)

    def prepare(self) -> None:
        """Rows, optimiser and engine, as a single run has them."""
        settings = self.plan.recipe.train
        rows, self.optimizer, self.rates = prepared(self.prompt, self.plan, self.listen)
        if settings.batch_size == 1 and len(rows) > 1:  # one row is no trial of an engine for many
            choose(self.prompt, rows[:2], settings.engine, self.listen)
        with mixed(self.prompt.backbone, settings.precision):
            self.rows = remember(self.prompt, self.plan, rows, self.place, self.listen)

    def enter(self, state: State | None) -> None:
        """Go on from a state, or begin."""
        self.run = Run.new(self.prompt) if state is None else Run.of(state, self.prompt, self.optimizer)
        self.error = failure(self.place, self.run.step)
        self.log = Log(self.place / "log.jsonl", self.run.step)
        announce(self.prompt, self.plan, self.rows, self.run.step, self.log, self.listen)
        (self.place / "states").mkdir(exist_ok=True)

    @property
    def over(self) -> bool:
        """Whether it has left the batch."""
        return self.error is not None or complete(self.plan, self.run.step, self.run.worse)

    def load(self) -> "Load":
        """The parts of the step at hand; random numbers are drawn as in a single run."""
        batches = ready(self.prompt, self.plan, self.rows, self.optimizer, self.rates, self.run.step)
        with mixed(self.prompt.backbone, self.plan.recipe.train.precision):
            shared = once(self.prompt, len(batches))
            given = [self.prompt.inject(batch) if shared is None else shared.injection for batch in batches]
        parts = [Part(self.prompt, batch, injection) for batch, injection in zip(batches, given, strict=True)]
        return Load(parts, max(1, sum(self.prompt.head.count(batch) for batch in batches)), shared)

    def move(self, load: "Load", seconds: float) -> None:
        """Take the step that the gradients say; where they are not finite, note the error and stay."""
        self.seconds += seconds
        if load.shared is not None:
            load.shared.backward()
        try:
            norm = move(self.plan, len(self.rows), self.optimizer, self.rates, self.run.step, load.loss)
        except TrainingError as error:
            self.error = error
            facts = {"step": self.run.step, "error": error.as_dict()}
            write_atomically(self.place / "failed.json", json.dumps(facts, indent=1).encode())
            self.listen({"event": "note", "text": f"left the batch: {error}"})
            return
        self.run.step += 1
        event: Event = {"event": "step", "step": self.run.step, "loss": load.loss, "norm": norm, "tokens": load.tokens}
        event["lr"] = self.optimizer.param_groups[0]["lr"] / self.prompt.method.groups()[0].unit
        self.log.write(event)
        self.listen(event | {"total": self.plan.steps, "seconds": seconds})
        every = self.plan.recipe.train.evaluate_every or self.plan.steps_per_epoch
        if self.run.step % every == 0 or self.run.step == self.plan.steps:
            self.run.judge(self.prompt, self.plan, self.log, self.listen)

    def save(self) -> None:
        """Keep the state; the log first, before a state says that its steps are done."""
        self.log.flush()
        checkpoint.save(self.place / "states", self.run.state(self.prompt, self.optimizer))

    def finish(self) -> None:
        """Score the best prompt and write what a single run leaves; its score on dev with ± goes to dev.json."""
        self.log.close()
        if self.error is not None or (self.place / "report.json").exists():
            return
        restore(self.prompt, self.run.best)
        if not isinstance(self.prompt.head, LanguageModel) or isinstance(self.prompt.head, Verbalizer):
            answers = [prediction.answer for prediction in self.prompt.predict(self.plan.dev)]
            found = score(self.plan.kind, self.plan.recipe.task.metric, answers, self.plan.dev)
            write_atomically(self.place / "dev.json", json.dumps(found.as_dict()).encode())
        began = time.monotonic() - self.seconds
        deliver(self.prompt, self.plan, self.place, self.untrained, self.run.history, began, self.listen)


@dataclass
class Load:
    """The work of one member in one step."""

    parts: list[Part]
    count: int  # labels of the step
    shared: Once | None
    loss: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens that run through the model."""
        return sum(computed(part.batch) for part in self.parts)


def complete(plan: Plan, step: int, worse: int) -> bool:
    """Whether a run that is so far is done, by steps or by patience."""
    patience = plan.recipe.train.patience
    return step >= plan.steps or (patience is not None and worse >= patience)


def failure(place: Path, step: int) -> TrainingError | None:
    """The error that ended a member at this step, where one did."""
    path = place / "failed.json"
    facts: Any = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"step": None}
    if facts["step"] != step:
        return None
    error = facts["error"]
    return TrainingError(error["code"], error["found"], error["expected"], error["do"], where=error["where"])


def common(members: list[Member]) -> list[State | None]:
    """The states of the newest step that all members have; of who was done before, its last one."""
    limit: int | None = None
    while True:
        states = []
        for member in members:
            state, notes = checkpoint.newest(member.place / "states", limit)
            for note in notes if limit is None else ():
                member.listen({"event": "note", "text": note})
            states.append(state)
        steps = [0 if state is None else state.step for state in states]
        going = [step for member, state, step in zip(members, states, steps, strict=True) if not done(member, state)]
        if not going or set(going) == {max(steps)}:
            return states
        limit = min(going)


def done(member: Member, state: State | None) -> bool:
    """Whether a state is the last one of its member."""
    if state is None:
        return False
    meta: Any = state.meta
    return complete(member.plan, state.step, meta["worse"]) or failure(member.place, state.step) is not None


def go_together(members: list[Member], backbone: Backbone, listen: Listener) -> None:
    """Train members from where they are to their reports; raises `Stopped` after a signal, with all states saved."""
    for member in members:
        member.build(backbone)
    for member in members:
        member.prepare()
    for member, state in zip(members, common(members), strict=True):
        member.enter(state)
    with stopping() as stop:
        train(members, listen, stop)
    backbone.recompute(False)
    for member in members:
        member.finish()


def train(members: list[Member], listen: Listener, stop: list[int]) -> None:
    """Passes until every member has left the batch, or until a signal comes."""
    seconds = min(member.plan.recipe.train.save_seconds for member in members)
    saved, cost, told = time.monotonic(), 0.0, False
    while live := [member for member in members if not member.over]:
        forwards = one_pass(live, listen)
        if len(forwards) > 1 and not told:
            told = True
            apart = "; ".join(", ".join(names) for names in forwards)
            text = f"a step takes {len(forwards)} forwards one after the other, because not all prompts fit: {apart}"
            listen({"event": "note", "text": text})
        now = time.monotonic()
        if stop or now - saved > max(seconds, cost / SAVING) or any(member.over for member in live):
            for member in live:
                member.save()
            saved, cost = time.monotonic(), time.monotonic() - now
        if stop:
            step = max(member.run.step for member in live)
            listen({"event": "stopped", "step": step})
            raise Stopped(128 + stop[0])


def one_pass(live: list[Member], listen: Listener) -> list[list[str]]:
    """One step of every member; the names of those that shared a forward, of the first batches."""
    began = time.monotonic()
    loads = [member.load() for member in live]
    forwards: list[list[str]] = []
    for i in range(max(len(load.parts) for load in loads)):
        chosen = [j for j, load in enumerate(loads) if i < len(load.parts)]
        groups = [[chosen[g] for g in group] for group in passes([loads[j].parts[i] for j in chosen])]
        forwards = forwards or [[live[j].name for j in group] for group in groups]
        for group in groups:
            back([loads[j] for j in group], i, live[0].plan.recipe.train.precision)
    seconds = (time.monotonic() - began) / len(live)
    step = live[0].run.step + 1
    for member, load in zip(live, loads, strict=True):
        member.move(load, seconds)
    event: Event = {"event": "pass", "step": step, "total": max(member.plan.steps for member in live)}
    event |= {"prompts": len(live), "loss": sum(load.loss for load in loads) / len(live)}
    listen(event | {"tokens": sum(load.tokens for load in loads), "seconds": time.monotonic() - began})
    return forwards


def back(loads: list[Load], i: int, precision: str) -> None:
    """Forward and backward of batch `i` of members that fit; each loss is divided by its own count."""
    parts = [load.parts[i] for load in loads]
    with mixed(parts[0].prompt.backbone, precision):
        shares = [loss / load.count for loss, load in zip(losses(parts), loads, strict=True)]
    torch.autograd.backward(shares)
    for load, share in zip(loads, torch.stack(shares).tolist(), strict=True):
        load.loss += share


__all__ = ["Member", "go_together"]
