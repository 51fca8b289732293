"""Polarity of real sentences and of WordNet's examples, only where the lexicon is sure."""

import random
import re
from collections.abc import Iterator

from scripts.pretrain.skills.corpus import Corpus
from scripts.pretrain.skills.sentiment import ANY, CALM, REVIEW, verdict
from scripts.pretrain.skills.wording import after, roughen
from scripts.pretrain.sources import Skill

_NOT = frozenset(
    [
        "not",
        "no",
        "never",
        "n't",
        "without",
        "hardly",
        "neither",
        "nor",
        "nothing",
        "cannot",
        "don't",
        "isn't",
        "wasn't",
        "didn't",
        "can't",
        "lacks",
    ]
)
# Words that the lexicon rates but that mostly carry no opinion, and words that turn a sentence around.
_VAGUE = frozenset(
    [
        "like",
        "well",
        "please",
        "no",
        "thank",
        "thanks",
        "want",
        "matter",
        "kind",
        "pretty",
        "number",
        "best",
        "better",
        "dear",
        "share",
        "united",
        "ha",
        "certain",
        "chance",
        "hand",
        "help",
        "helps",
        "interest",
        "interested",
        "interests",
        "care",
        "fun",
        "yes",
        "energy",
        "security",
        "create",
        "true",
        "play",
        "party",
        "sure",
        "cut",
        "fire",
        "lost",
        "lose",
        "alone",
        "low",
        "pay",
        "hard",
        "war",
        "join",
        "okay",
        "ok",
        "good",
        "free",
    ]
)
_TURN = re.compile(r"\b(but|however|although|though|unless|if|would|could|should|yet|despite|while|except)\b", re.I)
_GENRES = {
    "reviews": 1.6,
    "answers": 2.4,
    "blog": 2.4,
    "travel-guides": 3.2,
    "twitter": 2.0,
    "weblog": 3.0,
    "spam": 4.0,
}


def score(words_in: list[str], rated: dict[str, float]) -> tuple[float, bool]:
    """Sum the ratings, those in reach of a negation turned and weakened; say also whether signs are mixed."""
    total, signs = 0.0, set()
    for index, word in enumerate(words_in):
        value = (
            0.0
            if word in _VAGUE and not (word in ("good", "best", "fun") and len(words_in) < 14)
            else rated.get(word, 0)
        )
        if value and _NOT & set(words_in[max(0, index - 3) : index]):
            value *= -0.7
        if abs(value) >= 0.8:
            signs.add(value > 0)
        total += value
    return total, len(signs) > 1


def real(corpus: Corpus, rng: random.Random) -> Iterator[Skill]:
    """Sentences of reviews and other texts that the lexicon is sure about; neutral ones without any rated word."""
    sure: list[tuple[str, str, bool, bool]] = []
    flat: list[tuple[str, str]] = []
    for sentence in corpus.sentences:
        lower = [word.lower() for word, _ in sentence.tagged]
        total, mixed = score(lower, corpus.polarity)
        floor = _GENRES.get(sentence.genre, 3.6)
        if abs(total) >= floor and not mixed and not _TURN.search(sentence.text) and "?" not in sentence.text:
            sure.append((sentence.source, sentence.text, total > 0, sentence.genre == "reviews"))
        elif (
            sentence.genre != "reviews"
            and 6 <= len(lower) <= 20
            and not _NOT & set(lower)
            and not any(abs(corpus.polarity.get(x, 0)) > 0.4 for x in lower)
        ):
            flat.append((sentence.source, sentence.text))
    by_sign = [[row for row in sure if row[2] is good] for good in (True, False)]
    while True:
        if rng.random() < 0.75:
            source, text, good, review = rng.choice(rng.choice(by_sign))
            yield verdict(rng, source, "sentiment of a real text", text, good, REVIEW if review else CALM)
            continue
        label = rng.choice(("positive", "negative", "neutral", "neutral", "neutral"))
        source, text = rng.choice(flat) if label == "neutral" else rng.choice(by_sign[label == "negative"])[:2]
        prompt = ANY.prompt(rng, roughen(rng, text))
        yield Skill(source, "sentiment of a real text", prompt, after(prompt, label))


def glosses(corpus: Corpus, rng: random.Random) -> Iterator[Skill]:
    """Example phrases of rated WordNet words, with the polarity of the word they show."""
    rows = []
    for synset in corpus.wordnet.synsets.values():
        ratings = [corpus.polarity[word] for word in synset.words if word in corpus.polarity]
        if synset.part == "n" or not ratings or abs(max(ratings, key=abs)) < 1.6:
            continue
        for text in synset.examples:
            total, mixed = score(text.lower().split(), corpus.polarity)
            if abs(total) >= 1.2 and not mixed and total * max(ratings, key=abs) > 0:
                rows.append((text, total > 0))
    by_sign = [[text for text, sign in rows if sign is good] for good in (True, False)]
    while True:
        good = rng.random() < 0.5
        yield verdict(rng, "wordnet", "sentiment of an example", rng.choice(by_sign[0 if good else 1]), good, CALM)
