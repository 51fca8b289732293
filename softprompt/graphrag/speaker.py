"""Who is asked: anything that answers messages, such as `llm.endpoint.Client`; counted, so that a plan can be kept."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from softprompt.errors import SoftpromptError
from softprompt.graphrag.forms import Messages
from softprompt.llm.endpoint import Answer

Made = TypeVar("Made")
TRIES = 3  # of a question whose answer cannot be used
GIVEN = ("domain", "language", "persona", "types")  # what a user may say instead
WARM = 0.7  # temperature of every answer after the first to the same messages


class Speaker(Protocol):
    """A language model."""

    def ask_all(
        self, many: Sequence[Messages], *, temperature: float = 0.0, rollouts: Sequence[int] | None = None
    ) -> list[Answer]:
        """The answers to many messages, in their order; `rollouts` numbers several answers to the same ones."""


class Meter:
    """Counts what is asked of a speaker, and says what may still be asked. An answer from a cache counts as well."""

    def __init__(self, speaker: Speaker, calls: int) -> None:
        self.speaker, self.calls = speaker, calls
        self.asked = self.tokens_in = self.tokens_out = 0

    @property
    def left(self) -> int:
        """Calls that may still be made."""
        return self.calls - self.asked

    def ask_all(self, many: Sequence[Messages], *, rollout: int = 0) -> list[Answer]:
        """The answers to many messages: at temperature 0, from the second rollout on at `WARM`."""
        self.asked += len(many)
        warm = WARM if rollout else 0.0
        answers = self.speaker.ask_all(many, temperature=warm, rollouts=[rollout] * len(many))
        self.tokens_in += sum(answer.tokens_in for answer in answers)
        self.tokens_out += sum(answer.tokens_out for answer in answers)
        return answers

    def want(self, question: str, about: str, read: Callable[[str], Made | None], what: str) -> Made:
        """Ask about a text until the answer can be read.

        Raises `SoftpromptError` SP-E794 where it never can.
        """
        told = f"{about}\n\n---\n{question}" if about else question
        for rollout in range(TRIES):
            [answer] = self.ask_all([[{"role": "user", "content": told}]], rollout=rollout)
            made = read(answer.text)
            if made:
                return made
        found = f"no {what} in {TRIES} answers, the last: {answer.text[:120]!r}"
        do = "ask another model" + (f", or give --{what}" if what in GIVEN else "")
        raise SoftpromptError("SP-E794", found, f"a usable {what}", do)


def line(text: str) -> str | None:
    """An answer of one line, without quotes and marks around it; None where there is none, or it is too long."""
    found = next((one.strip() for one in text.splitlines() if one.strip()), "")
    found = re.sub(r"^[\s\"'*`#-]+|[\s\"'*`]+$", "", found).rstrip(".")
    return found if 0 < len(found) <= 120 else None


def passage(text: str) -> str | None:
    """An answer of a few sentences; None where there is none, or it is too long."""
    found = " ".join(text.split()).strip("\"'* ")
    return found if 0 < len(found) <= 800 else None


def type_list(text: str) -> tuple[str, ...] | None:
    """An answer that is a list of types, also one that was cut off or is no JSON."""
    inside = text[text.find("[") :] if "[" in text else text
    try:
        made = json.loads(inside[: inside.rfind("]") + 1])
        names = [one for one in made if isinstance(one, str)]
    except ValueError:
        names = re.findall(r'"([^"\n]+)"', inside) or re.split(r"[,\n]", inside)
    return types_of(names) or None


def types_of(names: Sequence[str]) -> tuple[str, ...]:
    """Names of types in capitals, each once, without those that no target could take."""
    found: dict[str, None] = {}
    for name in names:
        one = " ".join(re.sub(r"^[\s\d.*\"'-]+|[\s.*\"']+$", "", name).split()).upper()
        if 0 < len(one) <= 40 and not re.search(r"[,;:|#\[\]<>]", one):
            found[one] = None
    return tuple(found)
