"""EvoPrompt: a population of prompts, crossed and changed in words by a model.

Guo et al. 2024, "Connecting Large Language Models with Evolutionary Algorithms Yields Powerful Prompt Optimizers",
arXiv:2309.08532: algorithm 2 (GA: two parents by roulette, a child of both, changed; the best N of parents and children
stay) and algorithm 3 (DE: what two random members differ in, changed, put into the best, crossed with the present
member; the better of it and its child stays).
"""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import accumulate
from random import Random
from typing import ClassVar

from softprompt.llm.endpoint import Messages
from softprompt.llm.judge import Rated
from softprompt.llm.strategy import Strategy
from softprompt.llm.wording import crossed, differed, varied


class Population(Strategy):
    """Ten members at most. Deviation: the first population is the start and other wordings of it, where the paper has
    prompts of people too; children are raced.
    """

    count: ClassVar[int] = 10

    def step(self, count: int) -> list[Rated]:
        """The first step makes the population, every other one a generation of it."""
        if self.board.step == 1:
            self.members = [self.board.start]
            requests = [varied(self.board.task, self.board.start.text)] * min(count, max(1, self.most - 1))
            children = [child for child in self.born(requests, [None] * len(requests)) if child is not None]
            self.members += children
            return children
        return self.generation(count, self.board.rng())

    def born(self, requests: list[Messages], rivals: Sequence[Rated | None]) -> list[Rated | None]:
        """The child of every request, raced against its rival if it has one; None for one that was dropped."""
        texts = self.board.writer.write(requests, first=self.board.step * self.most)
        pairs = [(text, rival) for text, rival in zip(texts, rivals, strict=True) if text]
        self.board.race([text for text, _ in pairs], [rival for _, rival in pairs])
        return [self.board.rated[text] if text else None for text in texts]

    @abstractmethod
    def generation(self, count: int, rng: Random) -> list[Rated]:
        """Children of the population, which afterwards has the better ones; those that are new."""


class Genetic(Population):
    """Algorithm 2. A child is raced against the worst member, which it has to beat to stay."""

    def generation(self, count: int, rng: Random) -> list[Rated]:
        """Children of parents drawn by their scores."""
        parents = [(roulette(self.members, rng), roulette(self.members, rng)) for _ in range(count)]
        requests = [crossed(self.board.task, a.text, b.text) for a, b in parents]
        worst = min(self.members, key=lambda one: one.key)
        made = [child for child in self.born(requests, [worst] * count) if child is not None]
        both = self.members + [child for child in made if child.whole]
        self.members = sorted(both, key=lambda one: one.key, reverse=True)[: self.most]
        return made


class Differential(Population):
    """Algorithm 3. A child is raced against the member whose place it would take.

    Deviation: with fewer than three members, the same one may stand for several.
    """

    def generation(self, count: int, rng: Random) -> list[Rated]:
        """A child for every member, in their order, as far as the budget goes."""
        present = self.members[:count]
        best = max(self.members, key=lambda one: one.key)
        requests = []
        for i, member in enumerate(present):
            others = [one for j, one in enumerate(self.members) if j != i] or [member]
            first, second = rng.sample(others, 2) if len(others) > 1 else (others[0], others[0])
            requests.append(differed(self.board.task, first.text, second.text, best.text, member.text))
        children = self.born(requests, present)
        for i, child in enumerate(children):
            if child is not None and child.whole and child.key > self.members[i].key:
                self.members[i] = child
        return [child for child in children if child is not None]


def roulette(members: list[Rated], rng: Random) -> Rated:
    """A member, as likely as its share of all scores (the paper's equation 1); where all are 0, any."""
    shares = list(accumulate(one.mean for one in members))
    point = rng.random() * shares[-1]
    return next((one for one, share in zip(members, shares, strict=True) if point < share), rng.choice(members))
