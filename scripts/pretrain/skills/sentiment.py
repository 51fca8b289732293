"""Opinion skills: polarity of words, of made-up opinions, and of real sentences where the lexicon is sure."""

import random
import re
from collections.abc import Iterator

from scripts.pretrain.skills import opinion_words as w
from scripts.pretrain.skills.corpus import Corpus
from scripts.pretrain.skills.wording import Wording, after, roughen
from scripts.pretrain.sources import Skill

_FREE = (
    "{x}\nsentiment:",
    "{x}\nThe opinion is",
    "Review: {x}\nSentiment:",
    "review: {x}\npolarity:",
    "{x}\nThis review is",
    "The following review is positive or negative? {x}\nIt is",
    "Sentence: {x}\nPositive or negative?\n",
    "{x}\nOverall, the writer's view is",
    "Tweet: {x}\nTone:",
)
VERDICT = Wording(
    (
        "Is this positive or negative?",
        "What is the sentiment?",
        "What is the sentiment of this text?",
        "Does the writer sound positive or negative?",
        "Decide whether the opinion is positive or negative.",
        "Which is it, positive or negative?",
        "Classify the review",
        "Is the review positive or negative?",
        "sentiment",
        "Tell the polarity of the sentence",
        "Choose positive or negative",
        "How does the author feel about it, positive or negative?",
    ),
    ("sentiment", "label", "polarity", "opinion", "tone"),
    _FREE,
)
GREAT = Wording(
    ("Was it great or terrible?", "Great or terrible?", "How was it?", "Choose great or terrible"),
    ("rating", "verdict", "In one word"),
    (
        "{x} It was",
        "{x} All in all, it was",
        "{x}\nIn short, it was",
        "{x} Just",
        "{x} The whole thing was",
        "{x} I'd say",
    ),
)
GOOD = Wording(
    ("Is this good or bad?", "Good or bad?", "Is it good news or bad news?", "Would you call that good or bad?"),
    ("rating", "verdict", "That is"),
    ("{x} That is", "{x} So it is", "{x}\nThis is", "{x} In a word:", "{x}\nquality:"),
)
LIKES = Wording(
    (
        "Does the writer like it?",
        "Did they enjoy it?",
        "Would the author recommend it?",
        "Is the writer happy?",
        "Is the reviewer satisfied?",
    ),
    ("recommended", "likes it", "satisfied"),
    ("{x}\nDoes the speaker like it? Answer yes or no.\n", "{x} Recommend?", "{x}\nwould buy again:"),
)
STARS = Wording(
    (
        "How positive is this? very negative, negative, neutral, positive or very positive",
        "Rate the feeling from very negative to very positive.",
        "How strong is the feeling?",
        "Grade the tone on five levels.",
    ),
    ("degree", "strength", "level"),
    ("{x}\nOn a scale from very negative to very positive:", "{x}\nintensity:", "Feeling of: {x}\n"),
)
ANY = Wording(
    (
        "Is this positive, negative or neutral?",
        "Does this express an opinion? positive, negative or neutral",
        "What is the tone: positive, neutral or negative?",
        "sentiment (positive, negative, neutral)",
    ),
    ("sentiment", "tone", "attitude", "feeling"),
    ("{x}\nIts tone is", "{x}\npositive, negative or neutral?", "Message: {x}\nmood:"),
)
WORDINGS = {"verdict": VERDICT, "great": GREAT, "good": GOOD, "likes": LIKES, "stars": STARS, "tone": ANY}
_Pairs = tuple[tuple[Wording, tuple[str, str], int], ...]
REVIEW: _Pairs = (
    (VERDICT, ("positive", "negative"), 11),
    (GREAT, ("great", "terrible"), 3),
    (GOOD, ("good", "bad"), 3),
    (LIKES, ("yes", "no"), 2),
)

# A sentence that reviews nothing is not asked whether its writer would buy the thing again.
CALM: _Pairs = ((VERDICT, ("positive", "negative"), 4), (GOOD, ("good", "bad"), 1))


def verdict(rng: random.Random, source: str, task: str, text: str, good: bool, pairs: _Pairs = REVIEW) -> Skill:
    """Word the question for a text of known polarity, the text sometimes roughened."""
    wording, labels, _ = rng.choices(pairs, [weight for *_, weight in pairs])[0]
    prompt = wording.prompt(rng, roughen(rng, text))
    return Skill(source, task, prompt, after(prompt, labels[0] if good else labels[1]))


