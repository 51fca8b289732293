"""The one loop of every strategy: propose, filter, score exactly, accept, keep what is best on dev.

What a step does depends on the seed, the step and the last state, so a search that is killed at any moment and gone on
with ends with the same prompt and the same counts. Every pass is paid for before it runs: a budget is never exceeded.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from softprompt import checkpoint
from softprompt.checkpoint import State
from softprompt.core import Example
from softprompt.errors import RecipeError
from softprompt.files import sweep
from softprompt.metrics import find_metric
from softprompt.plan import Plan
from softprompt.run import Listener, Log, Stopped, stopping
from softprompt.search.candidates import Ids, none_survives
from softprompt.search.operator import Operator
from softprompt.search.score import Judged, Ledger, Scorer

IDLE = 50  # steps in a row without a candidate that survives, after which a search ends
SAVING = 1.0  # seconds between states


@dataclass(frozen=True)
class Settings:
    """What decides a search, beside its plan."""

    strategy: str
    budget: int  # passes over one text: forwards and backwards
    start: Ids
    seed: int = 0
    count: int = 16  # candidates of a step
    examples: int = 16  # on which the candidates of a step are scored
    dev: int = 100  # most dev examples that choose the best


@dataclass
class Search:
    """What a search knows."""

    at: Ids  # the prompt that the next step begins at
    best: Ids
    key: list[float]  # of the best on dev: higher is better, the first number decides
    ledger: Ledger
    step: int = 0
    idle: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)  # every prompt that was scored on dev

    @classmethod
    def of(cls, state: State) -> "Search":
        """The search that wrote a state."""
        meta: Any = state.meta
        known = {name: meta[name] for name in ("key", "idle", "history")}
        return cls(tuple(meta["at"]), tuple(meta["best"]), ledger=Ledger(**meta["ledger"]), step=state.step, **known)

    def state(self, operator: Operator) -> State:
        """Everything needed to go on."""
        tensors, facts = operator.state()
        known: Any = {"at": list(self.at), "best": list(self.best), "key": self.key, "idle": self.idle}
        return State(
            self.step, tensors, known | {"history": self.history, "ledger": asdict(self.ledger), "operator": facts}
        )


def seek(
    kind: type[Operator], scorer: Scorer, plan: Plan, settings: Settings, folder: Path, listen: Listener
) -> Search:
    """Search until the budget is spent, from the newest state in `folder`, or from the start.

    Raises `RecipeError` for a budget too small for a step and for a tokenizer that gives no candidate back.
    """
    states = folder / "states"
    states.mkdir(parents=True, exist_ok=True)
    sweep(states)
    state, notes = checkpoint.newest(states)
    for text in notes:
        listen({"event": "note", "text": text})
    dev = balanced(plan.dev, settings.dev, Random(settings.seed))
    operator = kind(scorer, settings.start)
    log = Log(folder / "log.jsonl", 0 if state is None else state.step)
    if state is None:
        found = begin(scorer, operator, plan, settings, dev)
        log.write(found.history[0])
    else:
        found = Search.of(state)
        scorer.ledger = found.ledger
        meta: Any = state.meta
        operator.load(state.tensors, meta["operator"])
    saved = time.monotonic()
    with stopping() as stop:
        while affordable(operator, scorer, settings, plan, len(dev)) and found.idle < IDLE:
            event = step(found, operator, scorer, plan, settings, dev)
            log.write(event)
            listen(event | {"spent": scorer.ledger.spent, "budget": settings.budget})
            now = time.monotonic()
            if stop or now - saved > SAVING:
                log.flush()
                checkpoint.save(states, found.state(operator))
                saved = now
            if stop:
                raise Stopped(128 + stop[0])
    log.close()
    checkpoint.save(states, found.state(operator))
    if found.idle >= IDLE and len(found.history) == 1:
        raise none_survives(scorer.prompt.backbone.name)
    return found


def begin(scorer: Scorer, operator: Operator, plan: Plan, settings: Settings, dev: Sequence[Example]) -> Search:
    """A search at its start, which is scored on dev first: what is found is never worse there."""
    least = len(dev) * scorer.each + cost(operator, scorer, settings, plan, len(dev), 1)
    if settings.budget < least:
        found, do = f"a budget of {settings.budget:,} passes", "raise --budget, or lower --examples or --dev-examples"
        raise RecipeError("SP-E632", found, f"{least:,} or more, which one step takes", do)
    if not scorer.candidates.survivors([settings.start], [*plan.train[: settings.examples], *dev]):
        found = f"a start {scorer.candidates.text(settings.start)!r} that is read otherwise beside the text"
        do = "begin with other words, or put a space or a line break beside {soft} in task.template"
        raise RecipeError("SP-E633", found, "a text whose ids survive decode and encode", do)
    key, facts = on_dev(scorer, plan, settings.start, dev)
    entry = {"step": 0, "ids": list(settings.start), "text": scorer.candidates.text(settings.start), "key": key}
    return Search(settings.start, settings.start, key, scorer.ledger, history=[entry | facts])


def cost(operator: Operator, scorer: Scorer, settings: Settings, plan: Plan, dev: int, count: int) -> int:
    """The most that a step with `count` candidates costs: proposals, their scores and the present one's, and dev."""
    passes = min(settings.examples, len(plan.train)) * scorer.each
    return operator.price(passes, count) + (count + 1) * passes + dev * scorer.each


