"""What the skills are made from, read once: tagged sentences, WordNet, the polarity lexicon, labelled rows."""

import csv
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from scripts.pretrain import sources
from scripts.pretrain.wordnet import WordNet

Slots = list[tuple[str, str]]


@dataclass(frozen=True)
class Sentence:
    """A sentence with its words and Penn tags."""

    source: str
    genre: str
    text: str
    tagged: list[tuple[str, str]]


class Corpus:
    """Lazy readers of every source that a skill is made from."""

    def __init__(self, data: Path, extra: Path) -> None:
        sources.check(data, extra)
        self.data = data
        self.extra = extra

    @cached_property
    def wordnet(self) -> WordNet:
        """WordNet's senses."""
        return WordNet(self.extra / "wordnet")

    @cached_property
    def polarity(self) -> dict[str, float]:
        """VADER's mean ratings (-4 to 4) of its alphabetic words."""
        rows = (self.extra / "vader_lexicon.txt").read_text(encoding="utf-8").splitlines()
        cells = [row.split("\t") for row in rows]
        return {row[0]: float(row[1]) for row in cells if len(row) > 1 and re.fullmatch(r"[a-z][a-z-]+", row[0])}

    @cached_property
    def sentences(self) -> list[Sentence]:
        """Sentences of MASC and UD-EWT of 3 to 40 words without mail headers."""
        found = []
        for genre, document in sources.ud_documents(self.data):
            for text, words in document:
                found.append(Sentence("ud_ewt", genre, text.strip(), [(word, tag) for word, _, tag in words]))
        for genre, lines in sources.masc_files(self.data):
            found += [Sentence("masc", genre, sources.masc_text(line), line) for line in lines if line]
        return [s for s in found if 3 <= len(s.tagged) <= 40 and not re.search(r"[<>=@|\\]|Subject:|http|--", s.text)]

    @cached_property
    def wiki_sentences(self) -> list[str]:
        """Whole sentences of WikiText-2 of 6 to 40 words."""
        lines = [line for article in sources.wikitext_articles(self.data) for line in article if "." in line]
        found = [part.strip() for line in lines for part in re.split(r"(?<=[a-z0-9\"]\.) (?=[A-Z])", line)]
        return [text for text in found if 6 <= len(text.split()) <= 40 and "[...]" not in text]

    @cached_property
    def e2e(self) -> list[tuple[dict[str, str], list[str]]]:
        """Meaning representations with their reference texts."""
        table: dict[str, list[str]] = {}
        with (self.data / "e2e_nlg" / "devset.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                table.setdefault(row["mr"], []).append(row["ref"].strip())
        return [(dict(re.findall(r"(\w[\w ]*)\[([^\]]*)\]", mr)), texts) for mr, texts in table.items()]

    @cached_property
    def banking(self) -> list[tuple[str, str]]:
        """Bank customers' questions with the intent in words."""
        with (self.data / "banking77" / "train.csv").open(encoding="utf-8", newline="") as file:
            rows = [(row["text"], row["category"]) for row in csv.DictReader(file)]
        return [(" ".join(text.split()), label.replace("_", " ").lower().strip(" ?")) for text, label in rows]

    @cached_property
    def clinc(self) -> list[tuple[str, str]]:
        """Assistant requests with the intent in words (train part)."""
        rows = json.loads((self.data / "clinc150" / "data_full.json").read_text(encoding="utf-8"))
        return [(text, label.replace("_", " ")) for text, label in rows["train"]]

    @cached_property
    def snips(self) -> list[tuple[str, str, Slots]]:
        """Requests as (text, intent in words, pieces with their slot name or an empty string)."""
        found = []
        for path in sorted((self.data / "snips").glob("*/train_*_full.json")):
            rows = json.loads(path.read_bytes().decode("utf-8", errors="replace"))
            for intent, entries in rows.items():
                name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", intent).lower()
                found += [_snips_row(entry["data"], name) for entry in entries]
        return [row for row in found if "\ufffd" not in row[0]]

    @cached_property
    def gsm8k(self) -> list[tuple[str, str]]:
        """Sums in words with worked answers."""
        return sources.gsm8k(self.data)


def _snips_row(pieces: list[dict[str, str]], intent: str) -> tuple[str, str, Slots]:
    text = re.sub(r"\s+", " ", "".join(piece["text"] for piece in pieces)).strip()
    slots = [(piece["text"].strip(), piece.get("entity", "").replace("_", " ")) for piece in pieces]
    return text, intent, [slot for slot in slots if slot[0]]
