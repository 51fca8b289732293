"""Text from a prompt: greedy decoding, sampling and beam search through the seam.

The injection is made once, before the first token. A row's answer depends on that row alone.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress, groupby
from typing import Any

import torch
from torch import Tensor

from softprompt.core import IGNORE, Row
from softprompt.errors import RecipeError, Unsupported
from softprompt.prompt import Prompt
from softprompt.stream import DecoderStream, Stream, room_after


@dataclass(frozen=True)
class Settings:
    """How answers are written. Raises `RecipeError` for values out of range and for options that would be ignored."""

    max_new_tokens: int = 64
    beams: int = 1
    temperature: float = 0.0  # 0: the likeliest token
    top_k: int = 0  # 0: all tokens
    top_p: float = 1.0
    seed: int = 0
    repetition: float = 1.0  # above 1: tokens that the answer already has become less likely
    length_penalty: float = 1.0  # beams are ranked by log-probability / tokens ** length_penalty

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.beams < 1:
            raise wrong("SP-E240", f"max_new_tokens={self.max_new_tokens}, beams={self.beams}", "1 or more of both")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise wrong("SP-E241", f"temperature={self.temperature}", "0 (no sampling) or more")
        if not (math.isfinite(self.repetition) and self.repetition > 0):
            raise wrong("SP-E241", f"repetition={self.repetition}", "more than 0; 1 changes nothing")
        if not -10 <= self.length_penalty <= 10:
            raise wrong("SP-E241", f"length_penalty={self.length_penalty}", "a number from -10 to 10")
        if self.top_k < 0 or not 0 < self.top_p <= 1:
            raise wrong("SP-E242", f"top_k={self.top_k}, top_p={self.top_p}", "top_k from 0, top_p in (0, 1]")
        if self.beams > 1 and self.temperature > 0:
            raise wrong("SP-E243", f"beams={self.beams} and temperature={self.temperature}", "one of the two")
        if self.temperature == 0 and (self.top_k or self.top_p < 1):
            raise wrong("SP-E244", f"top_k={self.top_k}, top_p={self.top_p} without sampling", "a temperature above 0")
        if self.beams == 1 and self.length_penalty != 1:
            raise wrong("SP-E244", f"length_penalty={self.length_penalty} without beams", "beams above 1")


def wrong(code: str, found: str, expected: str) -> RecipeError:
    """An option of generation that cannot be followed."""
    return RecipeError(code, found, expected, "mend the options of generation")


@dataclass(frozen=True)
class Ending:
    """What closes an answer: one of `ids` (EOS), or a stop string in its text. Raises `RecipeError` for empty ones."""

    tokenizer: Any
    ids: frozenset[int]
    stop: Sequence[str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.stop, str) or not all(self.stop):
            raise wrong("SP-E245", f"stop={self.stop!r}", "a list of strings, none of them empty")

    def reached(self, ids: list[int]) -> bool:
        """True where nothing may follow these new token ids."""
        if ids[-1] in self.ids:
            return True
        return bool(self.stop) and any(stop in self.plain(ids) for stop in self.stop)

    def plain(self, ids: list[int]) -> str:
        """Their text, without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def text(self, ids: list[int]) -> str:
        """The answer: their text up to the first stop string, without white space at its ends."""
        text = self.plain(ids[:-1] if ids[-1] in self.ids else ids)
        return text[: min((text.find(stop) for stop in self.stop if stop in text), default=len(text))].strip()


