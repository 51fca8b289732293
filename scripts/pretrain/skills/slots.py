"""Slots of requests and names in running text: lists, single values, tags word by word."""

import random
import re
from collections.abc import Iterator

from scripts.pretrain.skills.corpus import Corpus, Sentence, Slots
from scripts.pretrain.skills.wording import Wording, after
from scripts.pretrain.sources import Skill

SLOTS = Wording(
    (
        "List the slots.",
        "Which details does the request give?",
        "Extract the details.",
        "Find all values with their names.",
        "What information is in the request?",
        "Fill in the slots",
    ),
    ("slots", "details", "values"),
    ("{x}\nslots:", "request: {x}\nparsed:", "{x}\ndetails:", "Parse: {x}\n"),
)
TAGS = Wording(
    ("Tag every word.", "Label each word with its slot.", "Give BIO tags.", "Mark the words", "tag the words"),
    ("tags", "labels", "BIO"),
    ("{x}\ntags:", "words: {x}\nlabels:", "{x}\nword by word:"),
)
NAMES = Wording(
    (
        "List the names.",
        "Which names occur?",
        "Find all named entities.",
        "What names are mentioned?",
        "Who or what is named in the text?",
        "Extract the proper names.",
        "names in the text",
    ),
    ("names", "entities", "named entities"),
    ("{x}\nnames:", "{x}\nentities:", "Text: {x}\nNames:", "{x}\nproper names:"),
)
TYPED = Wording(
    (
        "List the names with their type.",
        "Find people, places and organizations.",
        "Which entities occur, and of what type?",
        "Extract entities: person, place, organization",
    ),
    ("entities", "names and types", "typed names"),
    ("{x}\nentities with types:", "Entities of: {x}\n", "{x}\nperson / place / organization:"),
)
WORDINGS = {"slots": SLOTS, "tags": TAGS, "names": NAMES, "typed": TYPED}
Spans = list[tuple[int, int, str]]


def bio(length: int, spans: Spans) -> list[str]:
    """Write spans (start, end, type) as BIO tags."""
    tags = ["O"] * length
    for start, end, kind in spans:
        tags[start:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - start - 1)
    return tags


def tagged(rng: random.Random, words: list[str], tags: list[str]) -> str:
    """Write words with tags in one of several forms."""
    form = rng.randrange(4)
    if form == 0:
        return " ".join(tags)
    if form == 1:
        return " ".join(f"{word}/{tag}" for word, tag in zip(words, tags, strict=True))
    if form == 2:
        return ", ".join(f"{word}: {tag}" for word, tag in zip(words, tags, strict=True) if tag != "O") or "none"
    return "\n".join(f"{word} {tag}" for word, tag in zip(words, tags, strict=True))


def _listed(rng: random.Random, pairs: list[tuple[str, str]]) -> str:
    form = rng.choice(("{0}: {1}", "{0} = {1}", "{1} ({0})", "{0}={1}"))
    return rng.choice(("; ", ", ", " | ")).join(form.format(name, value) for name, value in pairs)


def snips(corpus: Corpus, rng: random.Random) -> Iterator[Skill]:
    """Slots of assistants' requests, without end."""
    while True:
        text, _, pieces = rng.choice(corpus.snips)
        yield from request(rng, "snips", text, pieces)


def request(rng: random.Random, source: str, text: str, pieces: Slots) -> Iterator[Skill]:
    """Make one slot task of a request given as pieces of (text, slot name or empty)."""
    pairs = [(name, value) for value, name in pieces if name]
    draw = rng.random()
    if not pairs:
        return
    if draw < 0.35:
        prompt = SLOTS.prompt(rng, text)
        yield Skill(source, "slots", prompt, after(prompt, _listed(rng, pairs)))
    elif draw < 0.65:
        name, value = rng.choice(pairs)
        wanted = rng.random() < 0.85
        name = name if wanted else rng.choice(("artist", "city", "date", "movie name", "price", "person"))
        if wanted or name not in dict(pairs):
            ask = rng.choice(
                (
                    "{x}\nWhat is the {n}?\nanswer:",
                    "{x}\n{n}:",
                    "What is the {n} here? {x}\n",
                    "{x}\nWhich {n}?\n",
                    "request: {x}\n{n} =",
                    "Find the {n}.\n{x}\nanswer:",
                    "{x}\nQ: {n}?\nA:",
                    "{x} The {n} is",
                )
            )
            prompt = ask.format(x=text, n=name)
            yield Skill(source, "one slot", prompt, after(prompt, value if wanted else "none"))
    elif draw < 0.8:
        words, spans = _spans(pieces)
        prompt = TAGS.prompt(rng, " ".join(words))
        yield Skill(source, "slot tags", prompt, after(prompt, tagged(rng, words, bio(len(words), spans))))
    else:
        name, value = rng.choice(pairs)
        ask = rng.choice(
            ('{x}\nWhat is "{v}"?\nanswer:', "{x}\n{v}:", '{x}\n"{v}" is the', "In: {x}\n{v} =", "{x}\nslot of {v}:")
        )
        prompt = ask.format(x=text, v=value)
        yield Skill(source, "name of a slot", prompt, after(prompt, name))


