"""A number with its uncertainty: the only form in which the package reports a metric."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from softprompt.errors import SoftpromptError


@dataclass(frozen=True)
class Score:
    """A metric's value with the half-width of its 95 % interval."""

    name: str
    value: float
    error: float  # half-width of the 95 % interval, in the unit of `value`
    n: int  # examples (sentences in tagging)
    seeds: int = 1  # 1: the interval is over examples; more: over training seeds

    def __str__(self) -> str:
        seeds = f", {self.seeds} seeds" if self.seeds > 1 else ""
        return f"{self.value:.3f} ±{self.error:.3f} (n={self.n}{seeds})"

    def as_dict(self) -> dict[str, str | float | int]:
        """The fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Score":
        """The score that `as_dict` wrote; raises SP-E603 where a field is missing, unknown or no number."""
        try:
            score = cls(**data)
            return cls(str(score.name), float(score.value), float(score.error), int(score.n), int(score.seeds))
        except (TypeError, ValueError) as error:
            raise SoftpromptError(
                "SP-E603",
                f"a score of {dict(data)!r}",
                "name, value, error, n and seeds",
                "write it with Score.as_dict",
            ) from error
