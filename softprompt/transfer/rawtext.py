"""Exercises that a raw text sets by itself: what a prompt can be trained on where nobody labelled anything.

Gu, Han, Liu, Huang 2022, "PPT: Pre-trained Prompt Tuning for Few-shot Learning", arXiv:2109.04332, section 3: pairs of
sentences (the next one, one of the same document, one of another), the choice of the next sentence among several, and
single sentences whose label another model gives. Every exercise is a text and a short answer in words.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from softprompt.errors import SoftpromptError

Format = Literal["pair", "choice", "single"]
Exercise = tuple[str, str]  # text and answer
Labeller = Callable[[list[str]], list[str | None]]  # the label of each text; None where it is not sure
WORDS = (3, 40)  # of a sentence that is used
ENDS = re.compile(r"(?<=[.!?])\s+")
LETTERS = "abcdefgh"


def read_documents(paths: Sequence[str | Path]) -> list[list[str]]:
    """The sentences of every document; documents are what empty lines part, and have two sentences or more.

    Raises `SoftpromptError` SP-E714 for a file that cannot be read, or less than ten documents in all.
    """
    found = []
    for path in paths:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:  # of the second kind: bytes that are no UTF-8
            raise SoftpromptError(
                "SP-E714", f"{error}"[:200], "a text file", "check the path", where=str(path)
            ) from error
        for block in re.split(r"\n\s*\n", text):
            sentences = [one for one in ENDS.split(" ".join(block.split())) if WORDS[0] <= len(one.split()) <= WORDS[1]]
            if len(sentences) > 1:
                found.append(sentences)
    if len(found) < 10:
        what = f"{len(found)} documents of two sentences or more of {WORDS[0]} to {WORDS[1]} words"
        raise SoftpromptError("SP-E714", what, "ten or more, with empty lines between them", "give more text")
    return found


def exercises(
    documents: Sequence[Sequence[str]],
    formats: Sequence[Format],
    count: int,
    seed: int,
    *,
    options: int = 4,
    labeller: Labeller | None = None,
) -> list[Exercise]:
    """Up to `count` exercises of every format, each text once; `single` needs a `labeller`.

    Answers of a pair are yes, maybe and no; the right one of `options` choices stands anywhere among them.
    """
    made: dict[str, str] = {}
    for name in formats:
        rng = random.Random(f"{seed} {name}")
        given = list(taken(source(name, documents, rng, options), made, count))
        if name == "single":
            assert labeller is not None
            told = labeller([text for text, _ in given])
            given = [(text, label) for (text, _), label in zip(given, told, strict=True) if label is not None]
        made |= dict(given)
    return list(made.items())


def source(name: Format, documents: Sequence[Sequence[str]], rng: random.Random, options: int) -> Iterator[Exercise]:
    """All exercises of a format, in a random order."""
    if name == "pair":
        return pairs(documents, rng)
    return choices(documents, rng, options) if name == "choice" else singles(documents, rng)


def taken(given: Iterator[Exercise], seen: dict[str, str], count: int) -> Iterator[Exercise]:
    """The first `count` exercises whose text is new."""
    known = set(seen)
    for text, answer in given:
        if count == 0:
            return
        if text not in known:
            known.add(text)
            count -= 1
            yield text, answer


def places(documents: Sequence[Sequence[str]], rng: random.Random) -> list[tuple[int, int]]:
    """Every sentence that has a next one, as document and place, in a random order."""
    found = [(d, i) for d, sentences in enumerate(documents) for i in range(len(sentences) - 1)]
    rng.shuffle(found)
    return found


def elsewhere(documents: Sequence[Sequence[str]], d: int, rng: random.Random) -> str:
    """A sentence of another document."""
    other = rng.randrange(len(documents) - 1)
    return rng.choice(documents[other + (other >= d)])


def apart(sentences: Sequence[str], i: int) -> list[str]:
    """Sentences of the same document that do not stand beside sentence i."""
    return [one for j, one in enumerate(sentences) if abs(i - j) > 1]


def pairs(documents: Sequence[Sequence[str]], rng: random.Random) -> Iterator[Exercise]:
    """Two sentences: is the second the next (yes), of the same document (maybe), or of another (no)?

    Each answer is as likely as the others; a document that is too short for `maybe` has two.
    """
    for d, i in places(documents, rng):
        sentences, near = documents[d], apart(documents[d], i)
        answer = rng.choice(("yes", "no", "maybe") if near else ("yes", "no"))
        if answer == "yes":
            second = sentences[i + 1]
        else:
            second = rng.choice(near) if answer == "maybe" else elsewhere(documents, d, rng)
        yield f"first: {sentences[i]} second: {second}", answer


def choices(documents: Sequence[Sequence[str]], rng: random.Random, options: int) -> Iterator[Exercise]:
    """A sentence and `options` others: which is the next? One more is of the same document, where there is one."""
    for d, i in places(documents, rng):
        near = apart(documents[d], i)
        others = [rng.choice(near)] if near else []
        others += [elsewhere(documents, d, rng) for _ in range(options - 1 - len(others))]
        if documents[d][i + 1] in others:
            continue  # it would be right twice
        right = rng.randrange(options)
        others.insert(right, documents[d][i + 1])
        listed = " ".join(f"({letter}) {one}" for letter, one in zip(LETTERS, others, strict=False))
        yield f"text: {documents[d][i]} next: {listed}", LETTERS[right]


def singles(documents: Sequence[Sequence[str]], rng: random.Random) -> Iterator[Exercise]:
    """Single sentences, whose answers are still to be given."""
    found = [one for sentences in documents for one in sentences]
    rng.shuffle(found)
    for one in found:
        yield one, ""


__all__ = ["LETTERS", "Exercise", "Format", "Labeller", "exercises", "read_documents"]
