"""One row of a data set. Apart from `core`, so that reading and checking data needs no torch."""

from dataclasses import dataclass, field
from pathlib import Path

Label = str | float | tuple[str, ...] | None


@dataclass(frozen=True)
class Raster:
    """A greyscale image out of a file that holds many of them."""

    width: int
    height: int
    pixels: bytes = field(repr=False)  # row by row, 0 is black

    def read_bytes(self) -> bytes:
        """The content, as `Path.read_bytes` gives that of an image with a file of its own."""
        return self.pixels


@dataclass(frozen=True)
class Example:
    """One row of a data set, as read: nothing cut, nothing changed."""

    fields: dict[str, str | tuple[str, ...]]  # text by column; a tuple is a sentence already split into words
    label: Label = None  # class name, number, answer text, or one BIO tag a word
    image: Path | Raster | None = None
    where: str = ""  # "file:line", for messages
