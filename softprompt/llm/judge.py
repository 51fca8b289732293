"""How good prompts are: the task model asked, its answers scored, candidates raced so that the worst cost little."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from softprompt.example import Example
from softprompt.llm.endpoint import Client
from softprompt.llm.task import Task
from softprompt.metrics import paired

FIRST = 8  # examples of the first leg of a race; every further leg doubles them
BEHIND = 0.2  # a candidate that is worse than its rival leaves the race where a paired test says p below this
DRAWS = 500  # of that test, where answers are neither right nor wrong


@dataclass(frozen=True)
class Rated:
    """A prompt and how good its answers were, one number from 0 to 1 an example, on the first examples of the race."""

    text: str
    values: tuple[float, ...]
    whole: bool  # whether it ran the whole race
    metric: float = -math.inf  # the task's metric, of a prompt that ran it all; higher is better for all of these tasks

    @property
    def mean(self) -> float:
        """The mean over the examples that it saw."""
        return sum(self.values) / len(self.values)

    @property
    def key(self) -> tuple[float, float]:
        """What decides between prompts that ran the whole race."""
        return self.metric, self.mean


class Judge:
    """Asks the task model with prompts, each example once."""

    def __init__(self, task: Task, client: Client) -> None:
        self.task, self.client = task, client
        self.known: dict[tuple[str, int], str] = {}  # answers by prompt and example
        self.cut = 0  # answers that broke off

    def answers(self, prompts: Sequence[str], examples: Sequence[Example]) -> list[list[str]]:
        """The answers of every prompt to every example."""
        pairs = [(prompt, example) for prompt in prompts for example in examples]
        new = list({(p, id(e)): (p, e) for p, e in pairs if (p, id(e)) not in self.known}.items())
        made = self.client.ask_all([self.task.messages(prompt, example) for _, (prompt, example) in new])
        for (key, (_, example)), answer in zip(new, made, strict=True):
            self.cut += answer.finished == "length"
            self.known[key] = self.task.answer(answer.text, example)
        return [[self.known[prompt, id(example)] for example in examples] for prompt in prompts]

    def values(self, prompt: str, examples: Sequence[Example]) -> list[float]:
        """How good the answers of a prompt are, from 0 to 1 an example."""
        answers = self.answers([prompt], examples)[0]
        return [self.task.value(a, e) for a, e in zip(answers, examples, strict=True)]

    def rate(self, prompt: str, count: int) -> Rated:
        """A prompt on the first `count` examples of the race."""
        examples = self.task.race[:count]
        answers = self.answers([prompt], examples)[0]
        values = tuple(self.values(prompt, examples))
        if count < len(self.task.race):
            return Rated(prompt, values, False)
        value = self.task.score(answers, examples, draws=2).value
        return Rated(prompt, values, True, value if math.isfinite(value) else self.task.measure.worst)

    def race(self, prompts: Sequence[str], rivals: Sequence[Rated | None]) -> list[Rated]:
        """Every prompt against its rival, which ran the whole race, leg by leg; one that falls behind leaves it.

        All that are left run a leg together. Without a rival a prompt runs to the end.
        """
        seen = dict.fromkeys(prompts, 0)
        against = dict(zip(prompts, rivals, strict=True))
        running = list(seen)
        for count in legs(len(self.task.race)):
            self.answers(running, self.task.race[:count])
            seen |= dict.fromkeys(running, count)
            running = [prompt for prompt in running if not self.behind(prompt, against[prompt], count)]
        return [self.rate(prompt, seen[prompt]) for prompt in prompts]

    def behind(self, prompt: str, rival: Rated | None, count: int) -> bool:
        """Whether a prompt is so much worse than its rival on the first examples that it may leave the race."""
        if rival is None:
            return False
        gap = paired(self.values(prompt, self.task.race[:count]), rival.values[:count], draws=DRAWS)
        return gap.difference < 0 and gap.p < BEHIND


def legs(count: int) -> list[int]:
    """How many examples were seen after each leg of a race over `count`."""
    made, size = [], FIRST
    while size < count:
        made.append(size)
        size *= 2
    return [*made, count]
