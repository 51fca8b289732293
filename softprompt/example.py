"""One row of a data set. Apart from `core`, so that reading and checking data needs no torch."""

from dataclasses import dataclass
from pathlib import Path

Label = str | float | tuple[str, ...] | None


@dataclass(frozen=True)
class Example:
    """One row of a data set, as read: nothing cut, nothing changed."""

    fields: dict[str, str | tuple[str, ...]]  # text by column; a tuple is a sentence already split into words
    label: Label = None  # class name, number, answer text, or one BIO tag a word
    image: Path | None = None
    where: str = ""  # "file:line", for messages
