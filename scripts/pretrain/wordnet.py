"""A reader of the WordNet 3.0 database files (format: wndb(5WN))."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

LEXNAMES = """
adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body
noun.cognition noun.communication noun.event noun.feeling noun.food noun.group noun.location
noun.motive noun.object noun.person noun.phenomenon noun.plant noun.possession noun.process
noun.quantity noun.relation noun.shape noun.state noun.substance noun.time verb.body verb.change
verb.cognition verb.communication verb.competition verb.consumption verb.contact verb.creation
verb.emotion verb.motion verb.perception verb.possession verb.social verb.stative verb.weather
adj.ppl
""".split()  # noqa: SIM905
KINDS = {
    "noun.act": "activity",
    "noun.animal": "animal",
    "noun.artifact": "object",
    "noun.body": "body part",
    "noun.cognition": "idea",
    "noun.communication": "language",
    "noun.event": "event",
    "noun.feeling": "feeling",
    "noun.food": "food",
    "noun.group": "group",
    "noun.location": "place",
    "noun.person": "person",
    "noun.plant": "plant",
    "noun.possession": "money",
    "noun.quantity": "quantity",
    "noun.substance": "substance",
    "noun.time": "time",
}
_PARTS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}


@dataclass(slots=True)
class Synset:
    """One sense: its words, gloss and links; `parts` of a link are (symbol, (part of speech, offset))."""

    part: str
    kind: str
    words: list[str]
    gloss: str
    examples: list[str]
    links: list[tuple[str, tuple[str, str], str]] = field(default_factory=list)


class WordNet:
    """All senses by (part of speech, offset), and each word's senses, the most frequent first."""

    def __init__(self, folder: Path) -> None:
        self.synsets: dict[tuple[str, str], Synset] = {}
        self.senses: dict[tuple[str, str], list[tuple[str, str]]] = {}
        self.common: dict[str, list[str]] = {}
        for name, part in _PARTS.items():
            self._read_data(folder / f"data.{name}", part)
            self._read_index(folder / f"index.{name}", part)

    def _read_data(self, path: Path, part: str) -> None:
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.startswith("  "):
                offset, synset = _parse(line, part)
                self.synsets[(part, offset)] = synset

    def _read_index(self, path: Path, part: str) -> None:
        common = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):
                continue
            cells = line.split()
            count = int(cells[2])
            word = cells[0].replace("_", " ")
            self.senses[(word, part)] = [(part, offset) for offset in cells[-count:]]
            if int(cells[-count - 1]) > 0:
                common.append(word)
        self.common[part] = common

    def first(self, word: str, part: str = "n") -> Synset | None:
        """Return the most frequent sense of a word, or None where WordNet lacks it."""
        keys = self.senses.get((word.lower(), part))
        return self.synsets[keys[0]] if keys else None

    def linked(self, synset: Synset, *symbols: str) -> list[Synset]:
        """Return the senses that a sense points to by any of the symbols (`@` hypernym, `!` antonym ...)."""
        return [self.synsets[key] for symbol, key, _ in synset.links if symbol in symbols]

    def ancestors(self, synset: Synset) -> Iterator[Synset]:
        """Yield the hypernyms up to the root, the first parent at every fork."""
        parents = self.linked(synset, "@", "@i")
        while parents:
            yield parents[0]
            parents = self.linked(parents[0], "@", "@i")

    def below(self, word: str, symbols: tuple[str, ...] = ("~", "~i"), sense: int = 0) -> list[Synset]:
        """Return everything under a noun's sense, breadth first."""
        queue = [self.synsets[self.senses[(word, "n")][sense]]]
        found: list[Synset] = []
        while queue:
            below = [child for synset in queue for child in self.linked(synset, *symbols)]
            found += below
            queue = below
        return found

    @cached_property
    def by_kind(self) -> dict[str, list[tuple[str, Synset]]]:
        """Common nouns (seen in WordNet's tagged texts, first sense) by their kind's lexicographer file."""
        table: dict[str, list[tuple[str, Synset]]] = {}
        for word in self.common["n"]:
            synset = self.first(word)
            if synset and not any(name[0].isupper() for name in synset.words) and word.isascii() and len(word) > 2:
                table.setdefault(synset.kind, []).append((word, synset))
        return table

    @cached_property
    def common_nouns(self) -> frozenset[str]:
        """Nouns seen in WordNet's tagged texts."""
        return frozenset(self.common["n"])

    @cached_property
    def names(self) -> dict[str, str]:
        """Proper names to `person`, `city`, `country`, `place` or `organization`, from instance links."""
        table: dict[str, str] = {}
        for synset in self.synsets.values():
            kind = self._name_kind(synset)
            for word in synset.words if kind else ():
                if word[0].isupper():
                    table.setdefault(word, kind)
        return table

    def _name_kind(self, synset: Synset) -> str:
        parents = self.linked(synset, "@i")
        if not parents:
            return "organization" if synset.kind == "noun.group" and synset.words[0].istitle() else ""
        words = {word for parent in parents for word in parent.words}
        if synset.kind == "noun.person":
            return "person"
        if synset.kind in ("noun.location", "noun.object"):
            if any("city" in word or word in ("national capital", "port", "town", "state capital") for word in words):
                return "city"
            return "country" if any("country" in word for word in words) else "place"
        return ""


def articles(wordnet: WordNet) -> Iterator[str]:
    """Write each noun sense with three kinds of it or more as a short article: its gloss, then its kinds."""
    for synset in wordnet.synsets.values():
        children = wordnet.linked(synset, "~", "~i") if synset.part == "n" else []
        if len(children) < 3:
            continue
        lines = [f"{_headword(synset)}: {synset.gloss}.", ""]
        lines += [_entry(child) for child in children[:14]]
        yield "\n".join(lines)


def _headword(synset: Synset) -> str:
    word = synset.words[0]
    return word[0].upper() + word[1:]


def _entry(synset: Synset) -> str:
    others = f" (or {', '.join(synset.words[1:3])})" if len(synset.words) > 1 else ""
    example = f' For example: "{synset.examples[0]}".' if synset.examples else ""
    return f"{_headword(synset)}{others}: {synset.gloss}.{example}"


def _parse(line: str, part: str) -> tuple[str, Synset]:
    head, _, tail = line.partition(" | ")
    cells = head.split()
    count = int(cells[3], 16)
    words = [re.sub(r"\((a|p|ip)\)$", "", word).replace("_", " ") for word in cells[4 : 4 + 2 * count : 2]]
    start = 5 + 2 * count
    links = []
    for index in range(int(cells[start - 1])):
        symbol, offset, to, between = cells[start + 4 * index : start + 4 * index + 4]
        links.append((symbol, ("a" if to == "s" else to, offset), between))
    gloss, examples = _gloss(tail)
    return cells[0], Synset(part, LEXNAMES[int(cells[1])], words, gloss, examples, links)


def _gloss(tail: str) -> tuple[str, list[str]]:
    examples = [example.strip() for example in re.findall(r'"([^"]+)"', tail)]
    gloss = re.split(r'[;:]? *"', tail, maxsplit=1)[0].strip(" ;:")
    return gloss, examples
