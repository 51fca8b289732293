"""The language of templates: `{soft:20}{text} It was {mask}.` as a list of pieces."""

import re
from dataclasses import dataclass
from typing import Literal

from softprompt.errors import RecipeError

PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|([{}])")
COUNT = re.compile(r"[1-9][0-9]{0,3}|10000")
MARKERS = ("soft", "mask", "bos", "sep")


@dataclass(frozen=True)
class Piece:
    """One part of a template: `soft` (n vectors), `field`, `text`, or a marker (`mask`, `bos`, `sep`)."""

    kind: Literal["soft", "field", "text", "mask", "bos", "sep"]
    value: str = ""
    count: int = 0


def parse(template: str, length: int) -> list[Piece]:
    """The pieces of a template; `{soft}` alone takes all of the method's `length` vectors.

    Raises `RecipeError` for unbalanced braces and bad counts.
    """
    pieces: list[Piece] = []
    end = 0
    for match in [*PIECE.finditer(template), None]:
        literal = template[end : match.start()] if match else template[end:]
        if match and match.group(0) in ("{{", "}}"):
            literal += match.group(0)[0]
        if literal and pieces and pieces[-1].kind == "text":
            pieces[-1] = Piece("text", pieces[-1].value + literal)
        elif literal:
            pieces.append(Piece("text", literal))
        if match is None:
            break
        end = match.end()
        if match.group(2):
            raise wrong(
                template, f"a lone {match.group(2)!r} at character {match.start() + 1}", "write {{ or }} for a brace"
            )
        if match.group(1) is not None:
            pieces.append(marker(template, match.group(1), length))
    return pieces


def marker(template: str, name: str, length: int) -> Piece:
    """The piece that `{name}` stands for."""
    head, colon, count = name.partition(":")
    if head == "soft":
        if colon and not COUNT.fullmatch(count):
            raise wrong(template, f"{{{name}}}", "give a count from 1 to 10000, as in {soft:20}")
        return Piece("soft", count=int(count or length))
    if colon or not head:
        raise wrong(template, f"{{{name}}}", "write the name of a column; only {soft:N} takes a number")
    if head in MARKERS:
        return Piece(head, head)  # type: ignore[arg-type]
    return Piece("field", head)


def writable(column: str) -> bool:
    """Whether a template can name this column: it is no marker and has no brace or colon."""
    return bool(column) and column not in MARKERS and not set("{}:") & set(column)


def wrong(template: str, found: str, do: str) -> RecipeError:
    """A template that cannot be read."""
    return RecipeError("SP-E220", f"{found[:200]} in template {template[:200]!r}", "a template as in docs/tasks.md", do)
