"""What a strategy is: it proposes candidates, and may learn from their scores. The loop does everything else."""

from collections.abc import Sequence
from random import Random
from typing import Any, ClassVar

from torch import Tensor

from softprompt.core import Example
from softprompt.search.candidates import Ids
from softprompt.search.score import Judged, Scorer


class Operator:
    """Subclass in a file of its own. `count` and `start` are defaults that the command line may change."""

    name: ClassVar[str]
    paper: ClassVar[str]
    summary: ClassVar[str]
    count: ClassVar[int] = 16  # candidates of a step
    instruction: ClassVar[bool] = False  # True: edits a text in words, and so begins at one

    def __init__(self, scorer: Scorer, at: Ids) -> None:
        self.scorer, self.candidates = scorer, scorer.candidates

    def price(self, passes: int, count: int) -> int:
        """What `count` proposals cost beside their scores, where scoring one costs `passes`."""
        return 0

    def propose(self, at: Ids, examples: Sequence[Example], count: int, rng: Random) -> list[Ids]:
        """At most `count` candidates after `at`, of which the filter takes those that survive."""
        raise TypeError(f"{type(self).__name__} must say what it proposes")

    def value(self, judged: Judged) -> float:
        """How good a candidate is on the examples of a step; higher is better."""
        return -judged.mean

    def learn(self, tried: Sequence[tuple[Ids, Judged]]) -> None:
        """Take in the scores of the present prompt and of what was proposed and survived."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the next step depends on, as tensors and as plain values."""
        return {}, {}

    def load(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Put back what `state` gave."""


def swapped(ids: Ids, place: int, token: int) -> Ids:
    """The ids with another token in a place."""
    return (*ids[:place], token, *ids[place + 1 :])
