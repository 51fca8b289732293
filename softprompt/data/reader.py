"""Read a source of any format into a `Dataset`, or report all that is wrong with it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from softprompt.data import checks
from softprompt.data.dataset import ABSENT, Columns, Dataset, OnBadRow, Table, TaskKind
from softprompt.data.formats import format_of, load
from softprompt.data.infer import Plan, plan
from softprompt.data.problem import BadRows, Problem
from softprompt.data.rows import build
from softprompt.data.source import display
from softprompt.errors import DataError, near

WITH_LABELS: Final = ("classification", "tagging")
OF_THE_SET: Final = frozenset({"SP-E103", "SP-E130"})  # errors that skipping rows cannot mend


@dataclass(frozen=True)
class Report:
    """All that `softprompt data check` has to say about a source."""

    source: str
    dataset: Dataset | None  # None where the source could not be read at all
    problems: list[Problem]

    @property
    def ok(self) -> bool:
        """Whether nothing but warnings was found."""
        return not any(problem.severity == "error" for problem in self.problems)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-able values."""
        problems = [problem.as_dict() for problem in self.problems]
        facts = {} if self.dataset is None else _facts(self.dataset)
        return {"source": self.source, "ok": self.ok, **facts, "problems": problems}


def _facts(data: Dataset) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    if data.kind == "classification":
        counts.update(str(example.label) for example in data.examples)
    columns = {"text": list(data.columns.text), "label": data.columns.label, "image": data.columns.image}
    return {
        "rows": len(data.examples),
        "bad_rows": data.skipped,
        "kind": data.kind,
        "columns": columns,
        "labels": list(data.labels),
        "counts": dict(sorted(counts.items())),
        "sha256": data.sha256,
        "notes": data.notes,
    }


def read(
    source: str | Path,
    *,
    columns: Columns | None = None,
    kind: TaskKind | None = None,
    labels: Sequence[str] | None = None,
    on_bad_row: OnBadRow = "fail",
    format: str | None = None,
    encoding: str = "utf-8",
) -> Dataset:
    """Labelled data from a file, an image folder, `hub:name/config@split`, or `-` for standard input.

    What is not given is inferred, and `notes` says how. Raises DataError for a source that cannot be read and
    BadRows, holding every problem, for wrong rows; `skip` leaves those out and counts them, `report` also returns
    problems of the whole set.
    """
    _refuse_options(kind, on_bad_row)
    table = load(source, format or format_of(source, labelled=True), encoding, columns)
    return _apply(on_bad_row, _gather(table, columns, kind, labels, labelled=True))


def read_inputs(
    source: str | Path,
    columns: Columns | None = None,
    *,
    kind: TaskKind = "classification",
    on_bad_row: OnBadRow = "fail",
    format: str | None = None,
    encoding: str = "utf-8",
) -> Dataset:
    """Data to predict on: labels are read where there are some and None elsewhere; plain text is one text a line.

    `kind` says how labels are read. Standard input is JSON Lines where it starts with `{`. Raises like `read`.
    """
    _refuse_options(kind, on_bad_row)
    table = load(source, format or format_of(source, labelled=False), encoding, columns, labelled=False)
    return _apply(on_bad_row, _gather(table, columns, table.kind or kind, None, labelled=False))


def check(
    source: str | Path,
    *,
    columns: Columns | None = None,
    kind: TaskKind | None = None,
    labels: Sequence[str] | None = None,
    format: str | None = None,
    encoding: str = "utf-8",
    train: Dataset | None = None,
) -> Report:
    """Everything `read` would complain about, without stopping; with `train`, also what leaked from it."""
    _refuse_options(kind, "report")
    found: list[Problem] = []
    data = None
    try:
        table = load(source, format or format_of(source, labelled=True), encoding, columns)
        found = table.problems
        data = _gather(table, columns, kind, labels, labelled=True)
        found = data.problems + (checks.leakage(train, data) if train else [])
    except BadRows as error:
        found = error.problems
    except DataError as error:
        place = error.where or display(source)
        found = [*found, Problem(place, error.code, error.found[:80], error.expected, error.do)]
    return Report(display(source), data, found)


def _refuse_options(kind: str | None, on_bad_row: str) -> None:
    for value, allowed in ((kind, get_args(TaskKind)), (on_bad_row, get_args(OnBadRow))):
        if value is not None and value not in allowed:
            do = f"use one of them{near(value, list(allowed))}"
            raise DataError("SP-E115", f"'{value[:60]}'", f"one of: {', '.join(allowed)}", do)


def _gather(
    table: Table, columns: Columns | None, kind: TaskKind | None, labels: Sequence[str] | None, *, labelled: bool
) -> Dataset:
    """The data set with the sound examples and every problem."""
    if not table.rows and table.problems:
        raise BadRows(table.problems)
    if not table.rows:
        raise DataError("SP-E103", "no rows", "rows of data", "check how it was written", where=table.name)
    made = plan(table, columns, kind, labelled=labelled)
    if labels is not None and made.kind not in WITH_LABELS:
        made = _with_labels(made, kind, table.name)
    built = build(table, made.columns, made.kind, labelled=labelled)
    known: tuple[str, ...] = ()
    if labelled and made.kind in WITH_LABELS:
        known = checks.settle_labels(built, table, made.columns.label or "", labels)
    problems = [*table.problems, *built.problems, *checks.rare_keys(table, ABSENT)]
    if labelled:
        problems += checks.examine(built, made.kind, known, table.name, given=labels is not None)
    problems.sort(key=lambda problem: _line(problem, table.name))
    notes = [*table.notes, *made.notes]
    if table.blank:
        notes.append(f"{table.blank} blank {'line was' if table.blank == 1 else 'lines were'} skipped")
    skipped = table.bad + built.bad
    return Dataset(built.examples, made.columns, made.kind, known, problems, table.sha256, table.name, skipped, notes)


def _line(problem: Problem, name: str) -> float:
    """The line of a problem, to sort by; problems of the whole set come last."""
    line = problem.where.removeprefix(f"{name}:").partition(":")[0]
    return int(line) if line.isdecimal() else float("inf")


def _with_labels(made: Plan, kind: TaskKind | None, name: str) -> Plan:
    """A set of labels means classification, unless the caller said otherwise. Raises DataError then."""
    if kind is not None:
        do = "leave data.labels out, or --set task.kind=classification"
        raise DataError("SP-E115", f"labels for a {kind} task", "no labels", do, where=name)
    notes = [note for note in made.notes if not note.startswith("task:")]
    return Plan(made.columns, "classification", (*notes, "task: classification (labels were given)"))


def _apply(on_bad_row: OnBadRow, data: Dataset) -> Dataset:
    errors = [problem for problem in data.problems if problem.severity == "error"]
    if on_bad_row == "skip" and data.examples:
        errors = [problem for problem in errors if problem.code in OF_THE_SET]
    if errors and on_bad_row != "report":
        raise BadRows(errors)
    if data.skipped:
        data.notes.append(f"{data.skipped} bad {'row was' if data.skipped == 1 else 'rows were'} left out")
    return data
