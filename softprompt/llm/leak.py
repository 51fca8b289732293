"""Does a prompt repeat the examples it is judged on: runs of words that it shares with them."""

import re
from collections.abc import Iterable

GRAM = 8  # words in a row
LEAST = 4  # words that a text must have to count; shorter ones stand in many prompts by chance


def grams(text: str) -> set[tuple[str, ...]]:
    """Every run of eight words of a text; of a shorter one, all its words in a row."""
    words = re.findall(r"\w+", text.casefold())
    if len(words) < LEAST:
        return set()
    size = min(GRAM, len(words))
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


class Guard:
    """Knows the runs of words of some texts, and finds them in prompts."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.known: dict[int, set[tuple[str, ...]]] = {}
        for text in texts:
            for gram in grams(text):
                self.known.setdefault(len(gram), set()).add(gram)

    def found(self, prompt: str) -> str | None:
        """A run of words that the prompt shares with a known text, or None."""
        words = re.findall(r"\w+", prompt.casefold())
        for size, known in self.known.items():
            for i in range(len(words) - size + 1):
                if tuple(words[i : i + size]) in known:
                    return " ".join(words[i : i + size])
        return None
