"""Search over demonstrations: which solved examples of train, in which order, stand in the prompt. No model writes.

Wan et al. 2024, "Teach Better or Show Smarter?", arXiv:2406.15708: random search over exemplars, and its finding that
this often beats better instructions.
"""

from random import Random
from typing import ClassVar

from softprompt.example import Example
from softprompt.llm.judge import Rated
from softprompt.llm.strategy import Board, Strategy
from softprompt.llm.task import mixed
from softprompt.llm.wording import solved

SHOTS = 4  # demonstrations


class Exemplars(Strategy):
    """Deviation: demonstrations are the labelled examples themselves, not answers that the model gave; every other set
    is the best one with a demonstration exchanged or two of them swapped, so that the search climbs.
    """

    count: ClassVar[int] = 8
    writes: ClassVar[bool] = False

    def __init__(self, board: Board, count: int | None = None) -> None:
        super().__init__(board, count)
        self.sets: dict[str, list[Example]] = {}  # by prompt

    def step(self, count: int) -> list[Rated]:
        """Random sets, and neighbours of the best one."""
        board, rng = self.board, self.board.rng()
        best = next((self.sets[one.text] for one in board.ranking if one.text in self.sets), None)
        prompts: list[str] = []
        for i in range(count):
            chosen = self.near(best, rng) if best is not None and i % 2 else self.random(rng)
            text = f"{board.start.text}\n\n{solved(board.task, chosen)}"
            if text not in board.rated and text not in prompts:
                self.sets[text] = chosen
                prompts.append(text)
        return board.race(prompts, [board.best] * len(prompts))

    def random(self, rng: Random) -> list[Example]:
        """A set with as many of each class as there can be."""
        return mixed(self.board.task.train, rng.randrange(2**32))[:SHOTS]

    def near(self, chosen: list[Example], rng: Random) -> list[Example]:
        """The set with one demonstration exchanged, or two swapped."""
        made, i = list(chosen), rng.randrange(len(chosen))
        others = [example for example in self.board.task.train if example not in chosen]
        if others and rng.random() < 0.7:
            made[i] = rng.choice(others)
        else:
            j = rng.randrange(len(chosen))
            made[i], made[j] = made[j], made[i]
        return made
