"""Filters of a search: `accuracy>=0.9` asks a metric, `method.name=prefix` asks the card."""

import json
import re
import sqlite3
from dataclasses import dataclass

from softprompt.errors import SoftpromptError, near

FILTER = re.compile(r"\s*([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)\s*(>=|<=|!=|=|>|<)\s*(.*?)\s*", re.DOTALL)


@dataclass(frozen=True)
class Filter:
    """One condition: a metric, or a key of the card with a dot in it; how to compare; with what."""

    key: str
    sign: str
    value: str | float

    @property
    def of_card(self) -> bool:
        """Whether the key is one of the card."""
        return "." in self.key

    def clause(self) -> tuple[str, list[str | float]]:
        """The condition in SQL for a row `v` of `versions`, and its values."""
        if self.of_card:
            path, sign = _path(self.key), {"=": "IS", "!=": "IS NOT"}.get(self.sign, self.sign)
            test = f"json_extract(c.card, ?) {sign} ?"
            return f"EXISTS (SELECT 1 FROM cards c WHERE c.sha256 = v.sha256 AND {test})", [path, self.value]
        test = f"s.name = ? AND s.value {self.sign} ?"
        return f"EXISTS (SELECT 1 FROM scores s WHERE s.sha256 = v.sha256 AND {test})", [self.key, self.value]


def parse(text: str) -> Filter:
    """The filter of a text; raises `SoftpromptError` SP-E615 for what is none."""
    match = FILTER.fullmatch(text)
    expected, do = "KEY=VALUE, or with != > < >= <= between", "write it as accuracy>=0.9 or method.name=prefix"
    if match is None or not match[3]:
        raise SoftpromptError("SP-E615", f"the filter {text[:60]!r}", expected, do)
    made = Filter(match[1], match[2], _value(match[3]))
    if isinstance(made.value, str) and not made.of_card:
        raise SoftpromptError("SP-E615", f"{made.value[:40]!r} for the metric {made.key}", "a number", do)
    return made


def check_known(index: sqlite3.Connection, one: Filter) -> None:
    """Raise `SoftpromptError` SP-E615 for a key that no prompt has: it would find nothing, whatever is there."""
    if one.of_card:
        found = index.execute(
            "SELECT 1 FROM cards WHERE json_type(card, ?) IS NOT NULL LIMIT 1", (_path(one.key),)
        ).fetchone()
        if found is None and index.execute("SELECT 1 FROM cards LIMIT 1").fetchone():
            expected, do = "a key of a card", "look at one with `softprompt show PROMPT --json`"
            raise SoftpromptError("SP-E615", f"the key {one.key!r}, which no prompt has", expected, do)
        return
    names = [name for (name,) in index.execute("SELECT DISTINCT name FROM scores")]
    if names and one.key not in names:
        found_name = f"the metric {one.key!r}, which no prompt has{near(one.key, names)}"
        do = "use one of these; keys of the card have a dot, as in task.kind"
        raise SoftpromptError("SP-E615", found_name, f"one of {', '.join(sorted(names)[:20])}", do)


def _path(key: str) -> str:
    return "$" + "".join(f'."{part}"' for part in key.split("."))


def _value(text: str) -> str | float:
    """A number or a boolean where the text is one, as SQLite gives those of JSON; else the text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return float(value) if isinstance(value, int | float) else str(value) if isinstance(value, str) else text
