"""A template string and a tokenizer turn an `Example` into a `Row`: token ids, slots for the prompt, aligned labels.

    {soft:20}{text}                    20 prompt vectors, then the column `text`
    {text}{soft:3} It was {mask}.      slots anywhere (P-tuning); the answer goes where {mask} stands
    {premise}{sep}{hypothesis}         two texts with the model's own separator
    {bos}, {{, }}                      where BOS or CLS stands (default: in front of everything); literal braces

Each run of text between slots is tokenised as one string, so words at the border of a column get the tokens that they
have in running text. Text that is too long is cut by whole tokens of the longest column, never the answer.
"""

import hashlib
import re
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

from softprompt.backbones import Backbone
from softprompt.core import IGNORE, TEXT, Example, Row
from softprompt.errors import DataError, RecipeError, near

Truncate = Literal["tail", "head", "error"]
PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|([{}])")


@dataclass(frozen=True)
class Piece:
    """One part of a template: `soft` (n vectors), `field`, `text`, or a marker (`mask`, `bos`, `sep`)."""

    kind: Literal["soft", "field", "text", "mask", "bos", "sep"]
    value: str = ""
    count: int = 0


@dataclass
class Draft:
    """A row being written."""

    ids: list[int]
    slots: list[int]
    mask: int = -1  # where the answer goes
    words: tuple[int, ...] = ()

    def add(self, ids: list[int]) -> None:
        """Append plain tokens."""
        self.ids += ids
        self.slots += [TEXT] * len(ids)


def parse(template: str, length: int) -> list[Piece]:
    """The pieces of a template; `{soft}` alone takes all of the method's `length` vectors.

    Raises `RecipeError` for unbalanced braces and bad counts.
    """
    pieces: list[Piece] = []
    end = 0
    for match in [*PIECE.finditer(template), None]:
        literal = template[end : match.start()] if match else template[end:]
        if match and match.group(0) in ("{{", "}}"):
            literal += match.group(0)[0]
        if literal and pieces and pieces[-1].kind == "text":
            pieces[-1] = Piece("text", pieces[-1].value + literal)
        elif literal:
            pieces.append(Piece("text", literal))
        if match is None:
            break
        end = match.end()
        if match.group(2):
            raise wrong(
                template, f"a lone {match.group(2)!r} at character {match.start() + 1}", "write {{ or }} for a brace"
            )
        if match.group(1) is not None:
            pieces.append(marker(template, match.group(1), length))
    return pieces


def marker(template: str, name: str, length: int) -> Piece:
    """The piece that `{name}` stands for."""
    head, _, count = name.partition(":")
    if head == "soft":
        if count and (not count.isdigit() or not 0 < int(count) <= 10_000):
            raise wrong(template, f"{{{name}}}", "give a count from 1 to 10000, as in {soft:20}")
        return Piece("soft", count=int(count or length))
    if count or not head:
        raise wrong(template, f"{{{name}}}", "only {soft:N} takes a number")
    if head in ("mask", "bos", "sep"):
        return Piece(head, head)  # type: ignore[arg-type]
    return Piece("field", head)


def wrong(template: str, found: str, do: str) -> RecipeError:
    """A template that cannot be read."""
    return RecipeError("SP-E220", f"{found} in template {template!r}", "a template as in docs/tasks.md", do)


