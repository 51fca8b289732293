"""Two prompts of one task, example by example: losses, marks, and whether one is really ahead."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from softprompt.core import IGNORE, Example
from softprompt.evaluate import references
from softprompt.heads import LanguageModel, Verbalizer, supervised
from softprompt.metrics import find_metric, paired
from softprompt.plan import Plan
from softprompt.prompt import Prompt, by_length

LEVEL = 0.05  # two-sided p below which a difference counts


@dataclass(frozen=True)
class Compared:
    """How far the first of two prompts is ahead on the same examples, and what follows."""

    difference: float  # of the mean mark
    error: float  # half-width of its 95 % interval
    p: float  # two-sided
    n: int

    @property
    def verdict(self) -> str:
        """`gain`, `harm`, or `no gain` where the difference may be chance."""
        if self.p >= LEVEL or not self.difference:
            return "no gain"
        return "gain" if self.difference > 0 else "harm"

    def as_dict(self) -> dict[str, Any]:
        """The comparison as plain values."""
        return vars(self) | {"verdict": self.verdict}


def compare(first: Prompt, second: Prompt, plan: Plan) -> Compared:
    """A paired test of two prompts on the test examples: McNemar's for right and wrong, sign flips for other marks."""
    return compared(marks(first, plan, plan.test), marks(second, plan, plan.test))


def compared(first: Sequence[float], second: Sequence[float]) -> Compared:
    """The same of marks that are there already."""
    made = paired(first, second)
    return Compared(made.difference, made.error, made.p, len(first))


def marks(prompt: Prompt, plan: Plan, examples: Sequence[Example]) -> list[float]:
    """One number for each answer of a prompt, as `graded` gives it."""
    return graded([prediction.answer for prediction in prompt.predict(examples)], plan, examples)


def graded(answers: Sequence[Any], plan: Plan, examples: Sequence[Example]) -> list[float]:
    """One number for each answer, larger is better.

    Classification: right or wrong. Tagging: the share of right tags. Regression: minus the distance. Generation: the
    deciding metric of the answer alone.
    """
    wanted = references(plan.kind, examples)
    return [mark(plan, answer, right) for answer, right in zip(answers, wanted, strict=True)]


def mark(plan: Plan, answer: Any, right: Any) -> float:
    """The mark of one answer."""
    if plan.kind == "classification":
        return float(answer == right)
    if plan.kind == "regression":
        return -float(abs(answer - right))
    if plan.kind == "tagging":
        return float(sum(a == b for a, b in zip(answer, right, strict=True)) / len(right))
    return find_metric(plan.recipe.task.metric)([answer], [right], draws=2).value


def readable(prompt: Prompt) -> bool:
    """Whether the loss before any training says something: the head has nothing of its own to train."""
    return isinstance(prompt.head, LanguageModel)


@torch.inference_mode()
def losses(prompt: Prompt, examples: Sequence[Example], batch_size: int) -> list[float]:
    """The loss per label of every example, for heads that read words (`readable`)."""
    assert isinstance(prompt.head, LanguageModel)
    prompt.eval()
    rows = [prompt.row(example) for example in examples]
    found = [0.0] * len(rows)
    for chosen in by_length(rows, batch_size):
        batch = prompt.batch([rows[i] for i in chosen])
        output = prompt.answer(batch, prompt.inject(batch))
        if isinstance(prompt.head, Verbalizer) and prompt.head.one_pass:
            assert batch.target is not None
            values = -prompt.head.scores(output, batch).gather(1, batch.target.long()[:, None])[:, 0]
        else:
            labels = supervised(batch).labels
            assert labels is not None
            values = -prompt.head.sequence_scores(output, batch) / (labels != IGNORE).sum(1)
        for i, value in zip(chosen, values.tolist(), strict=True):
            found[i] = value
    return found


__all__ = ["LEVEL", "Compared", "compare", "compared", "graded", "losses", "mark", "marks", "readable"]
