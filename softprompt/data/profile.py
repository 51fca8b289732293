"""What a column is like: the words of its name, and counts over its values."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from softprompt.data.dataset import ABSENT

_TEXT = """text sentence question review input premise hypothesis document content body title comment utterance query
tweet message prompt passage context string source src article dialogue headline instruction tokens words mr"""
_ANSWER = "answer answers output response completion ref reference summary target"
_LABEL = """label labels class classes intent category sentiment score rating stars tag tags gold quality topic emotion
judgment judgement y"""
TEXT_WORDS: Final = frozenset(_TEXT.split())
ANSWER_WORDS: Final = frozenset(_ANSWER.split())
LABEL_WORDS: Final = ANSWER_WORDS | frozenset(_LABEL.split())
IGNORED_WORDS: Final = frozenset(["id", "idx", "index", "guid", "uid", "uuid", "unnamed"])
NESTED: Final = frozenset({list, tuple, dict})


@dataclass(frozen=True)
class Profile:
    """What the values of one column are like."""

    name: str
    filled: int  # cells that are not empty
    distinct: int
    chars: float  # mean length
    words: float  # mean number of words
    number: bool  # more than nine in ten different values are numbers
    whole: bool  # and whole
    contiguous: bool  # whole numbers 0, 1, 2, ... without a gap
    nested: bool  # lists or objects

    @property
    def few(self) -> bool:
        """Whether values recur the way classes do."""
        return not self.nested and 0 < self.distinct <= self.filled / 2 and self.chars <= 64


@lru_cache(maxsize=4096)
def role(name: str) -> str:
    """`text`, `label`, `ignored` or an empty string, by the words of a column name."""
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())
    if not words or len(words) > 3:
        return ""
    for what, known in (("ignored", IGNORED_WORDS), ("label", LABEL_WORDS), ("text", TEXT_WORDS)):
        if known.intersection(words):
            return what
    return ""


def profile(name: str, cells: Sequence[object]) -> Profile:
    """Counts over all cells of a column."""
    given = [cell for cell in cells if cell is not None and cell is not ABSENT and cell != ""]
    values = [cell for cell in given if type(cell) not in NESTED]
    # A few rows of another type are bad rows, not another kind of column.
    if len(values) * 2 < len(given):
        return Profile(name, len(given), len(given), 0, 0, False, False, False, True)
    texts = list(map(str, values))
    different = set(texts)
    numbers = {value for value in map(as_number, different) if value is not None}
    number = len(numbers) > 0.9 * len(different)
    whole = number and all(map(float.is_integer, numbers))
    contiguous = whole and numbers == set(map(float, range(len(numbers))))
    count = max(len(texts), 1)
    chars = sum(map(len, texts)) / count
    words = sum(text.count(" ") + 1 for text in texts) / count
    return Profile(name, len(texts), len(different), chars, words, number, whole, contiguous, False)


def as_number(value: str | float) -> float | None:
    """The finite number that is given or written, or None."""
    try:
        number = float(value)
    except (ValueError, OverflowError):  # Overflow: a whole number too large for a float
        return None
    # Python reads 1_000 as a number; people do not.
    return number if math.isfinite(number) and "_" not in str(value) else None
