"""Which chunks prompts are made of, and which they are judged on: never the same, and none twice."""

import re
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from softprompt.errors import DataError, RecipeError, near
from softprompt.graphrag.corpus import TOKEN, Chunk

Selection = Literal["auto", "random", "top"]
SELECTIONS = ("auto", "random", "top")
ALIKE = 0.95  # cosine of TF-IDF above which two chunks are one
MOST = 2000  # chunks that are looked at: a random part of larger corpora
LEAST = 5  # words of a chunk that is worth a look, where there are others


@dataclass(frozen=True)
class Split:
    """Chunks by their use."""

    shown: list[Chunk]  # examples are made of these, and domain, language and types found in them
    dev: list[Chunk]  # new instructions are chosen by these
    held: list[Chunk]  # the verdict is of these alone
    pool: int  # different chunks that these were chosen from
    chunks: int  # chunks in all


def divide(chunks: list[Chunk], how: str, shown: int, dev: int, held: int, seed: int) -> Split:
    """Choose chunks for every use: fewer than asked where the corpus has fewer, a third of a small one held out.

    Raises `RecipeError` SP-E790 for a selection that does not exist, `DataError` SP-E792 for chunks without a word.
    """
    if how not in SELECTIONS:
        found = f"selection {how!r}{near(how, list(SELECTIONS))}"
        raise RecipeError("SP-E790", found, " or ".join(SELECTIONS), "choose one of them", where="--select")
    rng = Random(seed)
    pool = different(chunks, rng)
    if not pool:
        raise DataError("SP-E792", f"{len(chunks)} chunks without a word", "a corpus", "give other texts")
    held = min(held, max(len(pool) // 3, 1 if len(pool) > 1 else 0))
    first = choose(pool, how, min(shown, len(pool) - held), rng)
    taken = {chunk.hash for chunk in first}
    rest = [chunk for chunk in pool if chunk.hash not in taken]
    rng.shuffle(rest)
    return Split(first, rest[held : held + dev], rest[:held], len(pool), len(chunks))


def different(chunks: list[Chunk], rng: Random) -> list[Chunk]:
    """Chunks without those that repeat an earlier one, exactly or nearly, in their order; at most `MOST`."""
    seen: dict[str, Chunk] = {}
    for chunk in chunks:
        seen.setdefault(" ".join(re.findall(r"\w+", chunk.text.casefold())), chunk)
    found = [chunk for words, chunk in seen.items() if words]
    long = [chunk for chunk in found if len(chunk.text) > 60 or len(chunk.text.split()) >= LEAST]
    found = long or found
    if len(found) > MOST:
        found = [found[i] for i in sorted(rng.sample(range(len(found)), MOST))]
    if len(found) < 2:
        return found
    vectors = tfidf(found)
    kept: list[int] = []
    for i, row in enumerate((vectors @ vectors.T).toarray()):
        if not kept or row[kept].max() < ALIKE:
            kept.append(i)
    return [found[i] for i in kept]


def choose(pool: list[Chunk], how: str, count: int, rng: Random) -> list[Chunk]:
    """`count` chunks of a pool, or all where there are fewer; in the order in which they were chosen."""
    if count >= len(pool):
        return list(pool)
    if how == "top":
        return pool[:count]
    if how == "random":
        return rng.sample(pool, count)
    return [pool[i] for i in centers(tfidf(pool), count)] if count else []


def centers(vectors: Any, count: int) -> list[int]:
    """Rows that lie far from each other: the one nearest to the mean, then ever the one farthest from all before.

    Greedy k-center (Gonzalez 1985, "Clustering to minimize the maximum intercluster distance"). Ties go to the first.
    """
    import numpy as np

    mean = np.asarray(vectors.mean(axis=0)).ravel()
    found = [int(np.argmax(vectors @ mean))]
    nearest = (vectors @ vectors[found[0]].T).toarray().ravel()
    while len(found) < count:
        nearest[found] = np.inf  # never again
        found.append(int(np.argmin(nearest)))
        nearest = np.maximum(nearest, (vectors @ vectors[found[-1]].T).toarray().ravel())
    return found


def tfidf(chunks: list[Chunk]) -> Any:
    """A sparse row of unit length for every chunk."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    made = TfidfVectorizer(token_pattern=TOKEN.pattern, max_features=50_000, sublinear_tf=True)
    return made.fit_transform([chunk.text for chunk in chunks])
