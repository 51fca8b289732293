"""AutoPrompt: one place a step, the tokens that its gradient promises most of, scored exactly.

Shin et al. 2020, arXiv:2010.15980, section 2.2; the label words of section 2.3 are in `softprompt.search.words`.
"""

from collections.abc import Sequence
from random import Random

from typing_extensions import override

from softprompt.core import Example
from softprompt.search.candidates import Ids
from softprompt.search.operator import Operator, swapped


class AutoPrompt(Operator):
    """The `count` most promising tokens of one random place.

    Deviations: candidates are compared by loss, which says more than accuracy on few examples; the gradient and the
    scores are of the same minibatch, so that a step costs less.
    """

    name = "autoprompt"
    paper = 'Shin et al. 2020, "AutoPrompt: Eliciting Knowledge from Language Models", 2010.15980'
    summary = "gradient at one random place, its most promising tokens"
    count = 10

    @override
    def price(self, passes: int, count: int) -> int:
        return 2 * passes

    @override
    def propose(self, at: Ids, examples: Sequence[Example], count: int, rng: Random) -> list[Ids]:
        place = rng.randrange(len(at))
        promise = self.scorer.promise(at, examples)[place]
        most = min(count, len(self.candidates.allowed) - 1)
        return [swapped(at, place, token) for token in promise.topk(most).indices.tolist()]
