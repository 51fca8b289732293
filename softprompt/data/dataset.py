"""What a data file becomes: examples, the columns they came from, and everything noticed on the way."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from softprompt.data.problem import Problem

if TYPE_CHECKING:  # core imports torch, and reading a `--help` must not
    from softprompt.example import Example

TaskKind = Literal["classification", "tagging", "generation", "regression"]
OnBadRow = Literal["fail", "skip", "report"]
CELL_LIMIT: Final = 1 << 20  # characters of one cell
COLUMN_LIMIT: Final = 1000


@dataclass(frozen=True)
class Columns:
    """Which columns are read. Empty `text`, or no `label`, means: find out."""

    text: tuple[str, ...] = ()  # in the order of the template
    label: str | None = None
    image: str | None = None


@dataclass
class Dataset:
    """Examples in file order, with what was inferred (`notes`) and what was found wrong (`problems`)."""

    examples: "list[Example]"
    columns: Columns
    kind: TaskKind
    labels: tuple[str, ...]  # class names or tags, sorted (as given, where they were given); else empty
    problems: list[Problem]
    sha256: str  # of the source's bytes
    source: str
    skipped: int = 0  # rows that are not in `examples` because they are wrong
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.examples)


class Absent:
    """The cell of a key that a JSON object does not have (which is not the same as null)."""

    def __repr__(self) -> str:
        return "nothing"


ABSENT: Final = Absent()


@dataclass
class Table:
    """Rows as a format delivers them, before anything is known about columns."""

    name: str  # of the source, for messages
    sha256: str
    header: tuple[str, ...] = ()
    lines: list[int] = field(default_factory=list)  # the physical line on which each row begins
    rows: list[Sequence[object]] = field(default_factory=list)  # each as long as the header
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bad: int = 0  # rows refused by the reader of the format
    blank: int = 0  # blank lines passed over
    columns: Columns | None = None  # formats that know what their columns are
    kind: TaskKind | None = None  # formats that hold only one kind
    nameless: bool = False  # the header is ours: a user's names may replace it
    headless: bool = False  # a bad row came before every sound one: it may have been the header
    step: int = 0  # lines from one word of a row to the next (CoNLL: 1)

    def add(self, line: int, cells: Sequence[object]) -> None:
        """Keep a row that begins on `line`."""
        self.lines.append(line)
        self.rows.append(cells)

    def reject(self, problem: Problem) -> None:
        """Count a row as bad, and say why."""
        self.problems.append(problem)
        self.bad += 1
        self.headless = self.headless or not self.rows

    def where(self, line: int, column: str = "") -> str:
        """`file:line`, or `file:line:column`."""
        return f"{self.name}:{line}:{column}" if column else f"{self.name}:{line}"

    def values(self, name: str) -> list[object]:
        """All cells of one column."""
        at = self.header.index(name)
        return [cells[at] for cells in self.rows]