@torch.inference_mode()
def generate(
    prompt: Prompt,
    rows: Sequence[Row],
    *,
    max_new_tokens: int = 64,
    beams: int = 1,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    repetition: float = 1.0,
    length_penalty: float = 1.0,
    stop: Sequence[str] = (),
    numbers: Sequence[int] | None = None,
) -> list[str]:
    """The answer to every row, in their order; rows are encoded without an answer.

    What a row samples depends on `seed` and on its number (`numbers` [rows], its place if not given), not on its batch.

    An answer ends at EOS, before a stop string, after `max_new_tokens`, or where the backbone can take no more tokens.
    Raises `RecipeError` for options that cannot be followed and for rows that have an answer already, `Unsupported`
    for backbones that do not write, and `DataError` for rows longer than the backbone can take.
    """
    settings = Settings(max_new_tokens, beams, temperature, top_k, top_p, seed, repetition, length_penalty)
    check(prompt, rows)
    model_ends = prompt.backbone.model.generation_config.eos_token_id  # none, one, or several of them
    ends = {prompt.template.tokenizer.eos_token_id, *(model_ends if isinstance(model_ends, list) else [model_ends])}
    ending = Ending(prompt.template.tokenizer, frozenset(ends - {None}), stop)
    known = range(len(rows)) if numbers is None else numbers
    answers = [""] * len(rows)
    was_training = prompt.training
    prompt.eval()
    try:
        for chosen in together(prompt, rows):
            stream, room = begin(prompt, [rows[i] for i in chosen], settings.max_new_tokens)
            if settings.beams > 1:
                written = beam(stream, room, ending, settings)
            else:
                written = decode(stream, room, ending, settings, [generator(seed, known[i]) for i in chosen])
            for i, ids in zip(chosen, written, strict=True):
                answers[i] = ending.text(ids)
    finally:
        prompt.train(was_training)
    return answers


def check(prompt: Prompt, rows: Sequence[Row]) -> None:
    """Raise for a backbone that does not write, and for rows that have an answer already."""
    if prompt.backbone.spec.kind not in ("causal", "seq2seq"):
        raise Unsupported(
            "SP-E420",
            f"generation with {prompt.backbone.name or 'this backbone'} ({prompt.backbone.spec.kind})",
            "a causal or encoder-decoder backbone",
            "use a backbone that writes, or a task with classes, tags or numbers",
        )
    for i, row in enumerate(rows):
        if any(label != IGNORE for label in (row.decoder or row).labels):
            raise RecipeError(
                "SP-E246", f"an answer in row {i}", "rows without one", "encode with `Prompt.row(..., labelled=False)`"
            )


def together(prompt: Prompt, rows: Sequence[Row]) -> Iterator[list[int]]:
    """Indices of rows that are written in one batch: of equal length where the backbone counts padding as text."""
    places = range(len(rows))
    if prompt.backbone.pads_left or prompt.backbone.spec.kind == "seq2seq":
        yield from [list(places)] if rows else []
        return
    ordered = sorted(places, key=lambda i: len(rows[i].ids))
    for _, group in groupby(ordered, key=lambda i: len(rows[i].ids)):
        yield list(group)


def begin(prompt: Prompt, rows: list[Row], most: int) -> tuple[Stream, list[int]]:
    """The stream of some rows after their text was read, and how many tokens each may get, `most` at most."""
    backbone = prompt.backbone
    written = backbone.spec.kind == "seq2seq"
    batch = prompt.batch(rows, side="right" if written else "left")
    injection = prompt.inject(batch)
    room = [min(most, count) for count in room_after(backbone, rows, injection)]
    return (DecoderStream if written else Stream)(backbone, batch, injection), room


def decode(
    stream: Stream, room: list[int], ending: Ending, settings: Settings, generators: list[torch.Generator]
) -> list[list[int]]:
    """New token ids of every row, EOS included: the likeliest, or with a temperature sampled, row i by `generators[i]`.

    A row that has ended leaves the batch.
    """
    answers: list[list[int]] = [[] for _ in room]
    live = list(range(len(room)))
    while live:
        scores = discouraged(stream.logits.float(), [answers[i] for i in live], settings.repetition)
        chosen = pick(scores, settings, [generators[i] for i in live])
        for i, token in zip(live, chosen.tolist(), strict=True):
            answers[i].append(token)
        going = [j for j, i in enumerate(live) if len(answers[i]) < room[i] and not ending.reached(answers[i])]
        if going and len(going) < len(live):
            stream.keep(going)
        if going:
            stream.feed(chosen[going])
        live = [live[j] for j in going]
    return answers


