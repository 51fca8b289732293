"""The model that writes prompts: asked, and what it writes let through or dropped by name."""

from collections import Counter
from collections.abc import Sequence

from softprompt.errors import RecipeError
from softprompt.llm.endpoint import Client, Messages
from softprompt.llm.leak import Guard
from softprompt.llm.wording import written

TEMPERATURE = 1.0  # of the writing model, as OPRO's (arXiv:2309.03409, section 5.1)
LONGEST = 4000  # characters of a prompt


class Writer:
    """Asks the writing model for prompts. `fate` counts what became of its answers, for the report."""

    def __init__(self, client: Client | None, guard: Guard) -> None:
        self.client, self.guard = client, guard
        self.known: set[str] = set()  # every prompt so far
        self.fate: Counter[str] = Counter()

    def write(self, asked: Sequence[Messages], first: int = 0) -> list[str | None]:
        """One new prompt for every request, None for an answer that is dropped. Samples are numbered from `first`.

        Raises `RecipeError` where there is no writing model.
        """
        if self.client is None:
            do = "give --optimizer-url and --optimizer-model"
            raise RecipeError("SP-E732", "no endpoint that writes prompts", "the address of one", do)
        numbers = range(first, first + len(asked))
        answers = self.client.ask_all(asked, temperature=TEMPERATURE, rollouts=list(numbers))
        made: list[str | None] = []
        for answer in answers:
            text = None if answer.finished == "length" else written(answer.text)
            fate = "cut off" if answer.finished == "length" else self.judge(text)
            self.fate[fate] += 1
            made.append(text if fate == "new" else None)
        return made

    def judge(self, text: str | None) -> str:
        """What becomes of a prompt: `new`, or why it is dropped. A new one is known from now on."""
        if text is None:
            return "without tags"
        if not text:
            return "empty"
        if len(text) > LONGEST:
            return "too long"
        if text in self.known:
            return "known"
        if self.guard.found(text) is not None:
            return "repeats an example"
        self.known.add(text)
        return "new"
