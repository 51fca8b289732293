"""APE: prompts guessed from solved examples, then the best of them said in other words.

Zhou et al. 2023, "Large Language Models Are Human-Level Prompt Engineers", arXiv:2211.01910: section 3.1 (forward
generation: each guess from its own examples), section 3.3 (iterative Monte Carlo search: resampling around the best).
"""

from typing import ClassVar

from softprompt.llm.judge import Rated
from softprompt.llm.strategy import Strategy
from softprompt.llm.wording import guessed, varied

EXAMPLES = 5  # that a prompt is guessed from
KEPT = 4  # prompts that are said in other words


class Ape(Strategy):
    """Deviation: candidates are raced, where the paper scores all on a subset or lets a bandit choose."""

    count: ClassVar[int] = 16

    def step(self, count: int) -> list[Rated]:
        """Guesses in the first step; in later ones, variants of the best by turns."""
        board, rng = self.board, self.board.rng()
        if board.step == 1:
            size = min(EXAMPLES, len(board.task.train))
            requests = [guessed(board.task, rng.sample(board.task.train, size)) for _ in range(count)]
        else:
            kept = board.ranking[:KEPT]
            requests = [varied(board.task, kept[i % len(kept)].text) for i in range(count)]
        prompts = [text for text in board.writer.write(requests, first=board.step * self.most) if text]
        return board.race(prompts, [board.best] * len(prompts))
