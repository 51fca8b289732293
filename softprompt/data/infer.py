"""Which column is the text, which the label, what kind of task it is: from names, values and counts."""

import re
from dataclasses import dataclass, replace
from typing import Final

from softprompt.data.dataset import Columns, Table, TaskKind
from softprompt.data.profile import ANSWER_WORDS, Profile, profile, role
from softprompt.errors import DataError, near

FEW: Final = 20  # more different numbers than this are a quantity, not class numbers


@dataclass(frozen=True)
class Plan:
    """What will be read as what, and the sentences that say why."""

    columns: Columns
    kind: TaskKind
    notes: tuple[str, ...]


def plan(table: Table, columns: Columns | None, kind: TaskKind | None, *, labelled: bool = True) -> Plan:
    """Columns and kind of task; what the caller gave is kept. Raises DataError where it cannot be told."""
    given = columns or Columns()
    if table.nameless and table.columns is None and "text" in table.header:
        table.columns = Columns(("text",), "label" if "label" in table.header else None)
    if table.columns is not None:
        _rename(table, given)
    known = table.columns or given
    for name in (*known.text, known.label, known.image):
        if name is not None and name not in table.header and (labelled or name != known.label):
            raise _no_column(table, name)
    notes: list[str] = []
    seen = {name: profile(name, table.values(name)) for name in table.header}
    if known.label is None and (labelled or columns is None):
        label = _label(table, [seen[name] for name in table.header if name not in known.text], labelled, notes)
        known = replace(known, label=label)
    if not known.text and known.image is None:
        rest = [seen[name] for name in table.header if name != known.label]
        known = replace(known, text=_text(table, rest, notes))
    decided = kind or table.kind
    if decided is None and known.label in seen:
        decided, why = _kind(seen[known.label])
        notes.append(f"task: {decided} ({why})")
    return Plan(known, decided or "classification", tuple(notes))


def _rename(table: Table, given: Columns) -> None:
    """Give the columns of a file without names the names the caller uses."""
    own = table.columns or Columns()
    if len(given.text) > len(own.text):
        found = f"{len(own.text)} text columns in a file without column names"
        expected = f"{len(given.text)}: {', '.join(given.text)}"
        raise DataError("SP-E112", found, expected, "use a file with a header", where=table.name)
    names = dict(zip(own.text, given.text, strict=False))
    if own.label and given.label:
        names[own.label] = given.label
    if own.image and given.image:
        names[own.image] = given.image
    table.header = tuple(names.get(name, name) for name in table.header)
    label = names.get(own.label, own.label) if own.label else None
    image = names.get(own.image, own.image) if own.image else None
    table.columns = Columns(tuple(names.get(name, name) for name in own.text), label, image)


def _no_column(table: Table, name: str) -> DataError:
    hint = near(name[:100], list(table.header))
    shown = ", ".join(table.header[:8])[:200]
    do = f"correct the name{hint}, as in --set data.text=[...] or --set data.label=..."
    return DataError("SP-E112", f"no column '{name[:50]}'", f"one of: {shown}", do, where=table.name)


def _label(table: Table, rest: list[Profile], labelled: bool, notes: list[str]) -> str | None:
    named = [column for column in rest if role(column.name) == "label"]
    why = "by its name"
    if not named and labelled:
        others = [column for column in rest if not role(column.name)]
        named, why = [column for column in others if column.few], "its values recur"
        if not named and len(rest) > 1 and len(others) == 1:
            named, why = others, "the only column left"
    if len(named) == 1:
        notes.append(f"label: '{named[0].name}' ({why}; {named[0].distinct} different values)")
        return named[0].name
    if not labelled:
        return None
    candidates = [column.name for column in named or rest]
    found = f"{len(named)} columns that may be the label" if named else "no column that looks like the label"
    do = f"say which: --set data.label={candidates[0] if candidates else 'COLUMN'}"
    shown = ", ".join(candidates)[:200]
    raise DataError("SP-E113", found, f"one of: {shown}", do, where=table.name)


def _text(table: Table, rest: list[Profile], notes: list[str]) -> tuple[str, ...]:
    named = [column for column in rest if role(column.name) == "text"]
    if named:
        notes.append(f"text: {', '.join(column.name for column in named)} (by name)")
        return tuple(column.name for column in named)
    open_ = [column for column in rest if role(column.name) == "" and not column.number]
    free = [column for column in open_ if column.words >= 3] or open_
    if len(free) == 1:
        notes.append(f"text: '{free[0].name}' (the only column of free text)")
        return (free[0].name,)
    found = f"{len(free)} columns that may be the text" if free else "no column that looks like text"
    names = [column.name for column in free or rest]
    do = f"say which: --set data.text=[{names[0] if names else 'COLUMN'}]"
    raise DataError("SP-E113", found, f"one of: {', '.join(names)[:200]}", do, where=table.name)


def _kind(label: Profile) -> tuple[TaskKind, str]:
    count = f"{label.distinct} different values in {label.filled} rows"
    if label.nested:
        return "tagging", "labels are lists"
    if label.number and label.contiguous and label.few:
        return "classification", f"class numbers without a gap, {count}"
    if label.number and (label.distinct > FEW if label.whole else label.distinct > 5 or not label.few):
        return "regression", f"numbers, {count}"
    if label.few or label.number:
        return "classification", count
    answer = bool(ANSWER_WORDS.intersection(re.findall(r"[a-z]+", label.name.lower())))
    if label.words >= 3 or label.chars > 64 or (answer and label.distinct > label.filled / 2):
        return "generation", f"free text, {count}"
    return "classification", f"short labels, {count}"
