"""What the package says when something is wrong: one line, a stable code, and what to do about it."""

from typing import ClassVar


class SoftpromptError(Exception):
    """Something a user can mend: what was found, what was expected, what to do.

    The text is one line, `SP-E101 reviews.csv:12: found ...; expected ...; do: ...`, and the code never changes
    meaning between releases (docs/errors.md lists all of them).
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, code: str, found: str, expected: str, do: str, *, where: str | None = None) -> None:
        self.code, self.found, self.expected, self.do, self.where = code, found, expected, do, where
        place = f" {where}:" if where else ""
        super().__init__(" ".join(f"{code}{place} found {found}; expected {expected}; do: {do}".split()))

    def as_dict(self) -> dict[str, str | None]:
        """The same facts for `--json` and for the server's error bodies."""
        return {
            "code": self.code,
            "where": self.where,
            "found": self.found,
            "expected": self.expected,
            "do": self.do,
            "message": str(self),
        }


class DataError(SoftpromptError):
    """A data file or an example is wrong (SP-E1xx)."""


class RecipeError(SoftpromptError):
    """A recipe, an option or a command line is wrong (SP-E2xx)."""


class ArtifactError(SoftpromptError):
    """A prompt file is damaged, unsafe or meant for another backbone (SP-E3xx)."""


class BackboneError(SoftpromptError):
    """A backbone cannot be loaded or used (SP-E4xx)."""


class Unsupported(BackboneError):
    """A backbone family cannot do what was asked; nothing was silently ignored (SP-E41x)."""


class TrainingError(SoftpromptError):
    """A run cannot start, go on or be resumed (SP-E5xx)."""


def near(name: str, choices: list[str]) -> str:
    """`" (did you mean 'x'?)"` for the closest of `choices`, or an empty string."""
    from difflib import get_close_matches

    match = get_close_matches(name, choices, n=1)
    return f" (did you mean '{match[0]}'?)" if match else ""
