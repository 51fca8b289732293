"""The names of the columns of a delimited file, from its first row or, where that is data, from the values."""

from collections import Counter
from collections.abc import Sequence

from softprompt.data.dataset import COLUMN_LIMIT, Columns, Table
from softprompt.data.problem import BadRows, Problem, quote
from softprompt.data.profile import as_number, profile, role
from softprompt.errors import DataError


def with_header(table: Table, columns: Columns | None) -> Table:
    """Name the columns, from the first row or without it, and refuse rows of another width."""
    if table.headless:
        raise BadRows(table.problems)  # without a sound first row nobody knows the names of the columns
    if not table.rows:
        return table
    _refuse_wide(len(table.rows[0]), table.where(table.lines[0]))
    first = [str(cell).strip() for cell in table.rows[0]]
    asked = _asked(columns)
    by_position = bool(asked) and all(name.isdecimal() for name in asked) and not set(asked) <= set(first)
    header, reason = header_reason(first, table.rows[1:], asked)
    if by_position or not header:
        width = Counter(map(len, table.rows)).most_common(1)[0][0]
        table.header = tuple(map(str, range(width)))
    else:
        table.header = tuple(name or str(at) for at, name in enumerate(first))
        del table.rows[0], table.lines[0]
        table.notes.append(f"the first row names the columns: {', '.join(table.header)[:200]}")
    _refuse_repeated(table)
    _refuse_widths(table)
    if not header and not by_position:
        table.header, table.nameless = headerless_names(table), True
        table.notes.append(f"no header ({reason}): columns named {', '.join(table.header)}")
    return table


def _asked(columns: Columns | None) -> list[str]:
    return [*columns.text, *([columns.label] if columns.label else [])] if columns else []


def _refuse_wide(width: int, where: str) -> None:
    if width > COLUMN_LIMIT:
        expected, do = f"at most {COLUMN_LIMIT:,}", "keep the columns that are needed; check the delimiter"
        raise DataError("SP-E109", f"{width:,} columns", expected, do, where=where)


def _refuse_repeated(table: Table) -> None:
    twice = [name for name, count in Counter(table.header).items() if count > 1]
    if twice:
        raise DataError(
            "SP-E114", f"column {quote(twice[0])} twice", "a name once", "rename one", where=f"{table.name}:1"
        )


def _refuse_widths(table: Table) -> None:
    width = len(table.header)
    kept = [at for at, cells in enumerate(table.rows) if len(cells) == width]
    if len(kept) == len(table.rows):
        return
    for line, cells in zip(table.lines, table.rows, strict=True):
        if len(cells) != width:
            code = "SP-E120" if len(cells) < width else "SP-E121"
            do = "add the missing cell" if len(cells) < width else "quote cells that hold the delimiter"
            found = f"{len(cells)} {'cell' if len(cells) == 1 else 'cells'}"
            expected = f"{width} ({', '.join(table.header[:6])}{', ...' if width > 6 else ''})"
            table.reject(Problem(table.where(line), code, found, expected, do))
    table.lines = [table.lines[at] for at in kept]
    table.rows = [table.rows[at] for at in kept]


def header_reason(first: list[str], rows: Sequence[Sequence[object]], asked: list[str]) -> tuple[bool, str]:
    """Whether the first row names the columns, and if not, why not."""
    if asked and set(asked) <= set(first):
        return True, ""
    known = [bool(role(name)) for name in first]
    below: list[set[object]] = [{row[at] for row in rows if at < len(row)} for at in range(min(len(first), 1000))]
    recurs = [name for name, values in zip(first, below, strict=False) if name and name in values]
    if recurs and not all(known):
        return False, f"{recurs[0][:40]!r} of the first row is also a value further down"
    numbers = any(as_number(name) is not None for name in first)
    # One word that could be a name is not enough where the rest reads like a row.
    if any(known) and (sum(known) > 1 or not numbers) and all(len(name.split()) <= 3 for name in first):
        return True, ""
    if numbers or not all(first) or not rows:
        return False, "the first row holds a number or an empty cell" if rows else "a single row"
    lengths = [sum(len(str(row[at])) for row in rows if at < len(row)) / len(rows) for at in range(len(below))]
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    short = len(first[longest]) * 2 < lengths[longest]
    return short, "" if short else "the first row is as long as the others"


def headerless_names(table: Table) -> tuple[str, ...]:
    """`text` and `label` for the columns that look it, positions for the others."""
    found = [profile(name, table.values(name)) for name in table.header]
    if len(found) == 1:
        return ("text",)
    labels = [column for column in found if column.few]
    texts = [column for column in found if column.words >= 3 and not column.number and not column.few]
    if len(found) == 2 and (len(labels) != 1 or len(texts) != 1):
        label = min(found, key=lambda column: (not column.number, column.chars))
        labels, texts = [label], [column for column in found if column is not label]
    if len(labels) != 1 or len(texts) != 1:
        return table.header
    names = {labels[0].name: "label", texts[0].name: "text"}
    return tuple(names.get(name, name) for name in table.header)
