"""Same meaning or not: references of one or two restaurants, small edits that keep or change what is said."""

import random
import re
from collections.abc import Iterator

from scripts.pretrain.skills.corpus import Corpus
from scripts.pretrain.skills.wording import Wording, after
from scripts.pretrain.sources import Skill
from scripts.pretrain.wordnet import WordNet

SAME = Wording(
    (
        "Do these sentences mean the same?",
        "Do the two sentences say the same thing?",
        "Is the second sentence a paraphrase of the first?",
        "Same meaning?",
        "Are the two texts equivalent?",
        "Are these paraphrases? yes or no",
        "Does sentence 2 say what sentence 1 says?",
        "Can one replace the other without a change of meaning?",
        "Do both report the same facts?",
    ),
    ("paraphrase", "same meaning", "equivalent"),
    (
        "{x}\nDo they mean the same? Yes or no:",
        "{x}\nparaphrase or not:",
        "Compare the two.\n{x}\nSame?",
        "{x}\nQuestion: is it the same?\nAnswer:",
    ),
)
WORDINGS = {"same": SAME}
_JOINS = (
    "{}\n{}",
    "1. {}\n2. {}",
    "sentence 1: {}\nsentence 2: {}",
    "Sentence 1: {}\nSentence 2: {}",
    "A: {}\nB: {}",
    "first: {}\nsecond: {}",
    '"{}" "{}"',
    "{} | {}",
    "text 1: {} text 2: {}",
)
_YES_NO = (("yes", "no"),) * 6 + (("same", "different"), ("true", "false"), ("equivalent", "not equivalent"))


def _skill(rng: random.Random, source: str, first: str, second: str, same: bool) -> Skill:
    if rng.random() < 0.5:
        first, second = second, first
    if rng.random() < 0.1:
        first, second = first.lower(), second.lower()
    yes, no = rng.choice(_YES_NO)
    text = rng.choice(_JOINS).format(first, second)
    if yes != "yes":
        text += f"\n({yes} or {no})"
    prompt = SAME.prompt(rng, text)
    return Skill(source, "paraphrase", prompt, after(prompt, yes if same else no))


def restaurants(corpus: Corpus, rng: random.Random) -> Iterator[Skill]:
    """References of one meaning, or of two meanings that differ in little, without end."""
    rows = [(mr, texts) for mr, texts in corpus.e2e if len(texts) > 1]
    by_name: dict[str, list[tuple[dict[str, str], list[str]]]] = {}
    for row in rows:
        by_name.setdefault(row[0]["name"], []).append(row)
    while True:
        mr, texts = rng.choice(rows)
        if rng.random() < 0.5:
            first, second = rng.sample(texts, 2)
            if _said(mr, first) == _said(mr, second):
                yield _skill(rng, "e2e_nlg", first, second, True)
            continue
        near = [row for row in by_name[mr["name"]] if _conflict(mr, row[0])]
        if near and rng.random() < 0.7:
            yield _skill(rng, "e2e_nlg", rng.choice(texts), rng.choice(rng.choice(near)[1]), False)
        else:
            changed = _swap_value(rng, mr, rng.choice(texts), corpus)
            if changed:
                yield _skill(rng, "e2e_nlg", rng.choice(texts), changed, False)


def _said(mr: dict[str, str], text: str) -> list[str]:
    """Name the attributes that a reference gives word for word; the crowd left some out."""
    return [key for key in ("name", "food", "near", "area") if key in mr and mr[key].lower() in text.lower()]


def _conflict(one: dict[str, str], two: dict[str, str]) -> bool:
    return any(two[key] != value for key, value in one.items() if key in two)


def _swap_value(rng: random.Random, mr: dict[str, str], text: str, corpus: Corpus) -> str:
    keys = [
        key for key, value in mr.items() if key in ("name", "food", "area", "near", "customer rating") and value in text
    ]
    if not keys:
        return ""
    key = rng.choice(keys)
    others = [row[key] for row, _ in rng.sample(corpus.e2e, 40) if row.get(key, mr[key]) != mr[key]]
    return text.replace(mr[key], others[0]) if others else ""


def _article(text: str) -> str:
    """Set `a` and `an` right after an edit."""
    text = re.sub(r"\b([Aa])n (?=[bcdfgjklmnpqrstvwxyz])", r"\1 ", text)
    return re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", text)


