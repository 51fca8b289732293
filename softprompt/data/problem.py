"""What is wrong with a data set, one line a finding."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from softprompt.errors import DataError

Severity = Literal["error", "warning"]
SHOWN = 56  # characters of a value in a message; with the words around it at most 80


@dataclass(frozen=True)
class Problem:
    """One finding: where it is, what was found there, what was expected, what to do."""

    where: str  # "file:line" or "file:line:column-name"; "file" where no line is to blame
    code: str
    found: str  # at most 80 characters
    expected: str
    do: str
    severity: Severity = "error"

    def error(self) -> DataError:
        """The same finding as an exception."""
        return DataError(self.code, self.found, self.expected, self.do, where=self.where)

    def line(self) -> str:
        """The finding on one line, in the form of every message of the package."""
        return str(self.error())

    def as_dict(self) -> dict[str, str]:
        """The finding as JSON-able values."""
        return asdict(self)


class BadRows(DataError):
    """Rows of a data set are wrong; `problems` holds every one of them, the message the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        first, more = problems[0], len(problems) - 1
        self.problems = list(problems)
        tail = f"; and {more} more (`softprompt data check` lists all)" if more else ""
        super().__init__(first.code, first.found, first.expected, first.do + tail, where=first.where)


class Wrong(Exception):
    """Inside the readers: one cell or line is wrong, as (code, found, expected, do); the caller knows where."""

    def at(self, where: str) -> Problem:
        """The problem, once the place is known."""
        code, found, expected, do = self.args
        return Problem(where, code, found, expected, do)


def quote(value: object) -> str:
    """A value as a message shows it: quoted, on one line, cut at 56 characters."""
    shown = repr(value[: SHOWN + 1]) if isinstance(value, str) else repr(value)
    return shown if len(shown) <= SHOWN else f"{shown[: SHOWN - 4]}...{shown[-1]}"
