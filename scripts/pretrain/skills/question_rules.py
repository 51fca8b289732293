"""What kind of answer a question wants, by its first words and its head noun."""

import re

from scripts.pretrain.wordnet import WordNet

_BY_FILE = {
    "noun.person": "person",
    "noun.group": "group",
    "noun.location": "place",
    "noun.time": "time",
    "noun.quantity": "number",
    "noun.animal": "animal",
    "noun.food": "food",
    "noun.plant": "plant",
    "noun.event": "event",
    "noun.artifact": "thing",
    "noun.substance": "thing",
    "noun.body": "thing",
}
_BY_NOUN = {
    "city": "city", "town": "city", "capital": "city", "country": "country", "nation": "country", "state": "place",
    "name": "word", "word": "word", "term": "word", "time": "time", "year": "time", "day": "time", "date": "time",
    "price": "amount", "cost": "amount", "number": "number", "percentage": "number", "age": "number",
    "reason": "reason", "way": "manner", "difference": "description", "purpose": "reason", "team": "group",
    "company": "group", "street": "place", "part": "thing", "planet": "place", "island": "place", "river": "place",
    "mountain": "place", "population": "number", "distance": "number", "temperature": "number", "rate": "number",
    "balance": "amount", "limit": "number", "meaning": "definition", "definition": "definition", "weight": "number",
}  # fmt: skip
_HOW = {
    "many": "number", "much": "number", "long": "number", "far": "number", "old": "number", "tall": "number",
    "often": "number", "big": "number", "high": "number", "fast": "number", "deep": "number", "late": "time",
}  # fmt: skip


_AUXILIARY = frozenset(
    [
        "is",
        "are",
        "do",
        "does",
        "did",
        "can",
        "could",
        "will",
        "would",
        "was",
        "were",
        "has",
        "have",
        "had",
        "should",
        "am",
        "may",
        "might",
        "must",
        "isn't",
        "aren't",
        "don't",
        "doesn't",
        "didn't",
        "can't",
        "won't",
        "wasn't",
    ]
)


def head_kind(wordnet: WordNet, noun: str) -> str:
    """Say what kind of answer `What NOUN ...` wants, by a short table and then by the noun's first sense."""
    noun = noun.lower()
    forms = [noun, re.sub(r"ies$", "y", noun), re.sub(r"s$", "", noun), re.sub(r"es$", "", noun)]
    for form in forms:
        if form in _BY_NOUN:
            return _BY_NOUN[form]
    for form in forms:
        synset = wordnet.first(form)
        if synset and form in wordnet.common_nouns:
            return _BY_FILE.get(synset.kind, "")
    return ""


def kind_of(wordnet: WordNet, text: str) -> str:
    """Say what kind of answer a question wants, by its first words; an empty string where the rules are unsure."""
    words = re.findall(r"[A-Za-z']+", text)
    if len(words) < 3:
        return ""
    first, second = words[0].lower(), words[1].lower()
    fixed = {"who": "person", "who's": "person", "whose": "person", "whom": "person", "where": "place",
             "where's": "place", "when": "time", "why": "reason"}  # fmt: skip
    if first in ("when", "where", "why") and second not in _AUXILIARY:
        return ""
    if first in fixed:
        return fixed[first]
    if first == "how":
        if second == "much" and re.search(
            r"\b(cost|pay|money|charge|price|owe|fee|spend|earn|dollars?)\b", text.lower()
        ):
            return "amount"
        return _HOW.get(
            second, "manner" if second in ("do", "can", "does", "did", "could", "would", "to", "should") else ""
        )
    if first in _AUXILIARY:
        return "yes or no"
    if first in ("what", "which", "what's", "whats"):
        return _what(wordnet, words)
    return ""


def _what(wordnet: WordNet, words: list[str]) -> str:
    rest = [word.lower() for word in words[1:]]
    if words[0].lower() in ("what's", "whats"):
        rest = ["is", *rest]
    if rest[-1] == "like" or rest[0] == "if":
        return "description" if rest[-1] == "like" else ""
    if rest[0] in ("is", "are", "was", "were"):
        if rest[1] in ("a", "an") and len(rest) <= 4:
            return "definition"
        if rest[1] in ("the", "my", "your", "his", "her", "our", "their") and len(rest) > 2:
            nouns = [word for word in rest[2:5] if word not in ("best", "current", "first", "last", "most", "total")]
            kind = head_kind(wordnet, nouns[0]) if nouns else ""
            return "" if kind in ("group", "event", "thing", "word") else kind
        return ""
    if rest[0] in ("does", "did", "do", "can", "would", "should", "will"):
        return "definition" if rest[-1] in ("mean", "means") else "description"
    if rest[0] in ("kind", "type", "sort") and len(rest) > 2 and rest[1] == "of":
        return head_kind(wordnet, rest[2])
    return head_kind(wordnet, rest[0])
