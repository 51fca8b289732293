"""Question types: what kind of answer a question wants, for real questions by rule and for made-up ones by design."""

import random
import re
from collections.abc import Iterator

from scripts.pretrain.skills.corpus import Corpus
from scripts.pretrain.skills.question_frames import FRAMES
from scripts.pretrain.skills.question_rules import kind_of
from scripts.pretrain.skills.wording import Wording, after
from scripts.pretrain.sources import Skill
from scripts.pretrain.wordnet import WordNet

KIND = Wording(
    (
        "What kind of answer does this question want?",
        "What is the question about?",
        "What type of question is this?",
        "What does the question ask for?",
        "Which kind of thing would answer this question?",
        "Classify the question",
        "Name the type of the expected answer.",
        "What should the answer be?",
        "question type",
        "Does it ask for a person, a place, a number, a thing, a description or something else?",
        "What is the asker looking for?",
        "Say what kind of thing is asked for.",
    ),
    ("type", "question type", "answer type", "asks for", "category", "kind"),
    (
        "{x}\ntype:",
        "question: {x}\ntype:",
        "{x} The answer is a kind of",
        "{x}\nThe question asks for a",
        "{x}\nexpected answer:",
        "Question: {x}\nCategory:",
        "{x}\nThis asks about",
        "Q: {x}\nThe answer would be a",
    ),
)
CHOICE = Wording(
    ("Choose one", "Pick the right type.", "Which of these fits the question?", "One of these is asked for. Which?"),
    ("type", "choice", "asks for"),
    ("{x}\nBest choice:", "{x}\nType of the answer:", "{x}\nlabel:"),
)
WORDINGS = {"kind": KIND, "choice": CHOICE}
# Several names for one kind of answer, the first being the usual one.
NAMES: dict[str, tuple[str, ...]] = {
    "person": ("person", "person", "human", "person or group"),
    "group": ("group", "organization", "company or group", "human"),
    "place": ("place", "location", "place"),
    "city": ("city", "place", "location"),
    "country": ("country", "place", "location"),
    "time": ("time", "date", "time", "number"),
    "number": ("number", "number", "numeric value", "quantity"),
    "amount": ("amount of money", "number", "price"),
    "reason": ("reason", "description", "reason"),
    "manner": ("manner", "description", "way of doing it"),
    "definition": ("definition", "description", "meaning"),
    "description": ("description", "description", "explanation"),
    "abbreviation": ("abbreviation", "abbreviation", "full form", "expansion"),
    "animal": ("animal", "thing", "entity"),
    "food": ("food", "thing", "entity"),
    "plant": ("plant", "thing", "entity"),
    "thing": ("thing", "entity", "object"),
    "word": ("word", "thing", "entity"),
    "event": ("event", "thing", "entity"),
    "yes or no": ("yes or no", "yes or no", "confirmation"),
}
COARSE = {
    "person": "human",
    "group": "human",
    "place": "location",
    "city": "location",
    "country": "location",
    "time": "number",
    "number": "number",
    "amount": "number",
    "reason": "description",
    "manner": "description",
    "definition": "description",
    "description": "description",
    "abbreviation": "abbreviation",
    "animal": "entity",
    "food": "entity",
    "plant": "entity",
    "thing": "entity",
    "word": "entity",
    "event": "entity",
}
_SIX = ("abbreviation", "description", "entity", "human", "location", "number")


def ask(rng: random.Random, source: str, text: str, kind: str) -> Skill:
    """Word the task for one question, with open or given names of the kinds."""
    draw = rng.random()
    if rng.random() < 0.25:
        text = re.sub(r"\s*([?,])", r" \1", text)
    if draw < 0.35 and kind in COARSE:
        names = list(_SIX)
        rng.shuffle(names)
        prompt = KIND.prompt(rng, text) if rng.random() < 0.5 else CHOICE.prompt(rng, f"{text}\n{', '.join(names)}")
        return Skill(source, "question type", prompt, after(prompt, COARSE[kind]))
    answer = rng.choice(NAMES[kind])
    if draw < 0.8:
        prompt = KIND.prompt(rng, text)
        return Skill(source, "question type", prompt, after(prompt, answer))
    others = [name[0] for other, name in NAMES.items() if other != kind and COARSE.get(other) != COARSE.get(kind)]
    names = [*rng.sample(others, rng.choice((2, 3, 4))), answer]
    rng.shuffle(names)
    prompt = CHOICE.prompt(rng, f"{text}\n{rng.choice((', ', ' / ', ' or ')).join(names)}")
    return Skill(source, "question type choice", prompt, after(prompt, answer))


