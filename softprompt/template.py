"""A template string and a tokenizer turn an `Example` into a `Row`: token ids, slots for the prompt, aligned labels.

    {soft:20}{text}                    20 prompt vectors, then the column `text`
    {text}{soft:3} It was {mask}.      slots anywhere (P-tuning); the answer goes where {mask} stands
    {premise}{sep}{hypothesis}         two texts with the model's own separator
    {bos}, {{, }}                      where BOS or CLS stands (default: in front of everything); literal braces

Each run of text between slots is tokenised as one string, so words at the border of a column get the tokens that they
have in running text. Text that is too long is cut by whole tokens, the longest column first, never the answer.
"""

import hashlib
from collections import Counter
from copy import copy
from dataclasses import dataclass
from typing import Any

from softprompt.backbones import Backbone
from softprompt.core import IGNORE, TEXT, Example, Row
from softprompt.errors import DataError, RecipeError, near
from softprompt.pieces import Piece, parse, writable, wrong
from softprompt.tokens import (
    Span,
    Truncate,
    continuation,
    first_token,
    losses,
    shorten,
    specials,
    tokenizer_hash,
    word_spans,
)

__all__ = ["Piece", "Template", "Truncate", "continuation", "parse", "tokenizer_hash", "writable", "wrong"]

LEAST = 8  # tokens beside the prompt, without which a template is refused


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
        self.kind = backbone.spec.kind
        self.pieces = parse(text, length)
        self.vectors = sum(piece.count for piece in self.pieces)
        self.room = (backbone.spec.positions or 10**9) - prefix
        self.limit = min(limit or 10**9, self.room)
        self.check(length)
        self.front, self.back = specials(self.tokenizer)
        if self.kind == "causal":
            self.back = []  # a causal model goes on after the text, so nothing closes it
        self.start = decoder_start(backbone) if self.kind == "seq2seq" else -1

    def check(self, length: int) -> None:
        """Raise `RecipeError` where slots, mask and backbone do not fit."""
        if self.tokenizer is None or not self.tokenizer.is_fast:
            raise RecipeError(
                "SP-E221",
                "no tokenizer" if self.tokenizer is None else "a tokenizer that does not say where tokens stand",
                "a fast tokenizer, which knows the characters of every token",
                "load the backbone with its tokenizer.json",
            )
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
        if self.vectors + LEAST > self.limit:
            raise RecipeError(
                "SP-E222",
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

    def encode(self, example: Example, answer: list[int] | None = None, *, close: bool = True, room: int = 0) -> Row:
        """One row. `answer` are the token ids of the answer; None leaves the place open for generation.

        With `close`, a generated answer ends in EOS. `room` is how long an answer must fit, whatever this one is: the
        text of a causal model is then cut alike for all of them. Raises `DataError` where the example lacks a column
        and where nothing of the text would be left, `RecipeError` where the template has no place for the answer.
        """
        answer = answer or []
        ending = [self.tokenizer.eos_token_id] if close and answer and self.tokenizer.eos_token_id is not None else []
        target = answer + ending
        # The last token of an answer is predicted, but not read.
        taken = max(0, max(len(target), room) - 1) if self.kind == "causal" else 0
        draft, cut = self.fit(example, {name: self.value(example, name) for name in self.fields}, taken)
        words = self.places(draft.words, example)
        if self.kind == "encoder":
            return Row(draft.ids, draft.slots, self.filled(draft, answer), words=words, cut=cut)
        if self.kind == "seq2seq":
            if len(target) > self.room:
                raise too_long(example, f"an answer of {len(target)} tokens", self.room, "shorten or remove the row")
            decoder = Row([self.start, *target[:-1]], [TEXT] * max(1, len(target)), target or [IGNORE])
            return Row(draft.ids, draft.slots, words=words, decoder=decoder, cut=cut)
        labels = [IGNORE] * len(draft.ids)
        if target:  # the last token of the text predicts the first of the answer
            labels[-1:] = target
            draft.add(target[:-1])
        return Row(draft.ids, draft.slots, labels, words=words, cut=cut, answer=max(0, len(target) - 1))

    def filled(self, draft: Draft, answer: list[int]) -> list[int]:
        """Labels of an encoder's row: the answer where the mask stands."""
        labels = [IGNORE] * len(draft.ids)
        if answer and draft.mask < 0:
            raise wrong(self.text, "no {mask}", "write {mask} where the answer goes")
        if answer:
            labels[draft.mask] = answer[0]
        return labels

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
                "SP-E112",
                f"no column {name!r}{near(name, known)} among {', '.join(known)}",
                f"the columns of template {self.text!r}",
                "rename the column, or set task.template",
                where=example.where,
            )
        return example.fields[name]

    def fit(self, example: Example, values: dict[str, Any], taken: int) -> tuple[Draft, int]:
        """A draft that leaves `taken` tokens of the limit free, and how many tokens were cut off for it."""
        draft, spans = self.write(values)
        whole, times = len(draft.ids), Counter(self.fields)
        while (excess := len(draft.ids) + taken - self.limit) > 0:  # what is left may be tokenised in another way
            sizes = {name: len(spans[name]) for name in spans}
            lost = {} if self.cut == "error" else losses(sizes, times, excess)
            left = {name: shorten(values[name], spans[name], n, self.cut) for name, n in lost.items()}
            if not left or not all(0 < len(text) < len(values[name]) for name, text in left.items()):
                found = f"{whole + taken} tokens (prompt {self.vectors}, answer {taken})"
                raise too_long(example, found, self.limit, "use a shorter prompt or template, or task.truncate=tail")
            values = values | left
            draft, spans = self.write(values)
        if not draft.ids:
            raise DataError("SP-E123", "no token", "text", "add the text or remove the row", where=example.where)
        return draft, whole - len(draft.ids)

    def write(self, values: dict[str, Any]) -> tuple[Draft, dict[str, list[Span]]]:
        """A draft of any length, and for every column the character spans of its tokens within the column."""
        draft = Draft([], [])
        spans: dict[str, list[Span]] = {name: [] for name in self.fields}
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
        text, places, words = "", [], None
        for piece in run:
            value = piece.value if piece.kind == "text" else values[piece.value]
            if isinstance(value, tuple):
                words = [(len(text) + a, len(text) + b) for a, b in word_spans(value)]
                value = " ".join(value)
            if piece.kind == "field":
                places.append((piece.value, len(text), len(text) + len(value)))
            text += value
        if before_answer and self.kind != "encoder":
            text = text.rstrip(" ")  # the space belongs to the answer's first token
        if not text:
            return
        coded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        base, offsets = len(draft.ids), coded["offset_mapping"]
        draft.add(coded["input_ids"])
        for name, begin, end in places:
            spans[name] = [(max(a, begin) - begin, b - begin) for a, b in offsets if b > begin and a < end and b > a]
        if words is not None:
            found = [first_token(offsets, a, b) for a, b in words]
            draft.words = tuple(base + token if token >= 0 else -1 for token in found)

    def continue_with(self, answer: str) -> list[int]:
        """The token ids of an answer where {mask} stands: with a space in front if the template has one there."""
        before = self.pieces[-2] if len(self.pieces) > 1 and self.pieces[-1].kind == "mask" else Piece("soft")
        joined = self.kind == "causal" and before.kind in ("text", "field") and not before.value.endswith(" ")
        return continuation(self.tokenizer, answer, "" if joined else " ")

    @property
    def filler(self) -> int:
        """Any valid id: prompt vectors overwrite its embedding."""
        return int(self.tokenizer.pad_token_id or 0)


def too_long(example: Example, found: str, limit: int, do: str) -> DataError:
    """A row that does not fit the context."""
    return DataError("SP-E104", found, f"at most {limit}", do, where=example.where)


def decoder_start(backbone: Backbone) -> int:
    """The token that a decoder starts with; raises `RecipeError` for models that name none."""
    model = backbone.model
    starts = [getattr(c, "decoder_start_token_id", None) for c in (model.config, model.generation_config)]
    found = next((start for start in starts if start is not None), None)
    if found is None:
        raise RecipeError(
            "SP-E221",
            f"no decoder_start_token_id in {backbone.name or 'this backbone'}",
            "the token that the decoder starts with",
            "add it to the model's config.json",
        )
    return int(found)