def _spans(pieces: Slots) -> tuple[list[str], Spans]:
    words: list[str] = []
    spans: Spans = []
    for value, name in pieces:
        start = len(words)
        words += value.split()
        if name:
            spans.append((start, len(words), name.replace(" ", "_")))
    return words, spans


_DATES = re.compile(r"(Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day|January|February|March|April|June|July|August|"
                    r"September|October|November|December|Mr|Mrs|Ms|Dr")  # fmt: skip


class Finder:
    """Finds runs of proper nouns and guesses their type from WordNet, first names and endings."""

    def __init__(self, corpus: Corpus) -> None:
        self.known = corpus.wordnet.names
        people = [name.split() for name, kind in self.known.items() if kind == "person"]
        self.first = {parts[0] for parts in people if len(parts) > 1 and parts[0].isalpha()}

    def spans(self, sentence: Sentence) -> Spans:
        """Return the name runs of a sentence with `person`, `place`, `organization` or an empty type."""
        spans: Spans = []
        start = None
        for index, (word, tag) in enumerate([*sentence.tagged, ("", "")]):
            named = tag in ("NNP", "NNPS") and word[:1].isupper() and not _DATES.fullmatch(word.rstrip("."))
            if named and start is None:
                start = index
            elif not named and start is not None:
                spans.append((start, index, self.kind([word for word, _ in sentence.tagged[start:index]])))
                start = None
        return spans

    def kind(self, words: list[str]) -> str:
        """Guess the type of a name; an empty string where nothing is known."""
        name = " ".join(words)
        known = self.known.get(name, "")
        if known and (len(words) > 1 or known != "person"):
            return "place" if known in ("city", "country") else known
        if re.search(r"\b(Inc|Corp|Corporation|University|Committee|Company|Co|Court|Department|Bank|Group|Party|"
                     r"Association|Agency|Institute|Council|Congress|Commission|Ltd|School)\b", name):  # fmt: skip
            return "organization"
        if re.search(r"\b(Street|River|Avenue|Island|County|City|Lake|Mountain|Road|Park|Bay|Valley)$", name):
            return "place"
        return "person" if len(words) in (2, 3) and words[0] in self.first else ""


def entities(corpus: Corpus, rng: random.Random) -> Iterator[Skill]:
    """Names in running text: lists, types, tags, without end."""
    finder = Finder(corpus)
    rows = [(s, spans) for s in corpus.sentences if _normal(s) and (spans := finder.spans(s))]
    typed = [(s, spans) for s, spans in rows if all(kind for *_, kind in spans)]
    none = [s for s in corpus.sentences if _normal(s) and not any(tag.startswith("NNP") for _, tag in s.tagged)]
    while True:
        draw = rng.random()
        sentence, spans = rng.choice(typed if draw < 0.65 else rows)
        if draw > 0.93:
            sentence, spans = rng.choice(none), []
        words = [word for word, _ in sentence.tagged]
        text = sentence.text if rng.random() < 0.6 else " ".join(words)
        names = [(kind, " ".join(words[start:end])) for start, end, kind in spans]
        yield _entity(rng, sentence.source, text, words, spans, names)


def _normal(sentence: Sentence) -> bool:
    capitals = sum(word[:1].isupper() for word, _ in sentence.tagged)
    return capitals < 0.5 * len(sentence.tagged) and len(sentence.tagged) > 4


def _entity(
    rng: random.Random, source: str, text: str, words: list[str], spans: Spans, names: list[tuple[str, str]]
) -> Skill:
    typed = all(kind for kind, _ in names)
    draw = rng.random()
    if not typed or not names or draw < 0.3:
        prompt = NAMES.prompt(rng, text)
        answer = rng.choice(("; ", ", ")).join(name for _, name in names) or "none"
        return Skill(source, "names", prompt, after(prompt, answer))
    if draw < 0.5:
        prompt = TYPED.prompt(rng, text)
        return Skill(source, "typed names", prompt, after(prompt, _listed(rng, names)))
    if draw < 0.7:
        prompt = TAGS.prompt(rng, " ".join(words))
        return Skill(source, "name tags", prompt, after(prompt, tagged(rng, words, bio(len(words), spans))))
    kind, name = rng.choice(names)
    if draw < 0.85:
        ask = rng.choice(('{x}\nIs "{n}" a person, a place or an organization?\n', "{x}\n{n} is a", "{x}\n{n}:",
                          "{x}\nWhat is {n}?\nanswer:", "{x}\ntype of {n}:"))  # fmt: skip
        prompt = ask.format(x=text, n=name)
        return Skill(source, "type of a name", prompt, after(prompt, kind))
    wanted = rng.choice(("person", "place", "organization", kind))
    ask = rng.choice(("{x}\nWhich {k} is named?\nanswer:", "{x}\n{k}:", "Find a {k}: {x}\n", "{x}\nIs a {k} named?\n"))
    prompt = ask.format(x=text, k=wanted)
    answer = next((value for type_, value in names if type_ == wanted), "none")
    return Skill(source, "name of a type", prompt, after(prompt, answer))
