"""One row of a table as an `Example`, or what is wrong with it."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from softprompt.data.dataset import ABSENT, CELL_LIMIT, Absent, Columns, Table, TaskKind
from softprompt.data.problem import Problem, Wrong, quote
from softprompt.data.profile import as_number
from softprompt.data.source import DAMAGE, display
from softprompt.example import Example, Label, Raster

Value = str | tuple[str, ...]
NULLS: Final = frozenset({"na", "n/a", "#n/a", "<na>", "nan", "null", "none", "nil"})
TYPES: Final[dict[type, str]] = {
    type(None): "",
    Absent: "",
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    tuple: "a list",
    dict: "an object",
}


@dataclass
class Built:
    """The sound rows, with the line each began on, and the problems of the others."""

    examples: "list[Example]" = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    bad: int = 0


def build(table: Table, columns: Columns, kind: TaskKind, *, labelled: bool) -> Built:
    """Examples of all sound rows. Without `labelled`, a label may be missing; one that is there must be sound."""
    built = Built()
    read_text: Callable[[object], Value] = words_of if kind == "tagging" else text_of
    read_label = _label_reader(table, columns, kind, labelled)
    at = {name: place for place, name in enumerate(table.header)}
    texts = [(name, at[name]) for name in columns.text]
    label_at, image_at = at.get(columns.label or ""), at.get(columns.image or "")
    for line, cells in zip(table.lines, table.rows, strict=True):
        faults: list[Problem] = []
        fields: dict[str, Value] = {}
        for name, place in texts:
            try:
                value = fields[name] = read_text(cells[place])
                if len(value) <= 5 and str(value).strip().lower() in NULLS:
                    built.problems.append(_null_text(table.where(line, name), value))
            except Wrong as wrong:
                faults.append(wrong.at(table.where(line, name)))
        label: Label = None
        image = None
        try:
            label = None if label_at is None else read_label(cells[label_at])
            if kind == "tagging" and label is not None and not faults:
                _refuse_uneven(fields, label)
            image = None if image_at is None else _image(cells[image_at], table.name)
        except Wrong as wrong:
            faults.append(wrong.at(table.where(line, columns.label or "")))
        if faults:
            built.bad += 1
            built.problems.extend(faults)
        else:
            where = table.where(line) if line else display(str(image or ""))
            built.examples.append(Example(fields, label, image, where))
            built.lines.append(line)
    return built


def _null_text(where: str, value: object) -> Problem:
    do = "remove the row if it means that the text is missing"
    return Problem(where, "SP-W101", f"the text {quote(value)}", "a text (it is kept as one)", do, "warning")


def _refuse_uneven(fields: dict[str, Value], tags: object) -> None:
    for words in fields.values():
        if isinstance(tags, tuple) and len(words) != len(tags):
            found = f"{len(tags)} tags for {len(words)} words"
            raise Wrong("SP-E127", found, "one tag a word", "mend the row")


def _image(cell: object, source: str) -> "Path | Raster":
    """An image in memory, or the path of one, relative to the file that names it."""
    if isinstance(cell, Raster):
        return cell
    path = cell if isinstance(cell, Path) else Path(source).parent / text_of(cell)
    if not path.is_file():
        raise Wrong("SP-E129", quote(str(cell)), "the path of an image file", "correct the path, relative to the data")
    return path


def text_of(cell: object) -> str:
    """The text of a cell, unchanged. Raises Wrong."""
    if not isinstance(cell, str):
        raise _not_text(cell, "text")
    if not cell.strip():
        found = "an empty text" if not cell else f"only white space, {quote(cell)}"
        raise Wrong("SP-E123", found, "text", "add the text or remove the row")
    _refuse_unsound(cell)
    return cell


def words_of(cell: object) -> tuple[str, ...]:
    """The words of a cell that holds a list of them. Raises Wrong."""
    if not isinstance(cell, list | tuple):
        raise _not_text(cell, "a list of words")
    if not cell:
        raise Wrong("SP-E123", "a sentence without words", "words", "remove the row")
    return tuple(map(text_of, cell))


def _not_text(cell: object, expected: str) -> Wrong:
    if cell is None or cell is ABSENT:
        return Wrong("SP-E120", "null" if cell is None else "no such field", expected, "add it or remove the row")
    do = "put it in quotation marks" if expected == "text" else 'write it as ["word", ...]'
    return Wrong("SP-E122", _typed(cell), expected, do)


def _refuse_unsound(cell: str) -> None:
    if len(cell) > CELL_LIMIT:
        expected = f"at most {CELL_LIMIT:,} a cell"
        raise Wrong("SP-E109", f"{len(cell):,} characters", expected, "shorten or remove the row")
    damage = DAMAGE.search(cell)
    if damage is not None and damage[0] == "\0":
        raise Wrong("SP-E106", f"a NUL in {quote(cell)}", "text without NUL", "remove it")
    if damage is not None:
        found = f"{quote(damage[0])}, which is no character"
        raise Wrong("SP-E105", found, "Unicode text", "write the row again as UTF-8")


def _type(cell: object) -> str:
    """The type of a value in words; an empty string for no value."""
    return TYPES.get(type(cell), type(cell).__name__)


def _typed(cell: object) -> str:
    return f"{quote(cell)} ({_type(cell)})"


def _label_reader(table: Table, columns: Columns, kind: TaskKind, labelled: bool) -> "Callable[[object], Label]":
    """How labels of this kind are read; where types are mixed, the commonest one is right."""
    read = {"classification": _class, "generation": _class, "regression": _number, "tagging": _tags}[kind]
    types: Counter[str] = Counter()
    if columns.label in table.header and read is _class:
        types = Counter(filter(None, map(_type, table.values(columns.label))))
    common = types.most_common(1)[0][0] if types else ""
    mixed = len(types) > 1

    def label(cell: object) -> "Label":
        if cell is None or cell is ABSENT or cell == "":
            if not labelled:
                return None
            found = "null" if cell is None else "no such field" if cell is ABSENT else "an empty label"
            raise Wrong("SP-E120", found, "a label", "add it or remove the row")
        if mixed and _type(cell) != common:
            raise Wrong("SP-E126", _typed(cell), f"{common}, as in most rows", "write all labels the same way")
        return read(cell)

    return label


def _class(cell: object) -> "Label":
    if isinstance(cell, str):
        if not cell.strip():
            raise Wrong("SP-E120", "an empty label", "a label", "add it or remove the row")
        _refuse_unsound(cell)
        return cell
    if isinstance(cell, bool | int | float):
        return json.dumps(cell)
    raise Wrong("SP-E122", _typed(cell), "one label", "write one label a row")


def _number(cell: object) -> "Label":
    value = None if isinstance(cell, bool) else as_number(cell) if isinstance(cell, str | int | float) else None
    if value is None:
        raise Wrong("SP-E128", quote(cell), "a finite number", "correct it, or --set task.kind=classification")
    return value


def _tags(cell: object) -> "Label":
    if not isinstance(cell, list | tuple):
        raise Wrong("SP-E122", _typed(cell), "a list of tags", 'write it as ["O", "B-...", ...]')
    for tag in cell:
        if _type(tag) not in ("text", "a number") or not str(tag).strip():
            raise Wrong("SP-E122", quote(tag), "a tag for each word", "correct the tag")
        _refuse_unsound(str(tag))
    return tuple(map(str, cell))