def affordable(operator: Operator, scorer: Scorer, settings: Settings, plan: Plan, dev: int) -> int:
    """How many candidates the next step may have, none if the budget is spent."""
    left = scorer.ledger.left
    counts = range(settings.count, 0, -1)
    return next((n for n in counts if cost(operator, scorer, settings, plan, dev, n) <= left), 0)


def step(
    found: Search, operator: Operator, scorer: Scorer, plan: Plan, settings: Settings, dev: Sequence[Example]
) -> dict[str, Any]:
    """One step; what it did."""
    rng = Random(settings.seed * 1_000_003 + found.step)
    examples = balanced(plan.train, settings.examples, rng)
    count = affordable(operator, scorer, settings, plan, len(dev))
    found.step += 1
    proposed = operator.propose(found.at, examples, count, rng)
    made = [ids for ids in scorer.candidates.survivors(proposed[:count], examples) if ids != found.at]
    event: dict[str, Any] = {"event": "search", "step": found.step, "proposed": len(proposed), "survived": len(made)}
    found.idle = 0 if made else found.idle + 1
    if made:
        now, *judged = scorer.judge([found.at, *made], examples)
        operator.learn(list(zip([found.at, *made], [now, *judged], strict=True)))
        value, place = max((operator.value(one), -i) for i, one in enumerate(judged))
        better = value > operator.value(now)
        event |= {"loss": min(one.mean for one in judged) if better else now.mean, "accepted": better}
        if better:
            found.at = made[-place]
            event |= weigh(found, scorer, plan, dev)
    ledger = scorer.ledger
    best = {"best": scorer.candidates.text(found.best), "key": found.key}
    return event | {"forwards": ledger.forwards, "backwards": ledger.backwards, **best}


def weigh(found: Search, scorer: Scorer, plan: Plan, dev: Sequence[Example]) -> dict[str, Any]:
    """Score the accepted prompt on dev, unless it was, and keep it if it is the best."""
    if any(tuple(past["ids"]) == found.at for past in found.history) or not scorer.candidates.stands(found.at, dev):
        return {}
    key, facts = on_dev(scorer, plan, found.at, dev)
    text = scorer.candidates.text(found.at)
    found.history.append({"step": found.step, "ids": list(found.at), "text": text, "key": key} | facts)
    if key > found.key:
        found.best, found.key = found.at, key
    return {"dev": facts}


def on_dev(scorer: Scorer, plan: Plan, ids: Ids, dev: Sequence[Example]) -> tuple[list[float], dict[str, float]]:
    """The key of a prompt on dev, metric before loss, and both by name."""
    judged = scorer.judge([ids], dev)[0]
    if judged.logs is None:
        return [-judged.mean], {"loss": judged.mean}
    metric = plan.recipe.task.metric
    answers = [plan.labels[i] for i in judged.logs.argmax(1).tolist()]
    value = find_metric(metric)(answers, [example.label for example in dev], draws=2).value
    signed = value if find_metric(metric).higher_is_better else -value
    return [signed, -judged.mean], {metric: value, "loss": judged.mean}


def balanced(examples: Sequence[Example], most: int, rng: Random) -> list[Example]:
    """At most so many examples, as many of each class as there can be; of tasks without classes, any.

    A batch with more of one class would favour prompts that move answers to it.
    """
    groups: dict[Any, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.label, []).append(example)
    if len(groups) > most:
        return rng.sample(list(examples), min(most, len(examples)))
    for members in groups.values():
        rng.shuffle(members)
    turns = max(len(members) for members in groups.values())
    order = [members[i] for i in range(turns) for members in groups.values() if i < len(members)]
    return order[:most]


__all__ = ["Judged", "Search", "Settings", "balanced", "seek"]
