"""What a run may spend at all endpoints together: reserved before a call goes out, so it is never exceeded."""

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from softprompt.errors import SoftpromptError

SPARE = 10  # one call in ten is kept for repeats of those that fail


class Spent(SoftpromptError):
    """The budget does not allow another call (SP-E735)."""


@dataclass(frozen=True)
class Usage:
    """Tokens and their price."""

    tokens: int = 0
    cost: float = 0.0


class Budget:
    """At most `calls` requests over the wire, and, where given, `tokens` in and out and `cost` in the prices' money.

    One budget is shared by all clients of a run and by their threads. Every attempt counts, failed ones too. `past` are
    the events of a log: what earlier processes spent. Of a call that was on its way when its process died nobody knows
    what it used, so what was reserved for it stays spent.
    """

    def __init__(
        self, calls: int, tokens: int | None = None, cost: float | None = None, past: Sequence[dict[str, Any]] = ()
    ) -> None:
        self.calls, self.tokens, self.cost = calls, tokens, cost
        self.spent = 0  # requests over the wire
        self.used = Usage()  # by them; for those on their way, the most that they may use
        self.asked, self.needed = 0, Usage()  # different requests that were answered in this process, and what they use
        self.kept, self.least = 0, Usage()  # calls, and tokens and cost, that may not be spent yet
        self.lock = Lock()
        self._recall(past)

    def _recall(self, past: Sequence[dict[str, Any]]) -> None:
        open_calls: dict[str, Usage] = {}
        for event in past:
            if event["event"] == "sent":
                self.spent += 1
                open_calls[event["call"]] = Usage(event["tokens"], event["cost"])
            elif event["event"] in ("answered", "failed"):
                open_calls[event["call"]] = Usage(event["tokens"], event["cost"])
        for one in open_calls.values():
            self.used = Usage(self.used.tokens + one.tokens, self.used.cost + one.cost)

    @property
    def plannable(self) -> int:
        """Different requests that may still be asked, if no more than one in ten has to be repeated.

        It does not depend on how many were: a run that was killed and went on plans as one that was not.
        """
        return (self.calls - self.kept) * (SPARE - 1) // SPARE - self.asked

    def fits(self, calls: int, each: Usage) -> bool:
        """Whether so many requests may be planned, each of which uses so much at most."""
        tokens = self.needed.tokens + self.least.tokens + calls * each.tokens
        cost = self.needed.cost + self.least.cost + calls * each.cost
        rich = (self.tokens is None or tokens <= self.tokens) and (self.cost is None or cost <= self.cost)
        return rich and calls <= self.plannable

    def keep(self, calls: int, least: Usage) -> None:
        """Keep calls, and what they may use, for the end of a run."""
        self.kept, self.least = calls, least

    def release(self) -> None:
        """The end has come."""
        self.keep(0, Usage())

    def plan(self, used: Usage) -> None:
        """Count a request that was answered, now or in an earlier process, and what it used."""
        with self.lock:
            self.asked += 1
            self.needed = Usage(self.needed.tokens + used.tokens, self.needed.cost + used.cost)

    def reserve(self, most: Usage) -> None:
        """Take a call, and the most that it may use, out of the budget; raises `Spent` where that would exceed it."""
        with self.lock:
            tokens, cost = self.used.tokens + most.tokens, self.used.cost + most.cost
            kept = self.least
            if self.spent + 1 > self.calls - self.kept:
                raise spent(f"{self.spent:,} of {self.calls:,} calls made, {self.kept:,} kept for the end", "calls")
            if self.tokens is not None and tokens + kept.tokens > self.tokens:
                raise spent(f"{self.used.tokens:,} of {self.tokens:,} tokens used", "tokens")
            if self.cost is not None and cost + kept.cost > self.cost:
                raise spent(f"{self.used.cost:.4f} of {self.cost:.4f} spent", "cost")
            self.spent += 1
            self.used = Usage(tokens, cost)

    def settle(self, most: Usage, used: Usage) -> None:
        """Replace what was reserved for a call by what it used."""
        with self.lock:
            self.used = Usage(self.used.tokens - most.tokens + used.tokens, self.used.cost - most.cost + used.cost)

    def facts(self) -> dict[str, Any]:
        """What was spent, as plain values."""
        return {
            "calls": self.spent,
            "limit": self.calls,
            "asked": self.asked,
            "tokens": self.used.tokens,
            "cost": round(self.used.cost, 6),
        }


def spent(found: str, what: str) -> Spent:
    """The error of a budget that is used up."""
    return Spent("SP-E735", found, "room for another call", f"give a larger --{what}, in a new folder")
