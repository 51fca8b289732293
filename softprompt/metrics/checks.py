"""What a metric refuses before it counts anything."""

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from softprompt.errors import SoftpromptError, near


def check_lengths(predictions: Sequence[Any], references: Sequence[Any], where: str | None = None) -> None:
    """Raises SP-E602 where the lengths differ."""
    if len(predictions) != len(references):
        raise SoftpromptError(
            "SP-E602",
            f"{len(predictions)} predictions for {len(references)} references",
            "one prediction for each reference",
            "score predictions against the data they were made from",
            where=where,
        )


def check_some(values: Sequence[Any]) -> None:
    """Raises SP-E601 where there is nothing."""
    if len(values) == 0:
        raise SoftpromptError("SP-E601", "no examples", "at least one", "check the split that is evaluated")


def check_texts(values: Iterable[object], what: str) -> None:
    """Raises SP-E603 at the first value that is not text: 1 and "1" would never be equal, and nobody would know."""
    for i, value in enumerate(values):
        if not isinstance(value, str):
            raise SoftpromptError(
                "SP-E603", f"{value!r} of type {type(value).__name__}", "text", "convert it to str", where=f"{what} {i}"
            )


def check_known(values: Iterable[str], labels: Collection[str] | None, what: str) -> None:
    """Raises SP-E604 at the first value outside `labels`; None allows all."""
    if labels is None:
        return
    allowed = frozenset(labels)
    for i, value in enumerate(values):
        if value not in allowed:
            raise SoftpromptError(
                "SP-E604",
                f"label {value!r}",
                f"one of {_listed(sorted(allowed))}",
                f"correct the label or add it to the task's labels{near(value, sorted(allowed))}",
                where=f"{what} {i}",
            )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def finite(values: Iterable[Any], what: str) -> list[float]:
    """The values as floats; raises SP-E603 at the first that is no finite number."""
    numbers = []
    for i, value in enumerate(values):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise SoftpromptError(
                "SP-E603", repr(value), "a finite number", "correct or remove it", where=f"{what} {i}"
            )
        numbers.append(number)
    return numbers
