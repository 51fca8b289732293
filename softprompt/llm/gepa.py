"""GEPA: a prompt is mended from what it got wrong on a few examples; parents come from the Pareto front over examples.

Agrawal et al. 2025, "GEPA: Reflective Prompt Evolution Can Outperform Reinforcement Learning", arXiv:2507.19457, by its
authors' package `gepa`. We give it callables only (its own way to a model would import litellm), our own request (its
default asks the model to write down facts of the examples, which leaks them), and no folder: its state is a pickle.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from softprompt.errors import RecipeError
from softprompt.example import Example
from softprompt.llm.judge import Rated
from softprompt.llm.strategy import Strategy
from softprompt.llm.wording import reflected

MINIBATCH = 3  # training examples that a prompt is mended from, as in the paper
NAME = "prompt"  # of the one part of a candidate
IDLE = 50  # turns in a row in which nothing new was asked, after which the loop ends


class Gepa(Strategy):
    """The package's loop is one step here. It is stopped before a turn that the budget may not allow.

    Deviation: the package calls the task model on a whole race for every child that was better on its minibatch; no
    racing.
    """

    count: ClassVar[int] = 1

    def price(self, count: int) -> int:
        """A turn: the parent and its child on a minibatch, one request to write, and the child's whole race."""
        return count * (2 * MINIBATCH + 1 + self.board.length)

    def step(self, count: int) -> list[Rated]:
        """Every turn there is budget for; the prompts that ran the whole race."""
        try:
            from gepa.api import optimize
        except ImportError as error:
            do = "pip install 'softprompt[llm]'"
            raise RecipeError("SP-E730", "no package gepa", "the package of that strategy", do) from error
        before, adapter = len(self.board.rated), Adapter(self)
        parts: Any = {"adapter": adapter, "custom_candidate_proposer": adapter.propose, "stop_callbacks": adapter.over}
        optimize(
            seed_candidate={NAME: self.board.start.text},
            trainset=self.board.task.train,
            valset=self.board.task.race,
            reflection_minibatch_size=min(MINIBATCH, len(self.board.task.train)),
            logger=Silence(),
            seed=self.board.seed,
            **parts,
        )
        if adapter.error is not None:
            raise adapter.error
        return list(self.board.rated.values())[before:]


class Adapter:
    """What the package asks of a system.

    It goes on after errors, so the first one is kept, ends the loop, and is raised by us.
    """

    propose_new_texts = None  # the package looks here for a proposer first

    def __init__(self, strategy: Gepa) -> None:
        self.strategy, self.board = strategy, strategy.board
        self.error: Exception | None = None
        self.asked, self.idle = 0, 0
        self.turn = 0

    def evaluate(self, batch: list[Example], candidate: dict[str, str], capture_traces: bool = False) -> Any:
        """The answers of a prompt to a batch, with what to say of each."""
        from gepa.core.adapter import EvaluationBatch

        try:
            answers, values = self.scored(candidate[NAME], batch)
        except Exception as error:
            self.error = self.error or error
            raise
        return EvaluationBatch(answers, values, [self.case(a, e) for a, e in zip(answers, batch, strict=True)])

    def scored(self, prompt: str, batch: list[Example]) -> tuple[list[str], list[float]]:
        """Answers and values; a prompt that runs the whole race is put on the board."""
        whole = len(batch) == self.board.length and all(
            a is b for a, b in zip(batch, self.board.task.race, strict=True)
        )
        if whole and prompt not in self.board.rated:
            self.board.race([prompt], [None])
        return self.board.judge.answers([prompt], batch)[0], self.board.judge.values(prompt, batch)

    def case(self, answer: str, example: Example) -> tuple[str, str, str]:
        """An input, what was answered, and a remark."""
        task, words = self.board.task, self.board.task.words
        value = task.value(answer, example)
        remark = "right" if value == 1 else f"wrong; right would be: {task.wanted(example)} (score {value:.2f} of 1)"
        return task.shown(example), words.get(answer, answer), remark

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: Any, components_to_update: list[str]
    ) -> dict[str, list[dict[str, Any]]]:
        """The cases of a batch, as the package hands them to the proposer."""
        return {name: [{"case": case} for case in eval_batch.trajectories] for name in components_to_update}

    def propose(
        self, candidate: dict[str, str], dataset: Mapping[str, Sequence[Mapping[str, Any]]], components: list[str]
    ) -> dict[str, str]:
        """A mended prompt; the old one where what was written is dropped, and so nothing is gained."""
        if self.error is not None:  # the package repeats a proposer that failed
            raise self.error
        request = reflected(self.board.task, candidate[NAME], [one["case"] for one in dataset[NAME]])
        self.turn += 1
        try:
            text = self.board.writer.write([request], first=self.turn)[0]
        except Exception as error:
            self.error = error
            raise
        return {NAME: text or candidate[NAME]}

    def over(self, state: Any) -> bool:
        """Whether to stop: the budget may not allow another turn, nothing new was asked for long, or all is right."""
        budget = self.board.judge.client.budget
        self.idle = self.idle + 1 if budget.asked == self.asked else 0
        self.asked = budget.asked
        broke = not self.strategy.affordable()
        return self.error is not None or broke or self.idle > IDLE or self.board.best.mean == 1


class Silence:
    """The package's log goes nowhere: ours has what happened."""

    def log(self, message: str) -> None:
        """Drop a line."""
