"""Text-to-text versions of the sources' tasks, each in many wordings, within a budget of bytes for each."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts.pretrain.skills import (
    intents,
    lexicon,
    paraphrase,
    questions,
    restaurants,
    sentiment,
    slots,
    sums,
    textops,
    travel,
    weak_sentiment,
    word_sentiment,
)
from scripts.pretrain.skills.corpus import Corpus
from scripts.pretrain.sources import Skill
from scripts.pretrain.targets import Targets

Generator = Callable[[Corpus, random.Random], Iterator[Skill]]
GENERATORS: tuple[tuple[Generator, float], ...] = (
    (sentiment.made_up, 4.4),
    (weak_sentiment.real, 1.6),
    (weak_sentiment.glosses, 0.5),
    (word_sentiment.words, 0.8),
    (questions.made_up, 4.0),
    (questions.real, 1.6),
    (questions.answered, 1.0),
    (lexicon.words, 3.4),
    (lexicon.odd_one_out, 0.6),
    (intents.intents, 3.0),
    (slots.snips, 2.0),
    (slots.entities, 2.8),
    (sums.sums, 3.0),
    (travel.travel, 1.5),
    (paraphrase.restaurants, 1.2),
    (paraphrase.edits, 2.6),
    (paraphrase.neighbours, 0.7),
    (restaurants.restaurants, 2.4),
    (textops.textops, 2.2),
    (textops.completion, 0.7),
)


def skills(data: Path, extra: Path, seed: int) -> Iterator[Skill]:
    """Yield every generator's skills up to its megabytes, without those that hold an evaluation sentence.

    The order is by generator; shuffle before training. The same seed gives the same skills.
    """
    corpus = Corpus(data, extra)
    targets = Targets.read(data)
    for make, megabytes in GENERATORS:
        rng = random.Random(f"{seed}/{make.__module__}/{make.__name__}")
        left = int(megabytes * 1_000_000)
        for skill in make(corpus, rng):
            if not targets.found_in(skill.prompt + skill.answer):
                yield skill
                left -= len((skill.prompt + skill.answer).encode())
            if left <= 0:
                break