class Template:
    """Encodes examples for one backbone and one method length.

    `limit` is the most tokens a row may have, prompt vectors and answer included. Raises `RecipeError` where the
    template does not fit the backbone or leaves no room for text.
    """

    def __init__(
        self,
        text: str,
        backbone: Backbone,
        *,
        length: int,
        prefix: int = 0,
        limit: int | None = None,
        cut: Truncate = "tail",
    ) -> None:
        self.text, self.tokenizer, self.cut = text, backbone.tokenizer, cut
        self.kind, self.config = backbone.spec.kind, backbone.model.config
        self.pieces = parse(text, length)
        self.vectors = sum(piece.count for piece in self.pieces)
        room = backbone.spec.positions
        self.limit = min(limit or 10**9, (room or 10**9) - prefix)
        self.front, self.back = specials(self.tokenizer)
        if self.kind == "causal":
            self.back = []  # a causal model goes on after the text, so nothing closes it
        self.check(length)

    def check(self, length: int) -> None:
        """Raise `RecipeError` where slots, mask and backbone do not fit."""
        if self.vectors and self.vectors != length:
            raise wrong(self.text, f"{self.vectors} slots for {length} vectors", f"set method.length to {self.vectors}")
        masks = [i for i, piece in enumerate(self.pieces) if piece.kind == "mask"]
        if len(masks) > 1 or (masks and self.kind != "encoder" and masks[0] != len(self.pieces) - 1):
            raise wrong(
                self.text, "{mask} in the middle or twice", "put it once, at the end (encoders: once, anywhere)"
            )
        if masks and self.kind == "encoder" and self.tokenizer.mask_token_id is None:
            raise wrong(self.text, "{mask} for a tokenizer without a mask token", "use head=classifier")
        if any(piece.kind == "sep" for piece in self.pieces) and self.tokenizer.sep_token_id is None:
            raise wrong(self.text, "{sep} for a tokenizer without a separator", "write a line break instead")
        if not self.fields:
            raise wrong(self.text, "no column", "name one, as in {text}")
        if self.vectors + 8 > self.limit:
            raise RecipeError(
                "SP-E104",
                f"{self.vectors} prompt vectors in a context of {self.limit} tokens",
                "room for text beside the prompt",
                "use a smaller method.length",
            )

    def without_soft(self) -> "Template":
        """The same template asked of the bare backbone: no slots."""
        bare = copy(self)
        bare.pieces = [piece for piece in self.pieces if piece.kind != "soft"]
        bare.vectors = 0
        return bare

    @property
    def fields(self) -> list[str]:
        """The columns that the template reads."""
        return [piece.value for piece in self.pieces if piece.kind == "field"]

    @property
    def hash(self) -> str:
        """SHA-256 over everything that decides the tokens of a row, the tokenizer included."""
        parts = [self.text, self.cut, str(self.limit), str(self.front), str(self.back), tokenizer_hash(self.tokenizer)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def encode(self, example: Example, answer: list[int] | None = None, *, close: bool = True) -> Row:
        """One row. `answer` are the token ids of the answer; None leaves the place open for generation.

        With `close`, a generated answer ends in EOS. Raises `DataError` where the example lacks a column or where
        nothing of the text would be left.
        """
        values = {name: self.value(example, name) for name in self.fields}
        answer = [] if answer is None else answer
        ending = [self.tokenizer.eos_token_id] if close and answer and self.tokenizer.eos_token_id is not None else []
        taken = 0 if self.kind == "seq2seq" else len(answer + ending)
        draft, cut = self.fit(example, values, taken)
        words = self.places(draft.words, example)
        if self.kind == "encoder":
            labels = [IGNORE] * len(draft.ids)
            if answer and draft.mask >= 0:
                labels[draft.mask] = answer[0]
            return Row(draft.ids, draft.slots, labels, words=words, cut=cut)
        if self.kind == "seq2seq":
            start = self.config.decoder_start_token_id
            target = answer + ending
            decoder = Row([start, *target[:-1]], [TEXT] * max(1, len(target)), target or [IGNORE])
            return Row(draft.ids, draft.slots, words=words, decoder=decoder, cut=cut)
        labels = [IGNORE] * len(draft.ids)
        if answer:  # the last token of the text predicts the first of the answer
            target = answer + ending
            labels[-1:] = target
            draft.add(target[:-1])
        return Row(draft.ids, draft.slots, labels, words=words, cut=cut)

    def places(self, words: tuple[int, ...], example: Example) -> tuple[int, ...]:
        """The first token of every word of the example, -1 for words that were cut off."""
        counts = [len(v) for name, v in example.fields.items() if name in self.fields and isinstance(v, tuple)]
        gone = (-1,) * (max(counts, default=len(words)) - len(words))
        return words + gone if self.cut == "tail" else gone + words

    def value(self, example: Example, name: str) -> str | tuple[str, ...]:
        """One column of an example; raises `DataError` where it is missing."""
        if name not in example.fields:
            known = sorted(example.fields)
            raise DataError(
                "SP-E103",
                f"no column {name!r}{near(name, known)} among {', '.join(known)}",
                f"the columns of template {self.text!r}",
                "rename the column, or set task.template",
                where=example.where,
            )
        return example.fields[name]

    def fit(self, example: Example, values: dict[str, Any], taken: int) -> tuple[Draft, int]:
        """A draft within the limit and the number of tokens that were cut off for it."""
        cut = 0
        for _ in range(8):  # cutting text can change how the rest is tokenised, so look again
            draft, sizes = self.write(values)
            excess = len(draft.ids) + taken - self.limit
            if excess <= 0:
                return draft, cut
            name = max(sizes, key=lambda key: len(sizes[key]))
            spans = sizes[name]
            if self.cut == "error" or len(spans) <= excess:
                raise DataError(
                    "SP-E104",
                    f"{len(draft.ids) + taken} tokens (prompt {self.vectors}, answer {taken})",
                    f"at most {self.limit}",
                    "use a shorter prompt or template, or task.truncate=tail",
                    where=example.where,
                )
            values = values | {name: shorten(values[name], spans, excess, self.cut)}
            cut += excess
        raise DataError(
            "SP-E104",
            "text that does not get shorter",
            f"at most {self.limit} tokens",
            "shorten it",
            where=example.where,
        )

    def write(self, values: dict[str, Any]) -> tuple[Draft, dict[str, list[tuple[int, int]]]]:
        """A draft of any length, and for every column the character spans of its tokens within the column."""
        draft = Draft([], [])
        spans: dict[str, list[tuple[int, int]]] = {name: [] for name in self.fields}
        if not any(piece.kind == "bos" for piece in self.pieces):
            draft.add(self.front)
        run: list[Piece] = []
        vector = 0
        for piece in [*self.pieces, None]:
            if piece is not None and piece.kind in ("text", "field"):
                run.append(piece)
                continue
            self.flush(draft, run, values, spans, before_answer=piece is not None and piece.kind == "mask")
            run = []
            if piece is None:
                break
            if piece.kind == "soft":
                draft.slots += range(vector, vector + piece.count)
                draft.ids += [self.filler] * piece.count
                vector += piece.count
            elif piece.kind == "bos":
                draft.add(self.front)
            elif piece.kind == "sep":
                draft.add([self.tokenizer.sep_token_id])
            elif self.kind == "encoder":
                draft.mask = len(draft.ids)
                draft.add([self.tokenizer.mask_token_id])
        draft.add(self.back)
        return draft, spans

    def flush(
        self, draft: Draft, run: list[Piece], values: dict[str, Any], spans: dict[str, Any], *, before_answer: bool
    ) -> None:
        """Tokenise a run of text and columns as one string."""
        text, places, word_starts = "", [], []
        for piece in run:
            value = piece.value if piece.kind == "text" else values[piece.value]
            if isinstance(value, tuple):
                word_starts = [len(text) + sum(len(w) + 1 for w in value[:i]) for i in range(len(value))]
                value = " ".join(value)
            if piece.kind == "field":
                places.append((piece.value, len(text), len(text) + len(value)))
            text += value
        if before_answer and self.kind != "encoder":
            text = text.rstrip(" ")  # the space belongs to the answer's first token
        if not text:
            return
        coded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        base, offsets = len(draft.ids), coded["offset_mapping"]
        draft.add(coded["input_ids"])
        for name, begin, end in places:
            spans[name] = [(max(a, begin) - begin, b - begin) for a, b in offsets if b > begin and a < end and b > a]
        if word_starts:
            ends = [b for _, b in offsets]
            draft.words = tuple(base + first_token(ends, start) for start in word_starts)

    def continue_with(self, answer: str) -> list[int]:
        """The token ids of an answer where {mask} stands: with a space in front if the template has one there."""
        before = self.pieces[-2].value if len(self.pieces) > 1 and self.pieces[-1].kind == "mask" else " "
        return continuation(self.tokenizer, answer, " " if before.endswith(" ") or self.kind != "causal" else "")

    @property
    def filler(self) -> int:
        """Any valid id: prompt vectors overwrite its embedding."""
        return int(self.tokenizer.pad_token_id or 0)


def first_token(ends: list[int], start: int) -> int:
    """The first token that ends after character `start`."""
    return next((i for i, end in enumerate(ends) if end > start), len(ends) - 1)


def shorten(
    value: str | tuple[str, ...], spans: list[tuple[int, int]], excess: int, side: Truncate
) -> str | tuple[str, ...]:
    """The column without `excess` tokens at its tail or head; whole words where it is a list of words."""
    text = " ".join(value) if isinstance(value, tuple) else value
    kept = text[: spans[-excess - 1][1]] if side == "tail" else text[spans[excess][0] :]
    if not isinstance(value, tuple):
        return kept
    count = min(len(kept.split(" ")), len(value) - 1)  # a word cut in half is a word cut off
    return value[:count] if side == "tail" else value[len(value) - count :]


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
    """SHA-256 over a fast tokenizer's whole definition."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
