"""What commands print: results on standard output, or one JSON document there; all else on standard error."""

import json
import math
import os
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any

WIDE = 10_000  # columns of an output that is no terminal: nothing is folded or cut there


def escaped(text: object) -> str:
    """Text in which control characters stand as escapes: what a file says must not steer the terminal."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") else c.encode("unicode_escape").decode()
        for c in str(text)
    )


def speaks() -> bool:
    """Whether this process prints: where a launcher has started several for one run, the first does."""
    return int(os.environ.get("WORLD_SIZE", "1")) < 2 or os.environ.get("RANK", "0") == "0"


def console(*, errors: bool) -> Any:
    """A rich console on standard error or standard output: no markup, no folding, NO_COLOR and pipes respected."""
    from rich.console import Console

    stream = sys.stderr if errors else sys.stdout
    width = None if stream.isatty() else WIDE
    quiet = not speaks()
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False, soft_wrap=True, quiet=quiet)


def note(text: object, style: str = "") -> None:
    """A line for people, on standard error."""
    console(errors=True).print(escaped(text), style=style)


def say(text: object = "", style: str = "") -> None:
    """A line of the result, on standard output."""
    console(errors=False).print(escaped(text), style=style)


def table(header: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """A table on standard output; plain aligned columns where that is no terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    screen = console(errors=False)
    shape = box.SIMPLE_HEAD if screen.is_terminal else None
    made = Table(title=title or None, title_justify="left", box=shape, pad_edge=False, header_style="bold")
    for name in header:
        made.add_column(Text(escaped(name)), overflow="fold")
    for row in rows:
        made.add_row(*(Text(escaped(cell)) for cell in row))
    screen.print(made, soft_wrap=False)


def document(value: Any) -> None:
    """The one JSON document of a command, on standard output. Numbers that JSON does not have become null."""
    if speaks():
        print(json.dumps(finite(value), ensure_ascii=False, indent=2, allow_nan=False))


def finite(value: Any) -> Any:
    """Plain values in which NaN and infinity are None."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def next_steps(*commands: str) -> None:
    """What to do now, as commands that can be copied, on standard error."""
    for i, command in enumerate(commands):
        note(f"{'next:' if i == 0 else '     '} {command}", style="cyan")


def size(count: int) -> str:
    """A number of bytes for people."""
    return (
        f"{count:,} B" if count < 1000 else f"{count / 1000:,.1f} kB" if count < 1_000_000 else f"{count / 1e6:,.1f} MB"
    )


def duration(seconds: float) -> str:
    """A time for people: 0:07, 12:30, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
