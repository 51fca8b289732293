"""Texts as token arrays on disk: running text and skills, a part of each held out by the hash of its text.

A sample is one row of the model: BOS, tokens, EOS. Running text is cut into pieces of the context's length. Of a skill
the answer weighs more than the question, because a question has tens of tokens and an answer one or two.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from scripts.pretrain.skills import skills
from scripts.pretrain.sources import SOURCES, documents
from scripts.pretrain.tokenizer import train_tokenizer

HELD_OUT = 50  # one text of so many is held out
CHUNK = 4096  # texts tokenised at a time
PARTS = ("train", "held-out")


@dataclass(frozen=True)
class Text:
    """A text of the mixture: where it comes from, and where its answer begins (its length: nowhere)."""

    source: str
    task: str  # empty for running text
    text: str
    answer: int

    @property
    def part(self) -> str:
        """Train or held out; by the question alone, so that no held-out question is trained with another answer."""
        digest = hashlib.sha256(self.text[: self.answer].strip().encode()).digest()
        return PARTS[int.from_bytes(digest[:8], "big") % HELD_OUT == 0]


@dataclass(frozen=True)
class Corpus:
    """Samples [N] of one part as one flat array of tokens."""

    ids: NDArray[np.uint16]  # all samples, one behind the other
    starts: NDArray[np.int64]  # [N + 1]
    answers: NDArray[np.int64]  # [N], index within the sample of the answer's first token; its length for running text
    sources: NDArray[np.int64]  # [N], index into `names`
    sizes: NDArray[np.int64]  # [N], bytes of text in the sample
    names: list[str]  # "source" or "source/task"

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sample."""
        return np.diff(self.starts)


def texts(data: Path, extra: Path, seed: int) -> Iterator[Text]:
    """Every text of the mixture."""
    for document in documents(data, extra):
        yield Text(document.source, "", document.text, len(document.text))
    for skill in skills(data, extra, seed):
        yield Text(skill.source, skill.task, skill.prompt + skill.answer, len(skill.prompt))


def build(
    place: Path, data: Path, extra: Path, *, vocabulary: int, context: int, seed: int
) -> tuple[PreTrainedTokenizerFast, dict[str, Corpus]]:
    """The tokenizer and both parts of the corpus, made once and kept in `place`; a finished one is read back."""
    place.mkdir(parents=True, exist_ok=True)
    if not (place / "done").exists():
        every = list(texts(data, extra, seed))
        kept = [text for text in every if text.part == "train"]
        tokenizer = train_tokenizer((text.text for text in kept), vocabulary, context)
        tokenizer.save_pretrained(str(place / "tokenizer"))
        for part in PARTS:
            save(encode([text for text in every if text.part == part], tokenizer, context), place / part)
        (place / "facts.json").write_text(json.dumps(facts(every), indent=1))
        (place / "done").touch()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(place / "tokenizer"))
    return tokenizer, {part: read(place / part) for part in PARTS}


def encode(chosen: list[Text], tokenizer: Any, context: int) -> Corpus:
    """Samples of at most `context` tokens from texts."""
    names = sorted({name(text) for text in chosen})
    index = {known: i for i, known in enumerate(names)}
    flat: list[NDArray[np.uint16]] = []
    rows: list[tuple[int, int, int, int]] = []  # length, answer, source, bytes
    for text, ids, answer in tokenised(chosen, tokenizer):
        for piece, at, size in pieces(text, ids, answer, tokenizer, context):
            flat.append(np.asarray(piece, dtype=np.uint16))
            rows.append((len(piece), at, index[name(text)], size))
    table = np.asarray(rows, dtype=np.int64).reshape(-1, 4)
    starts = np.concatenate([[0], np.cumsum(table[:, 0])])
    return Corpus(np.concatenate(flat), starts, table[:, 1], table[:, 2], table[:, 3], names)


def name(text: Text) -> str:
    """The source of a text, with its task if it is a skill."""
    return f"{text.source}/{text.task}" if text.task else text.source


def tokenised(chosen: list[Text], tokenizer: Any) -> Iterator[tuple[Text, list[int], int]]:
    """Each text with its tokens and the index of the first token of its answer.

    Question and answer are tokenised apart, as they are when a prompt asks and the model writes.
    """
    for at in range(0, len(chosen), CHUNK):
        group = chosen[at : at + CHUNK]
        heads = tokenizer([t.text[: t.answer] for t in group], add_special_tokens=False, verbose=False)["input_ids"]
        tails = tokenizer([t.text[t.answer :] for t in group], add_special_tokens=False, verbose=False)["input_ids"]
        for text, head, tail in zip(group, heads, tails, strict=True):
            yield text, head + tail, len(head)


def pieces(
    text: Text, ids: list[int], answer: int, tokenizer: Any, context: int
) -> Iterator[tuple[list[int], int, int]]:
    """Samples of a text: tokens, place of the answer, bytes. A skill that is too long is left out, not cut."""
    bos, eos, room = tokenizer.bos_token_id, tokenizer.eos_token_id, context - 2
    if text.task:
        if len(ids) <= room:
            yield [bos, *ids, eos], answer + 1, len(text.text.encode())
        return
    for at in range(0, len(ids), room):
        part = ids[at : at + room]
        last = [eos] if at + room >= len(ids) else []
        whole = [bos, *part, *last]
        yield whole, len(whole), len(tokenizer.decode(part).encode())


def save(corpus: Corpus, place: Path) -> None:
    """Write a corpus as one file."""
    with place.with_suffix(".npz").open("wb") as file:
        np.savez(
            file,
            ids=corpus.ids,
            starts=corpus.starts,
            answers=corpus.answers,
            sources=corpus.sources,
            sizes=corpus.sizes,
            names=np.asarray(corpus.names),
        )


def read(place: Path) -> Corpus:
    """Read a corpus back."""
    with np.load(place.with_suffix(".npz")) as found:
        made = {key: found[key] for key in found.files}
    return Corpus(**{**made, "names": [str(value) for value in made["names"]]})


def facts(every: Iterable[Text]) -> dict[str, Any]:
    """Bytes of every source and task, with licences, for the model card."""
    running: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    tasks: Counter[str] = Counter()
    for text in every:
        (asked if text.task else running)[text.source] += len(text.text.encode())
        if text.task:
            tasks[text.task] += len(text.text.encode())
    sources = {
        key: {"licence": SOURCES[key].licence, "origin": SOURCES[key].url_or_origin}
        | {"text_bytes": running[key], "skill_bytes": asked[key]}
        for key in sorted(running.keys() | asked.keys())
    }
    return {"sources": sources, "tasks": dict(sorted(tasks.items()))}
