"""JSON Lines, and a JSON file that holds a list of objects, with the line of every object."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from softprompt.data.dataset import ABSENT, COLUMN_LIMIT, Table
from softprompt.data.problem import Problem, Wrong, quote
from softprompt.data.source import DAMAGE, Text
from softprompt.errors import DataError

SPACE: Final = " \t\r\n"


class _Repeated(ValueError):
    """A key twice in one object, of which json would silently keep the last."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        name = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise _Repeated(f"key {quote(name)} twice")
    return made


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def read_jsonl(text: Text) -> Table:
    """One JSON object a line."""
    table = Table(text.name, text.sha256, notes=list(text.notes))
    found: list[tuple[int, dict[str, Any]]] = []
    lines = text.lines()
    for line, row in enumerate(lines, start=1):
        fault = text.damage(line, line)
        if fault:
            table.reject(fault)
        elif not row.strip():
            table.blank += 1
        else:
            try:
                found.append((line, _parse(row.strip(" \t\r\n"), line == len(lines))))
            except Wrong as wrong:
                table.reject(wrong.at(table.where(line)))
    return fill(table, found)


def _parse(row: str, last: bool) -> dict[str, Any]:
    """The object on one line. Raises Wrong."""
    try:
        return _checked(_DECODER.decode(row))
    except json.JSONDecodeError as error:
        if last and not row.endswith("}"):
            do = "the file ends inside a row: write it again, or remove the last line"
            raise Wrong("SP-E108", f"{quote(row)}, cut off", "a whole JSON object", do) from None
        raise _refused(row, error) from None
    except (ValueError, RecursionError) as error:
        raise _refused(row, error) from None


def _refused(row: str, error: Exception) -> Wrong:
    if isinstance(error, _Repeated):
        return Wrong("SP-E108", str(error), "each key once", "remove or rename one of them")
    if isinstance(error, json.JSONDecodeError):
        do = f"mend the JSON: {error.msg} at column {error.colno}"
        return Wrong("SP-E108", quote(row), "a JSON object", do)
    # Left are integers of more than 4300 digits and thousands of nested brackets.
    return Wrong("SP-E108", quote(row), "JSON of reasonable size and depth", "remove the row")


def _checked(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        do = 'write each row as {"text": ..., "label": ...}'
        raise Wrong("SP-E122", quote(value), "a JSON object", do)
    if len(value) > COLUMN_LIMIT:
        raise Wrong("SP-E109", f"{len(value):,} keys", f"at most {COLUMN_LIMIT:,}", "keep the keys that are needed")
    return value


def read_json(text: Text) -> Table:
    """A JSON list of objects; anything else is read as JSON Lines."""
    body = text.text.lstrip(SPACE)
    if not body.startswith("["):
        _refuse_document(text, body)
        return read_jsonl(text)
    table = Table(text.name, text.sha256, notes=list(text.notes))
    found: list[tuple[int, dict[str, Any]]] = []
    try:
        for first, last, value in _elements(text):
            fault = text.damage(first, last)
            try:
                if fault:
                    table.reject(fault)
                else:
                    found.append((first, _checked(value)))
            except Wrong as wrong:
                table.reject(wrong.at(table.where(first)))
    except _Broken as broken:
        table.reject(broken.args[0])
    return fill(table, found)


class _Broken(Exception):
    """The list cannot be read on: where the next object begins cannot be told."""


def _elements(text: Text) -> Iterator[tuple[int, int, Any]]:
    """The values of a list, each with its first and last line. Raises _Broken with the Problem."""
    body, line, counted = text.text, 1, 0
    at = body.index("[") + 1
    expected = "a value"
    while True:
        start = _skip(body, at)
        line, counted = line + body.count(text.newline, counted, start), start
        if body[start : start + 1] == "]":
            return
        if expected == "a comma":
            if body[start : start + 1] != ",":
                raise _broken(text, start, line, "a comma is missing")
            expected, at = "a value", start + 1
            continue
        try:
            value, at = _DECODER.raw_decode(body, start)
        except _Repeated as error:
            raise _broken(text, start, line, str(error)) from None
        except (ValueError, RecursionError) as error:
            raise _broken(text, start, line, str(error).partition(":")[0]) from None
        yield line, line + body.count(text.newline, start, at), value
        expected = "a comma"


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in SPACE:
        at += 1
    return at


def _broken(text: Text, start: int, line: int, reason: str) -> _Broken:
    if start >= len(text.text):
        found, do = "the end of the file", "the list is cut off: write the file again"
    else:
        found, do = quote(text.text[start : start + 60]), f"mend the JSON ({reason})"
    expected = "a JSON list of objects (rows from here on were not read)"
    return _Broken(Problem(f"{text.name}:{line}", "SP-E108", found, expected, do))


def _refuse_document(text: Text, body: str) -> None:
    """A single object over several lines is not a data set: say which keys it has."""
    if body.partition("\n")[0].rstrip().endswith("}"):
        return
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return
    keys = ", ".join(list(value)[:5]) if isinstance(value, dict) else ""
    do = "write the part you need as a list of objects, or as one object a line"
    raise DataError("SP-E108", f"one object with keys {keys}"[:80], "a list of objects", do, where=text.name)


def fill(table: Table, found: list[tuple[int, dict[str, Any]]]) -> Table:
    """Objects as rows of equal width; a key that an object lacks becomes ABSENT."""
    counts = Counter(key for _, value in found for key in value)
    if len(counts) > COLUMN_LIMIT:
        expected, do = f"at most {COLUMN_LIMIT:,}", "give all objects the same keys"
        raise DataError("SP-E109", f"{len(counts):,} different keys", expected, do, where=table.name)
    table.header = tuple(counts)
    for name in filter(DAMAGE.search, table.header):
        raise DataError("SP-E105", f"the key {quote(name)}", "Unicode text", "rename it", where=table.name)
    for line, value in found:
        table.add(line, [value.get(key, ABSENT) for key in table.header])
    return table