class Opinions:
    """Makes opinions about films, products, food, places and books from frames and rated words."""

    def __init__(self, corpus: Corpus) -> None:
        wordnet, rated = corpus.wordnet, corpus.polarity
        adjectives = [
            word for word in rated if (s := wordnet.first(word, "a")) and s.kind == "adj.all" and len(word) > 3
        ]
        only = [word for word in adjectives if not wordnet.first(word, "n")]
        self.rated = (
            [word for word in only if rated[word] >= 1.3],
            [word for word in only if rated[word] <= -1.3],
        )

    def word(self, rng: random.Random, domain: str, good: bool) -> str:
        """Draw a word of the wanted polarity, mostly one usual for the domain."""
        draw = rng.random()
        if draw < 0.45:
            return rng.choice(w.DOMAINS[domain][2 if good else 3])
        if draw < 0.75:
            return rng.choice(w.GOOD if good else w.BAD)
        return rng.choice(self.rated[0 if good else 1])

    def fill(self, rng: random.Random, frame: str, domain: str, good: bool) -> str:
        """Fill one frame."""
        things, aspects = w.DOMAINS[domain][:2]
        aspect, other = rng.sample(aspects, 2)
        fields = {
            "n": rng.choice(things),
            "a": aspect,
            "b": other,
            "r": rng.choice(w.ADVERBS),
            "w": self.word(rng, domain, good),
            "v": self.word(rng, domain, good),
            "w2": self.word(rng, domain, good),
            "o": self.word(rng, domain, not good),
            "p": self.word(rng, domain, not good),
        }
        text = frame.format(**fields)
        text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
        return _PLURAL.sub(lambda match: f"{match[1]} {_AGREE[match[2]]}", text)

    def one(self, rng: random.Random, good: bool) -> str:
        """Make one opinion of one to three clauses."""
        domain = rng.choice(list(w.DOMAINS))
        claims = w.CLAIMS_GOOD if good else w.CLAIMS_BAD
        kinds = (w.PLAIN, w.TURNED, w.DENIED, claims)
        frames = [rng.choice(rng.choices(kinds, (5, 2, 2, 3))[0]) for _ in range(rng.choice((1, 1, 1, 2, 2, 3)))]
        parts = [self.fill(rng, frame, domain, good) for frame in frames]
        if len(parts) > 1:
            parts = [part if part[-1] in ".!" else part + "." for part in parts]
        return " ".join(part[0].upper() + part[1:] if rng.random() < 0.8 else part for part in parts)

    def neutral(self, rng: random.Random) -> str:
        """Make a sentence on the same things without an opinion."""
        return self.fill(rng, rng.choice(w.NEUTRAL), rng.choice(list(w.DOMAINS)), True)


_PLURALS = "characters|jokes|lyrics|graphics"
_AGREE = {"is": "are", "was": "were", "has": "have", "feels": "feel", "comes": "come", "looks": "look",
          "doesn't": "don't", "does": "do", "remains": "remain", "makes": "make"}  # fmt: skip
_PLURAL = re.compile(rf"\b({_PLURALS}) ({'|'.join(_AGREE)})\b")


def made_up(corpus: Corpus, rng: random.Random) -> Iterator[Skill]:
    """Polarity of made-up opinions, without end."""
    opinions = Opinions(corpus)
    while True:
        draw = rng.random()
        good = rng.random() < 0.5
        if draw < 0.08:
            polarity = rng.choice(("positive", "negative", "neutral", "neutral"))
            text = opinions.neutral(rng) if polarity == "neutral" else opinions.one(rng, polarity == "positive")
            prompt = ANY.prompt(rng, roughen(rng, text))
            yield Skill("templates", "sentiment", prompt, after(prompt, polarity))
        elif draw < 0.16:
            yield _compare(opinions, rng, good)
        elif draw < 0.2:
            yield _write(opinions, rng, good)
        else:
            yield verdict(rng, "templates", "sentiment", opinions.one(rng, good), good)


def _compare(opinions: Opinions, rng: random.Random, good: bool) -> Skill:
    """Several reviews with their labels, the last left open: an example in the prompt's own form."""
    cue = rng.choice(("sentiment:", "answer:", "label:", "=>", "opinion:"))
    flags = [rng.random() < 0.5 for _ in range(rng.choice((1, 2, 3)))] + [good]
    labels = rng.choice((("positive", "negative"), ("good", "bad"), ("great", "terrible"), ("+", "-")))
    lines = [f"{opinions.one(rng, flag)}\n{cue} {labels[0] if flag else labels[1]}" for flag in flags]
    prompt, _, label = "\n\n".join(lines).rpartition(" ")
    return Skill("templates", "sentiment in context", prompt, " " + label)


def _write(opinions: Opinions, rng: random.Random, good: bool) -> Skill:
    """The other way round: write an opinion of the given polarity."""
    label = rng.choice(("positive", "good", "favourable") if good else ("negative", "bad", "unfavourable"))
    ask = rng.choice(("Write one {} review.\n", "Give me one {} opinion.\n", "{} sentence:\n", "label: {}\ntext:\n"))
    return Skill("templates", "write an opinion", ask.format(label), opinions.one(rng, good))
