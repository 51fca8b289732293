"""One answer being written: its tokens, its chance, and the text that can already be told."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from softprompt.generate import Ending, Settings, generator, pick
from softprompt.serve.contract import Delta, Finish, Piece, Reason, Request, Token

BROKEN = "\ufffd"  # what a tokenizer shows for a character that is not complete yet


def settings_of(request: Request, most: int) -> Settings:
    """The options of generation that a request asks for; raises `RecipeError` where they cannot be followed."""
    asked = request.sampling
    # top_p without sampling changes nothing and clients send it all the same, so here it is no error.
    top_p = asked.top_p if asked.temperature > 0 or not 0 < asked.top_p <= 1 else 1.0
    return Settings(most, temperature=asked.temperature, top_p=top_p, seed=asked.seed)


@dataclass(eq=False)
class Writer:
    """Choice `index` of a request; `room` is the most tokens it may have."""

    ending: Ending
    settings: Settings
    room: int
    index: int
    logprobs: int | None
    ids: list[int] = field(default_factory=list)
    told: str = ""
    over: bool = False

    def __post_init__(self) -> None:
        self.chance = generator(self.settings.seed, self.index)
        self.pending: list[Token] = []

    def choose(self, scores: Tensor, likeliest: int) -> int:
        """The next token, from float32 logits [V] whose argmax is known."""
        if self.settings.temperature == 0:
            token = likeliest
        else:
            token = int(pick(scores[None], self.settings, [self.chance])[0])
        if self.logprobs is not None:
            self.pending.append(self.weighed(scores, token))
        self.ids.append(token)
        return token

    def weighed(self, scores: Tensor, token: int) -> Token:
        """A token with its log-probability and the likeliest beside it."""
        logs = scores.log_softmax(-1)
        best = logs.topk(min(self.logprobs or 0, len(logs)))
        top = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return Token(token, self.spell(token), float(logs[token]), tuple((self.spell(i), v) for i, v in top))

    def spell(self, token: int) -> str:
        """One token as text, special ones by name."""
        return str(self.ending.tokenizer.decode([token]))

    def reason(self) -> Reason | None:
        """Why the answer ends here, or None where it goes on."""
        if self.ending.reached(self.ids):
            return "stop"
        return "length" if len(self.ids) >= self.room else None

    def pieces(self, reason: Reason | None) -> list[Piece]:
        """What can be told now; with a reason, all that is left and the end."""
        text = self.ending.text(self.ids) if reason else self.settled()
        made: list[Piece] = []
        if len(text) > len(self.told) or self.pending:
            made.append(Delta(text[len(self.told) :], self.index, tuple(self.pending)))
            self.told, self.pending = max(text, self.told, key=len), []
        return [*made, Finish(reason, self.index)] if reason else made

    def settled(self) -> str:
        """The part of the text that later tokens cannot change."""
        if len(self.ids) > 64 and len(self.ids) % (len(self.ids) // 64 + 1):
            return self.told  # all of it is decoded anew, so for long answers not at every token
        plain = self.ending.plain(self.ids)
        text = settled(plain, self.ending.stop, words=bool(getattr(self.tokenizer, "clean_up_tokenization_spaces", 0)))
        return text if text.startswith(self.told) else self.told

    @property
    def tokenizer(self) -> object:
        """The tokenizer of the backbone."""
        return self.ending.tokenizer


def settled(plain: str, stops: Sequence[str], *, words: bool = False) -> str:
    """The beginning of a text that stays whatever follows: no space at its ends, no half character or stop string.

    With `words`, the tokenizer takes spaces out again before what follows, so the last word is held back.
    """
    text = plain.rstrip(BROKEN).lstrip()
    held = max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
    text = text[: len(text) - held].rstrip()
    return text.rpartition(" ")[0].rstrip() if words else text


def likeliest(scores: Tensor) -> tuple[list[int], list[bool]]:
    """The best token of every row of logits [R, V], and whether the row is fit to choose from."""
    best = scores.max(-1)
    return best.indices.tolist(), torch.isfinite(best.values).tolist()