class Edits:
    """Edits a sentence so that its meaning stays (synonym, order) or changes (number, name, word, negation)."""

    def __init__(self, corpus: Corpus) -> None:
        self.wordnet: WordNet = corpus.wordnet
        names: dict[str, list[str]] = {}
        for name, kind in corpus.wordnet.names.items():
            if name.isalpha():
                names.setdefault(kind, []).append(name)
        self.names = names
        self.rank = {word: True for part in "nvar" for word in corpus.wordnet.common[part]}

    def synonym(self, rng: random.Random, text: str) -> str:
        """Replace one or two words by a word of the same, most frequent sense."""
        words = text.split(" ")
        spots = [i for i, word in enumerate(words) if word.isalpha() and word.islower() and len(word) > 3]
        rng.shuffle(spots)
        done = 0
        for spot in spots:
            other = self._other(rng, words[spot])
            if other:
                words[spot] = other
                done += 1
            if done == 2:
                break
        return _article(" ".join(words)) if done else ""

    def _other(self, rng: random.Random, word: str) -> str:
        parts = [part for part in "nar" if (word, part) in self.wordnet.senses]
        if len(parts) != 1 or (word, "v") in self.wordnet.senses or len(self.wordnet.senses[(word, parts[0])]) > 2:
            return ""
        synset = self.wordnet.first(word, parts[0])
        others = [w for w in synset.words if w != word and w.islower() and w in self.rank] if synset else []
        return rng.choice(others) if others else ""

    def order(self, text: str) -> str:
        """Move a leading or trailing adverbial to the other end."""
        lead = re.fullmatch(r"((?:In|On|At|After|During|By|Since|Before|For) [^,]{3,40}), ([A-Z]?[^,;:\"]+)\.", text)
        if lead:
            return f"{lead[2][0].upper()}{lead[2][1:]} {lead[1][0].lower()}{lead[1][1:]}."
        tail = re.fullmatch(r"([A-Z][^,;:\"]+) ((?:in|on|since|during) (?:[A-Z]\w+ )?\d{4})\.", text)
        return f"{tail[2][0].upper()}{tail[2][1:]}, {tail[1]}." if tail else ""

    def number(self, rng: random.Random, text: str) -> str:
        """Change one number."""
        found = list(re.finditer(r"(?<![\d.,-])\d{1,4}(?![\d.,-]\d)", text))
        if not found:
            return ""
        match = rng.choice(found)
        value = int(match[0])
        other = value + rng.choice((1, 2, 3, 5, 10, -1, -2)) if value > 12 else value + rng.choice((1, 2, 3, 4))
        return text[: match.start()] + str(other) + text[match.end() :]

    def name(self, rng: random.Random, text: str) -> str:
        """Change one known name for another of its kind."""
        found = [m for m in re.finditer(r"(?<!^)\b[A-Z][a-z]{3,}\b", text) if m[0] in self.wordnet.names]
        if not found:
            return ""
        match = rng.choice(found)
        other = rng.choice(self.names[self.wordnet.names[match[0]]])
        return text[: match.start()] + other + text[match.end() :] if other != match[0] else ""

    def deny(self, _: random.Random, text: str) -> str:
        """Put a negation in."""
        changed = re.sub(
            r"\b(is|was|are|were|will|would|could|can|has been|had been)\b (?!not|n't)", r"\1 not ", text, count=1
        )
        return (
            changed.replace("has been not", "has not been").replace("had been not", "had not been")
            if changed != text
            else ""
        )

    def opposite(self, rng: random.Random, text: str) -> str:
        """Change one adjective or adverb for its opposite."""
        spots = list(re.finditer(r"\b[a-z]{3,}\b", text))
        rng.shuffle(spots)
        for match in spots:
            synset = self.wordnet.first(match[0], "a")
            links = [link for link in synset.links if link[0] == "!"] if synset else []
            other_parts = any((match[0], part) in self.wordnet.senses for part in "nvr")
            if links and synset and not other_parts and match[0] == synset.words[0] and not match[0].endswith("ed"):
                return _article(
                    text[: match.start()] + self.wordnet.synsets[links[0][1]].words[0] + text[match.end() :]
                )
        return ""

    def shorten(self, text: str) -> str:
        """Leave out a bracket or an aside."""
        changed = re.sub(r" \([^)]*\)|, (?:however|for example|in fact|of course|as well|too),?", "", text)
        return changed if changed != text else ""


def edits(corpus: Corpus, rng: random.Random) -> Iterator[Skill]:
    """Sentences of WikiText and MASC against their edited selves, without end."""
    edit = Edits(corpus)
    pool = [("wikitext2", text) for text in corpus.wiki_sentences if 8 <= len(text.split()) <= 30]
    pool += [
        (s.source, s.text)
        for s in corpus.sentences
        if 8 <= len(s.tagged) <= 30 and s.text[0].isupper() and s.text[-1] == "."
    ]
    while True:
        source, text = rng.choice(pool)
        same = rng.random() < 0.5
        first = edit.synonym(rng, text)
        moved = edit.order(first or text)
        close = moved or first or edit.shorten(text)
        if same:
            if close:
                yield _skill(rng, source, text, close, True)
            continue
        base = close if close and rng.random() < 0.6 else text
        makers = [edit.number, edit.name, edit.opposite, edit.deny]
        rng.shuffle(makers)
        changed = next((other for make in makers if (other := make(rng, base))), "")
        if changed:
            yield _skill(rng, source, text, changed, False)


def neighbours(corpus: Corpus, rng: random.Random) -> Iterator[Skill]:
    """Two following or overlapping sentences of one article are related but not the same."""
    texts = corpus.wiki_sentences
    edit = Edits(corpus)
    while True:
        index = rng.randrange(len(texts) - 1)
        if rng.random() < 0.5:
            yield _skill(rng, "wikitext2", texts[index], texts[index + 1], False)
        elif other := edit.order(texts[index]) or edit.synonym(rng, texts[index]):
            yield _skill(rng, "wikitext2", texts[index], other, True)
