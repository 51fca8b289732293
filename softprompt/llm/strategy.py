"""What every strategy of writing prompts is: a step that makes some, and what that costs at most."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar

from softprompt.llm.budget import Usage
from softprompt.llm.judge import Judge, Rated
from softprompt.llm.task import Task
from softprompt.llm.writer import Writer


@dataclass
class Board:
    """What a run knows: every prompt that was rated, in that order, the start first."""

    task: Task
    judge: Judge
    writer: Writer
    seed: int = 0
    listen: Callable[[dict[str, Any]], None] = lambda event: None
    step: int = 0
    rated: dict[str, Rated] = field(default_factory=dict)

    @property
    def start(self) -> Rated:
        """The prompt that the run began with."""
        return next(iter(self.rated.values()))

    @property
    def ranking(self) -> list[Rated]:
        """The prompts that ran the whole race, the best first, the earlier of equal ones first."""
        whole = [one for one in self.rated.values() if one.whole]
        return sorted(whole, key=lambda one: one.key, reverse=True)

    @property
    def best(self) -> Rated:
        """The best so far."""
        return self.ranking[0]

    @property
    def length(self) -> int:
        """Examples of a whole race."""
        return len(self.task.race)

    def each(self, prompts: list[str]) -> Usage:
        """The most that a request to the task model uses with any of some prompts."""
        task = self.task
        texts = max((task.shown(e) for e in (*task.race, *task.fresh, *task.test)), key=lambda text: len(text.encode()))
        prompt = max(prompts, key=lambda text: len(text.encode()))
        return self.judge.client.endpoint.most(task.posed(prompt, texts))

    def rng(self) -> Random:
        """The random numbers of this step: the same whether the run was interrupted or not."""
        return Random(self.seed * 1_000_003 + self.step)

    def race(self, prompts: list[str], rivals: list[Rated | None]) -> list[Rated]:
        """Rate new prompts, each against its rival, keep them, and log what came of them."""
        made = self.judge.race(prompts, rivals)
        self.rated |= {one.text: one for one in made}
        rows = [{"text": one.text, "mean": one.mean, "n": len(one.values)} for one in made]
        best = {"best": self.best.text, "key": list(self.best.key)}
        self.judge.client.log.decide({"step": self.step, "rated": rows} | best)
        budget = self.judge.client.budget
        self.listen({"event": "write", "step": self.step, "spent": budget.spent, "budget": budget.calls} | best)
        return made


class Strategy(ABC):
    """Makes prompts, step by step. Subclasses name their paper and how they differ from it."""

    count: ClassVar[int]  # prompts of a step
    writes: ClassVar[bool] = True  # whether it needs a model that writes

    def __init__(self, board: Board, count: int | None = None) -> None:
        self.board, self.most = board, count or self.count

    def price(self, count: int) -> int:
        """The most calls of a step that makes `count` prompts: each written once, and raced to the end."""
        return count * (int(self.writes) + self.board.length)

    def affordable(self) -> int:
        """How many prompts the next step may make, none where the budget is spent."""
        budget, each = self.board.judge.client.budget, self.board.each(list(self.board.rated))
        return next((n for n in range(self.most, 0, -1) if budget.fits(self.price(n), each)), 0)

    @abstractmethod
    def step(self, count: int) -> list[Rated]:
        """Make at most `count` prompts and race them; those that are new."""