def real(corpus: Corpus, rng: random.Random) -> Iterator[Skill]:
    """Questions of bank customers, assistants' users, sums and running text."""
    wordnet = corpus.wordnet
    pools: list[tuple[str, list[str]]] = [
        ("banking77", [text for text, _ in corpus.banking]),
        ("clinc150", [text for text, _ in corpus.clinc]),
        ("masc", [s.text for s in corpus.sentences if s.text.endswith("?") and s.source == "masc"]),
        ("ud_ewt", [s.text for s in corpus.sentences if s.text.endswith("?") and s.source == "ud_ewt"]),
        ("gsm8k", [re.split(r"(?<=[.!]) ", text)[-1] for text, _ in corpus.gsm8k]),
    ]
    by_kind: dict[str, list[tuple[str, str]]] = {}
    for source, texts in pools:
        for text in texts:
            kind = kind_of(wordnet, text)
            if kind:
                by_kind.setdefault(kind, []).append((source, text))
    kinds = list(by_kind)
    weights = [min(len(by_kind[kind]), 1500) ** 0.5 for kind in kinds]
    while True:
        kind = rng.choices(kinds, weights)[0]
        source, text = rng.choice(by_kind[kind])
        yield ask(rng, source, text, kind)


class Fields:
    """Words that fill the frames, drawn from WordNet."""

    def __init__(self, wordnet: WordNet) -> None:
        names: dict[str, list[str]] = {}
        for name, kind in wordnet.names.items():
            names.setdefault(kind, []).append(name)
        kinds = wordnet.by_kind
        self.tables: dict[str, list[str]] = {
            "city": names["city"], "country": names["country"], "famous": names["person"], "spot": names["place"],
            "org": names["organization"], "abbr": [n for s in wordnet.synsets.values() for n in s.words if _short(n)],
            "verb": [verb for verb in wordnet.common["v"] if len(verb) < 12],
            "adj": [word for word in wordnet.common["a"] if 3 < len(word) < 11],
        }  # fmt: skip
        for field, file in (("thing", "artifact"), ("role", "person"), ("animal", "animal"), ("food", "food"),
                            ("plant", "plant"), ("stuff", "substance"), ("idea", "cognition"), ("act", "act"),
                            ("body", "body"), ("event", "event"), ("state", "state"), ("group", "group"),
                            ("text", "communication"), ("span", "time"), ("land", "object")):  # fmt: skip
            self.tables[field] = [word for word, _ in kinds[f"noun.{file}"]]
        self.tables["any"] = [word for file, rows in kinds.items() for word, _ in rows]
        rare = [s.words[0] for s in wordnet.synsets.values() if s.part == "n" and s.words[0].islower()]
        self.tables["rare"] = rare

    def fill(self, rng: random.Random, frame: str) -> str:
        """Fill every {field} of a frame and set `a` to `an` where due."""
        text = re.sub(r"\{(\w+?)\d?\}", lambda match: rng.choice(self.tables[match[1]]), frame)
        return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def _short(name: str) -> bool:
    return 2 <= len(name) <= 5 and name.isupper() and name.isalpha()


def made_up(corpus: Corpus, rng: random.Random) -> Iterator[Skill]:
    """Questions made from frames, the kinds drawn evenly."""
    fields = Fields(corpus.wordnet)
    kinds = list(FRAMES)
    while True:
        kind = rng.choice(kinds)
        text = fields.fill(rng, rng.choice(FRAMES[kind]))
        if rng.random() < 0.1:
            text = text[0].lower() + text[1:].rstrip("?")
        if rng.random() < 0.06:
            yield _in_context(rng, fields, kinds)
        else:
            yield ask(rng, "templates", text, kind)


def _in_context(rng: random.Random, fields: Fields, kinds: list[str]) -> Skill:
    """Several questions with their types, the last left open."""
    cue = rng.choice(("type:", "answer:", "category:", "->", "label:"))
    coarse = rng.random() < 0.6
    drawn = [rng.choice([kind for kind in kinds if kind in COARSE]) for _ in range(rng.choice((2, 3, 4)))]
    lines = [
        f"{fields.fill(rng, rng.choice(FRAMES[kind]))}\n{cue} {COARSE[kind] if coarse else NAMES[kind][0]}"
        for kind in drawn
    ]
    text = "\n\n".join(lines)
    label = COARSE[drawn[-1]] if coarse else NAMES[drawn[-1]][0]
    return Skill("templates", "question type in context", text[: -len(label) - 1], " " + label)


def answered(corpus: Corpus, rng: random.Random) -> Iterator[Skill]:
    """Questions on words that WordNet answers, with the answer instead of its type."""
    wordnet = corpus.wordnet
    nouns = [row for rows in wordnet.by_kind.values() for row in rows]
    where = [s for s in wordnet.synsets.values() if s.kind == "noun.location" and s.words[0].istitle()]
    who = [s for s in wordnet.synsets.values() if s.kind == "noun.person" and s.words[0].istitle()]
    while True:
        draw = rng.random()
        if draw < 0.4:
            word, synset = rng.choice(nouns)
            question = rng.choice(("What is {}?", "What does {} mean?", "What is meant by {}?", "Define {}.")).format(
                word
            )
        elif draw < 0.7:
            synset = rng.choice(who)
            question = rng.choice(("Who was {}?", "Who is {}?", "What is {} known for?")).format(synset.words[0])
        else:
            synset = rng.choice(where)
            question = rng.choice(("Where is {}?", "What is {}?", "What place is {}?")).format(synset.words[0])
        prompt = rng.choice(("{}\n", "Q: {}\nA:", "question: {}\nanswer:", "{}\nanswer:", "{}")).format(question)
        yield Skill("wordnet", "question answer", prompt, after(prompt, synset.gloss))
