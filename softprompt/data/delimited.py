"""CSV, TSV, `LABEL text` lines and plain lines, with the physical line of every row."""

import csv
import re

from softprompt.data.dataset import CELL_LIMIT, Columns, Table
from softprompt.data.header import with_header
from softprompt.data.problem import Problem
from softprompt.data.source import Text

CELL_END = re.compile(r"[,\n\r]")


def read_csv(text: Text, columns: Columns | None) -> Table:
    """RFC 4180 with `,`, read strictly: a quote that is not closed properly is an error on the line it opened."""
    table = Table(text.name, text.sha256, notes=list(text.notes))
    lines = text.lines()
    # The limit of the csv module is one for the whole process: put back what was there.
    before = csv.field_size_limit(CELL_LIMIT)
    try:
        at = 0
        while at < len(lines):
            at = _read_records(lines, at, text, table)
    finally:
        csv.field_size_limit(before)
    return with_header(table, columns)


def read_tsv(text: Text, columns: Columns | None) -> Table:
    """Tab separated lines as IANA defines them: no quoting, so a quotation mark is a character like any other."""
    table = Table(text.name, text.sha256, notes=list(text.notes))
    quoted = 0
    for line, row in _filled(text, table):
        cells = row.split("\t")
        quoted += any(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in cells)
        table.add(line, cells)
    if quoted:
        table.notes.append(f"{quoted} rows have cells in quotation marks: kept, because TSV has no quoting")
    return with_header(table, columns)


def read_label_text(text: Text) -> Table:
    """Lines of a label, white space, and the text; the whole first word is the label."""
    names = Columns(("text",), "label")
    table = Table(text.name, text.sha256, ("text", "label"), notes=list(text.notes), columns=names, nameless=True)
    for line, row in _filled(text, table):
        label, *rest = row.split(None, 1)
        table.add(line, (rest[0] if rest else "", label))
    return table


def read_lines(text: Text) -> Table:
    """One text a line, without labels."""
    names = Columns(("text",))
    table = Table(text.name, text.sha256, ("text",), notes=list(text.notes), columns=names, nameless=True)
    for line, row in _filled(text, table):
        table.add(line, (row,))
    return table


def _filled(text: Text, table: Table) -> list[tuple[int, str]]:
    """Sound lines that are not blank, without their ends; blank ones are counted, damaged ones rejected."""
    rows = []
    for line, row in enumerate(text.lines(), start=1):
        fault = text.damage(line, line)
        if fault:
            table.reject(fault)
        elif not row.strip():
            table.blank += 1
        else:
            rows.append((line, row.removesuffix("\n").removesuffix("\r")))
    return rows


def _read_records(lines: list[str], first: int, text: Text, table: Table) -> int:
    """Read records from line index `first` to the end or to the first broken one; the index to go on from."""
    reader = csv.reader((lines[i] for i in range(first, len(lines))), strict=True)
    done = 0
    try:
        for cells in reader:
            start, done = first + done + 1, reader.line_num
            fault = text.damage(start, first + done)
            if fault:
                table.reject(fault)
            elif cells:
                table.add(start, cells)
            else:
                table.blank += 1
    except csv.Error as error:
        broken = lines[first + done : first + reader.line_num]
        opened = first + done + _opened(broken)
        table.reject(_malformed(table.where(opened + 1), str(error), len(broken)))
        # Only the line of the open quote is lost: what follows is read as rows again.
        return opened + 1
    return len(lines)


def _malformed(where: str, error: str, lines: int) -> Problem:
    if "new-line" in error:
        do = "put the cell in quotation marks"
        return Problem(where, "SP-E107", "a carriage return in a cell", "rows that end alike", do)
    if "field limit" in error and lines == 1:
        expected = f"at most {CELL_LIMIT:,} characters a cell"
        return Problem(where, "SP-E109", "a longer cell", expected, "shorten or remove the row")
    do = 'close the quote, or write a quotation mark inside a quoted cell as ""'
    return Problem(where, "SP-E107", "a quote that opens here and is not closed properly", "balanced quotes", do)


def _opened(lines: list[str]) -> int:
    """The index of the line whose quote is the one the record broke on."""
    record = "".join(lines)
    at = opened = 0
    while at < len(record):
        if record[at] != '"':
            ends = CELL_END.search(record, at)
            at = ends.end() if ends else len(record)
            continue
        opened = at
        close = _closing(record, at + 1)
        if close < 0 or record[close + 1 : close + 2] not in ("", ",", "\n", "\r"):
            break
        at = close + 2
    return record.count("\n", 0, opened)


def _closing(record: str, at: int) -> int:
    """The first quotation mark that is not doubled, or -1."""
    while (at := record.find('"', at)) >= 0 and record[at + 1 : at + 2] == '"':
        at += 2
    return at
