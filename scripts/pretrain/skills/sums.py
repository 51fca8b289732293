"""Sums in words with worked answers."""

import random
from collections.abc import Iterator

from scripts.pretrain.skills.corpus import Corpus
from scripts.pretrain.skills.wording import after
from scripts.pretrain.sources import Skill

FORMS = (
    "{}\n",
    "{}\nanswer:",
    "Q: {}\nA:",
    "question: {}\nanswer:",
    "{}\nLet us work it out.\n",
    "Solve: {}\n",
    "{}\nsolution:",
    "Problem: {}\nSolution:",
)


def sums(corpus: Corpus, rng: random.Random) -> Iterator[Skill]:
    """Every question once, a third with the result alone."""
    for question, answer in rng.sample(corpus.gsm8k, len(corpus.gsm8k)):
        prompt = rng.choice(FORMS).format(question)
        if rng.random() < 0.35:
            yield Skill("gsm8k", "result of a sum", prompt, after(prompt, answer.rpartition("#### ")[2]))
        else:
            yield Skill("gsm8k", "worked sum", prompt, after(prompt, answer))
