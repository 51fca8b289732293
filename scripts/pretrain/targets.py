"""The data sets kept for evaluation, read only to keep their sentences out of the pretraining text."""

import re
from collections.abc import Iterator
from pathlib import Path

_KEY = 6
_FILES = (
    "trec/train.txt",
    "trec/test.txt",
    "cr/all.txt",
    "sst2/train.tsv",
    "sst2/dev.tsv",
    "sst2/test.tsv",
    "mrpc/train.txt",
    "mrpc/test.txt",
    "atis_snips_slots/atis/train/seq.in",
    "atis_snips_slots/atis/valid/seq.in",
    "atis_snips_slots/atis/test/seq.in",
    "wnut17_ner/train.conll",
    "wnut17_ner/dev.conll",
    "wnut17_ner/test.conll",
)


def words_of(text: str) -> list[str]:
    """Lower-case words and numbers, apostrophes dropped, so that tokenisation and case do not matter."""
    plain = re.sub(r" ?(n['’]t)\b", r" \1", text.lower())
    plain = re.sub(r"['’](?=(?:s|re|ve|ll|d|m)\b)", " ", plain).replace("'", "").replace("’", "")
    return re.findall(r"[a-z0-9]+", plain)


class Targets:
    """Finds any sentence of six words or more of the evaluation sets in a text."""

    def __init__(self, sentences: list[str]) -> None:
        self._by_start: dict[tuple[str, ...], list[list[str]]] = {}
        for sentence in sentences:
            words = words_of(sentence)
            if len(words) >= _KEY:
                self._by_start.setdefault(tuple(words[:_KEY]), []).append(words)

    @classmethod
    def read(cls, data: Path) -> "Targets":
        """Read the sets beside the repository; raises FileNotFoundError when one is missing."""
        return cls(list(target_sentences(data)))

    def found_in(self, text: str) -> bool:
        """Say whether the text holds a whole target sentence."""
        words = words_of(text)
        for start in range(len(words) - _KEY + 1):
            for sentence in self._by_start.get(tuple(words[start : start + _KEY]), ()):
                if words[start : start + len(sentence)] == sentence:
                    return True
        return False


def target_sentences(data: Path) -> Iterator[str]:
    """Yield the raw sentences of every evaluation set."""
    for name in _FILES:
        raw = (data / name).read_bytes().decode("utf-8", errors="replace")
        if name.endswith(".conll"):
            blocks = re.split(r"\n\s*\n", raw)
            yield from (" ".join(line.split("\t")[0] for line in block.split("\n")) for block in blocks)
        else:
            yield from (_text(name, part) for line in raw.splitlines() for part in _columns(name, line))


def _columns(name: str, line: str) -> list[str]:
    return line.split("\t")[3:] if name.startswith("mrpc") else [line]


def _text(name: str, line: str) -> str:
    if name.startswith(("trec", "cr")):
        return line.split(" ", 1)[-1]
    return line.split("\t")[0]
