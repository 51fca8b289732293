"""What is asked of a tokenizer: the ids around a text, an answer as it goes on after text, and text cut by tokens."""

import hashlib
import json
from bisect import bisect_right
from itertools import accumulate
from typing import Any, Literal

Truncate = Literal["tail", "head", "error"]
Span = tuple[int, int]  # from and up to which character


def specials(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids that a tokenizer puts in front of and behind a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start], full[start + len(bare) :]
    return [], []


def continuation(tokenizer: Any, text: str, lead: str = " ") -> list[int]:
    """The token ids of `text` as it goes on after other text: " positive" in GPT-2, "▁positive" in T5 and Llama."""
    stub = tokenizer(":", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer(f":{lead}{text}", add_special_tokens=False)["input_ids"]
    if whole[: len(stub)] == stub and len(whole) > len(stub):
        return whole[len(stub) :]
    alone: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return alone


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 over a fast tokenizer's definition, but for cutting and padding, which earlier calls may have changed."""
    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    asked = {"truncation": None, "padding": None}
    return hashlib.sha256(json.dumps(definition | asked, sort_keys=True).encode()).hexdigest()


def first_token(offsets: list[Span], start: int, end: int) -> int:
    """The first token over characters `start` to `end`; -1 where the tokenizer makes none of them."""
    return next((i for i, (a, b) in enumerate(offsets) if start < b and a < end and a < b), -1)


def word_spans(words: tuple[str, ...]) -> list[Span]:
    """Where every word stands in the words joined by spaces."""
    ends = list(accumulate(len(word) + 1 for word in words))
    return [(end - 1 - len(word), end - 1) for word, end in zip(words, ends, strict=True)]


def losses(sizes: dict[str, int], times: dict[str, int], excess: int) -> dict[str, int]:
    """How many tokens every column gives up so that `excess` fewer are left: the longest first, down to the others.

    A column of `sizes` tokens stands in the text `times` times. Empty where nothing would be left of a column.
    """
    longest = max(sizes.values(), default=0)
    room = sum(size * times[name] for name, size in sizes.items()) - excess
    cap = bisect_right(
        range(1, longest + 1), room, key=lambda cap: sum(min(size, cap) * times[name] for name, size in sizes.items())
    )
    return {name: size - cap for name, size in sizes.items() if size > cap} if cap else {}


def shorten(value: str | tuple[str, ...], spans: list[Span], lost: int, side: Truncate) -> str | tuple[str, ...]:
    """The column without `lost` of its tokens (fewer than all) at its tail or head; whole words of a list of words.

    A character of several tokens (an emoji in GPT-2) goes with the first of them that goes.
    """
    if side == "tail":
        first, last = 0, min(spans[-lost][0], spans[-lost - 1][1])
    else:
        first, last = max(spans[lost][0], spans[lost - 1][1]), len(value) if isinstance(value, str) else spans[-1][1]
    if isinstance(value, str):
        return value[first:last]
    return tuple(word for word, (a, b) in zip(value, word_spans(value), strict=True) if first <= a and b <= last)
