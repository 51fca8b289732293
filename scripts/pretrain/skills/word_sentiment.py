"""Polarity of the lexicon's words: alone, by strength, and picked out of several."""

import random
from collections.abc import Iterator

from scripts.pretrain.skills.corpus import Corpus
from scripts.pretrain.skills.sentiment import STARS, verdict
from scripts.pretrain.skills.wording import Wording, after
from scripts.pretrain.sources import Skill

WORD = Wording(
    (
        "Is this word positive or negative?",
        "Does the word sound positive or negative?",
        "What is the polarity of the word?",
        "Does this word have a positive or a negative meaning?",
        "positive word or negative word?",
    ),
    ("polarity", "connotation", "sentiment", "label"),
    ('The word "{x}" is', "word: {x}\nfeeling:", 'Calling something "{x}" is', "{x} is a word that sounds"),
)
WORDINGS = {"word": WORD}


def words(corpus: Corpus, rng: random.Random) -> Iterator[Skill]:
    """Polarity and strength of the lexicon's words, alone and in pairs, without end."""
    rated = [(word, score) for word, score in corpus.polarity.items() if abs(score) >= 1]
    while True:
        word, score = rng.choice(rated)
        draw = rng.random()
        if draw < 0.5:
            prompt = WORD.prompt(rng, word)
            yield Skill("vader", "word sentiment", prompt, after(prompt, "positive" if score > 0 else "negative"))
        elif draw < 0.62:
            strong = "very " if abs(score) >= 2.3 else ""
            prompt = STARS.prompt(rng, word)
            yield Skill("vader", "word strength", prompt, after(prompt, strong + _pole(score)))
        elif draw < 0.8:
            yield verdict(
                rng, "vader", "word sentiment", rng.choice(("{}", "{}!", "so {}", "very {}")).format(word), score > 0
            )
        else:
            yield _stronger(rng, rated)


def _pole(score: float) -> str:
    return "positive" if score > 0 else "negative"


def _stronger(rng: random.Random, rated: list[tuple[str, float]]) -> Skill:
    """Pick the positive (or negative) word out of three to five."""
    want = rng.choice((1, -1))
    right = rng.choice([word for word, score in rng.sample(rated, 60) if score * want > 0])
    wrong = [word for word, score in rng.sample(rated, 60) if score * want < 0][: rng.choice((2, 3, 4))]
    choice = [right, *wrong]
    rng.shuffle(choice)
    ask = rng.choice(("Which word is {}? {}\nanswer:", "{1}\nWhich of these is {0}?\n", "Find the {} word: {}\n->"))
    prompt = ask.format(_pole(want), ", ".join(choice))
    return Skill("vader", "pick by sentiment", prompt, after(prompt, right))
