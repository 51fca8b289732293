"""Better instructions for the extraction prompt: the model is shown what went wrong, and what it proposes is scored."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from softprompt.graphrag import texts
from softprompt.graphrag.corpus import Chunk
from softprompt.graphrag.forms import Draft, render
from softprompt.graphrag.measure import Measured, measure, shared_parts
from softprompt.graphrag.speaker import Meter
from softprompt.graphrag.targets import Target
from softprompt.graphrag.validate import check

Event = dict[str, Any]
LONGEST = 2000  # characters of instructions
FAULTS = 8  # shown to the model
PATIENCE = 3  # rounds without a gain, after which the loop stops
KEPT = 0.9  # of the facts that the instructions before found: no gain by finding less
COPIED = 8  # words in a row that instructions may not share with a chunk


@dataclass(frozen=True)
class Round:
    """One proposal and what became of it."""

    task: str
    score: float | None  # mean on the dev chunks; None where it was refused unscored
    kept: bool
    why: str


def improve(
    meter: Meter, draft: Draft, target: Target, dev: list[Chunk], reserve: int, listen: Callable[[Event], None]
) -> tuple[Draft, list[Round]]:
    """A draft with the best instructions found on the dev chunks, and every round.

    A round is a proposal and one answer a dev chunk. A proposal is kept if its mean score, paired by chunk, is above
    that of the best before, with at least `KEPT` of its facts. Rounds go on while `reserve` calls stay unspent, until
    `PATIENCE` rounds in a row bring nothing. What is kept is chosen on few chunks: only the chunks held out can tell
    whether it is better.
    """
    rounds: list[Round] = []
    if not dev or meter.left - (1 + 2 * len(dev)) < reserve:
        return draft, rounds
    best = measure(meter, render(draft, target), target, draft.types, dev, 1)
    while meter.left - (1 + len(dev)) >= reserve and any(one.kept for one in [*rounds[-PATIENCE:], start(rounds)]):
        task = propose(meter, draft, best, len(rounds) + 1)
        wrong = refusal(task, draft, target, dev)
        if wrong:
            rounds.append(Round(task, None, False, wrong))
        else:
            tried = replace(draft, task=task)
            scored = measure(meter, render(tried, target), target, tried.types, dev, 1)
            gain, kept = compared(scored, best)
            rounds.append(Round(task, fmean(scored.scores(shared_parts(scored, best))), kept, f"{gain:+.3f} on dev"))
            draft, best = (tried, scored) if kept else (draft, best)
        listen({"event": "round", "round": len(rounds), "kept": rounds[-1].kept, "why": rounds[-1].why})
    return draft, rounds


def start(rounds: list[Round]) -> Round:
    """The instructions that the loop began with, which count as kept as long as patience lasts."""
    return Round("", None, len(rounds) < PATIENCE, "")


def propose(meter: Meter, draft: Draft, best: Measured, number: int) -> str:
    """New instructions from the model; '' where its answer has none."""
    faults = list(dict.fromkeys(fault for one in best.readings for fault in one.faults))[:FAULTS]
    scores = {name: round(value, 2) for name, value in best.mean().items() if name not in ("facts", "tokens")}
    question = texts.ASK_TASK.format(
        task=draft.task,
        scores=", ".join(f"{name} {value}" for name, value in scores.items()),
        faults="\n".join(f"- {one}" for one in faults) or "- nothing",
        limit=LONGEST,
    )
    [answer] = meter.ask_all([[{"role": "user", "content": question}]], rollout=number)
    found = re.search(r"<task>(.*?)</task>", answer.text, re.DOTALL)
    return found[1].strip() if found else ""


def refusal(task: str, draft: Draft, target: Target, dev: list[Chunk]) -> str:
    """Why instructions are not scored at all; '' where they are."""
    if not task:
        return "no instructions in the answer"
    if len(task) > LONGEST:
        return f"{len(task):,} characters, at most {LONGEST:,}"
    if task == draft.task:
        return "the same instructions"
    if copied(task, dev):
        return f"{COPIED} words in a row of a chunk"
    if not check(render(replace(draft, task=task), target), target).good:
        return "instructions that break the prompt's format"
    return ""


def copied(task: str, dev: list[Chunk]) -> bool:
    """Whether instructions share a run of words with a chunk: they would give answers away."""
    words = re.findall(r"\w+", task.casefold())
    runs = {" ".join(words[i : i + COPIED]) for i in range(len(words) - COPIED + 1)}
    return any(f" {run} " in f" {text} " for text in map(flat, dev) for run in runs)


def flat(chunk: Chunk) -> str:
    """The words of a chunk, a space between them."""
    return " ".join(re.findall(r"\w+", chunk.text.casefold()))


def compared(scored: Measured, best: Measured) -> tuple[float, bool]:
    """The mean gain of a proposal over the best, and whether it is to be kept."""
    names = shared_parts(scored, best)
    gain = fmean(a - b for a, b in zip(scored.scores(names), best.scores(names), strict=True))
    return gain, gain > 0 and scored.mean()["facts"] >= KEPT * best.mean()["facts"]
