"""GCG as a coordinate search over the loss of a task. Zou et al. 2023, arXiv:2307.15043, algorithm 1."""

from collections.abc import Sequence
from random import Random

from typing_extensions import override

from softprompt.core import Example
from softprompt.search.candidates import Ids
from softprompt.search.operator import Operator, swapped

TOP = 256  # promising tokens of a place, the paper's
SHARE = 8  # and at most this part of the vocabulary: 256 of a small one would be nearly all of it


class Gcg(Operator):
    """Swaps in random places, to tokens that the gradient there promises most of.

    Deviations: the loss is the task's, over a minibatch, not that of one target string; 64 candidates a step, not
    512; no more than an eighth of a small vocabulary is promising.
    """

    name = "gcg"
    paper = 'Zou et al. 2023, "Universal and Transferable Adversarial Attacks on Aligned Language Models", 2307.15043'
    summary = "gradient at every place, random swaps among the most promising tokens"
    count = 64

    @override
    def price(self, passes: int, count: int) -> int:
        return 2 * passes

    @override
    def propose(self, at: Ids, examples: Sequence[Example], count: int, rng: Random) -> list[Ids]:
        promise = self.scorer.promise(at, examples)
        most = min(TOP, max(1, (len(self.candidates.allowed) - 1) // SHARE))
        tops = promise.topk(most, dim=1).indices.tolist()
        made: list[Ids] = []
        for _ in range(count):
            place = rng.randrange(len(at))
            made.append(swapped(at, place, rng.choice(tops[place])))
        return made
