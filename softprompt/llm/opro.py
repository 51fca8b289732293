"""OPRO: a model reads the best prompts so far with their scores, and writes one that should score higher.

Yang et al. 2024, "Large Language Models as Optimizers", arXiv:2309.03409: section 4.2 (the meta-prompt: solutions in
ascending order of their scores, then examples of the task), section 5.1 (20 solutions, 8 samples a step, temperature 1,
scores as whole numbers from 0 to 100).
"""

from typing import ClassVar

from softprompt.llm.judge import Rated
from softprompt.llm.strategy import Strategy
from softprompt.llm.wording import scored

SHOWN = 20  # prompts in a request
EXAMPLES = 3  # solved examples in it, drawn anew every step


class Opro(Strategy):
    """Deviation: candidates are raced, so a bad one is shown with its score on the first examples alone; they are
    scored on dev examples, and the examples shown are of train, so that the writer never sees what decides.
    """

    count: ClassVar[int] = 8

    def step(self, count: int) -> list[Rated]:
        """One request, sampled `count` times."""
        board = self.board
        rated = sorted(board.rated.values(), key=lambda one: one.mean)[-SHOWN:]
        examples = board.rng().sample(board.task.train, min(EXAMPLES, len(board.task.train)))
        request = scored(board.task, [(one.text, round(100 * one.mean)) for one in rated], examples)
        prompts = [text for text in board.writer.write([request] * count) if text]
        return board.race(prompts, [board.best] * len(prompts))
