"""Random search: what every other strategy has to beat at equal cost."""

from collections.abc import Sequence
from random import Random

from typing_extensions import override

from softprompt.core import Example
from softprompt.search.candidates import Ids
from softprompt.search.operator import Operator, swapped


class RandomSearch(Operator):
    """Half of the candidates are new prompts, half are the present one with a random token in a random place.

    New prompts alone would be a baseline too easy to beat: swaps climb, as the other strategies do, without a gradient.
    """

    name = "random"
    paper = "no paper: the baseline"
    summary = "random prompts and random swaps"

    @override
    def propose(self, at: Ids, examples: Sequence[Example], count: int, rng: Random) -> list[Ids]:
        allowed = self.candidates.allowed
        new = [tuple(rng.choice(allowed) for _ in at) for _ in range(count // 2)]
        return new + [swapped(at, rng.randrange(len(at)), rng.choice(allowed)) for _ in range(count - len(new))]