def pick(scores: Tensor, settings: Settings, generators: list[torch.Generator]) -> Tensor:
    """One token [R] a row from `scores` [R, V]."""
    if settings.temperature == 0:
        return scores.argmax(-1)
    scores = (scores.double() - scores.max(-1, keepdim=True).values) / settings.temperature
    if 0 < settings.top_k < scores.shape[-1]:
        least = scores.topk(settings.top_k).values[:, -1:]
        scores = scores.masked_fill(scores < least, -math.inf)
    chances = scores.softmax(-1)
    if settings.top_p < 1:  # the likeliest tokens up to the one that reaches top_p, so at least one
        ordered, order = chances.sort(descending=True, stable=True)
        beyond = ordered.cumsum(-1) - ordered >= settings.top_p
        chances = chances.masked_fill(beyond.scatter(-1, order, beyond), 0.0)
    # One number a row, drawn on the CPU: neither the device nor the other rows change what a seed means.
    drawn = torch.cat([torch.rand(1, generator=generator) for generator in generators])
    sums = chances.cumsum(-1)
    return torch.searchsorted(sums, drawn.to(sums)[:, None] * sums[:, -1:], right=True)[:, 0]


def generator(seed: int, row: int) -> torch.Generator:
    """The source of chance of one row."""
    digest = hashlib.sha256(f"{seed} {row}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))


def discouraged(scores: Tensor, written: list[list[int]], repetition: float) -> Tensor:
    """Scores [R, V] in which the tokens that a row has already written count less (Keskar et al. 2019, 1909.05858)."""
    if repetition == 1 or not written[0]:
        return scores
    ids = torch.tensor(written, device=scores.device)  # all rows have written equally many
    old = scores.gather(-1, ids)
    return scores.scatter(-1, ids, torch.where(old < 0, old * repetition, old / repetition))


@dataclass(frozen=True)
class Hypothesis:
    """The beginning of an answer, and its summed log-probability."""

    row: int
    ids: list[int]
    score: float
    source: int  # its place in the stream


def beam(stream: Stream, room: list[int], ending: Ending, settings: Settings) -> list[list[int]]:
    """New token ids of every row, EOS included: the best by log-probability / tokens ** length_penalty.

    The `beams` best hypotheses of a row go on at every step, and its `beams` best finished ones are kept. A row ends
    once no hypothesis that goes on is better, at its present length, than the worst of those.
    """
    done: list[list[tuple[float, list[int]]]] = [[] for _ in room]
    live = [Hypothesis(row, [], 0.0, row) for row in range(len(room))]
    width = settings.beams
    keep = width * max(2, 1 + len(ending.ids))  # so many that enough go on where every ending is among them
    while live:
        grown = extended(live, stream.logits, keep, settings.repetition)
        worth = len(grown[0].ids) ** settings.length_penalty
        live = []
        for row, group in groupby(grown, key=lambda h: h.row):
            best = sorted(group, key=lambda h: -h.score)[:keep]
            ended = [len(h.ids) >= room[row] or ending.reached(h.ids) for h in best]
            finished = [(h.score / worth, h.ids) for h in compress(best[:width], ended)]  # only from among the best
            done[row] = sorted(done[row] + finished, key=lambda pair: -pair[0])[:width]
            going = [h for h, end in zip(best, ended, strict=True) if not end][:width]
            if going and (len(done[row]) < width or going[0].score / worth > done[row][-1][0]):
                live += going
        if live:
            stream.keep([h.source for h in live])
            stream.feed(torch.tensor([h.ids[-1] for h in live], device=stream.mask.device))
        live = [replace(h, source=place) for place, h in enumerate(live)]
    return [answers[0][1] for answers in done]


def extended(live: list[Hypothesis], logits: Tensor, most: int, repetition: float) -> list[Hypothesis]:
    """Every hypothesis with each of its `most` likeliest next tokens; `logits` are [R, V]."""
    logs = discouraged(logits.float().log_softmax(-1), [h.ids for h in live], repetition)
    best = logs.topk(min(most, logs.shape[-1]))
    return [
        Hypothesis(h.row, [*h.ids, token], h.score + log, h.source)
        for h, logs_of, tokens in zip(live, best.values.tolist(), best.indices.tolist(), strict=True)
        for log, token in zip(logs_of, tokens, strict=True)
    ]
