"""A request that a replica answers, and another one goes on with where the first one dies."""

from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from softprompt.serve.contract import Delta, Finish, Piece, Request, Scored, ServeError, TaskInfo, Usage
from softprompt.serve.engine.ticket import Ticket


@dataclass(frozen=True, eq=False)
class Known:
    """A prompt that is served: its id at the replicas, and where they find its bytes."""

    info: TaskInfo
    id: str
    sent: list[Any]


@dataclass
class Choice:
    """One choice of an answer: what the client has of it, and what this attempt has said so far."""

    given: str = ""
    tokens: int = 0
    heard: str = ""
    counted: int = 0

    def again(self) -> None:
        """A new attempt begins."""
        self.heard, self.counted = "", 0

    def rest(self, piece: Delta) -> Delta:
        """What is new of a piece: steps of another batch may cut the same text elsewhere. Raises `ServeError`."""
        known = max(0, self.tokens - self.counted)
        self.heard, self.counted = self.heard + piece.text, self.counted + len(piece.tokens)
        if not (self.heard.startswith(self.given) or self.given.startswith(self.heard)):
            raise other_words()
        text, self.given = self.heard[len(self.given) :], max(self.given, self.heard, key=len)
        self.tokens = max(self.tokens, self.counted)
        return replace(piece, text=text, tokens=piece.tokens[known:])


@dataclass
class Told:
    """What a client has been told of an answer."""

    choices: dict[int, Choice] = field(default_factory=dict)
    rest: dict[Any, Any] = field(default_factory=dict)

    def again(self) -> None:
        """A new attempt begins."""
        for choice in self.choices.values():
            choice.again()

    def new(self, piece: Piece) -> Piece | None:
        """What is left of a piece to tell; raises `ServeError` where the client was told otherwise."""
        if isinstance(piece, Delta):
            rest = self.choices.setdefault(piece.index, Choice()).rest(piece)
            return rest if rest.text or rest.tokens else None
        if isinstance(piece, Finish):
            choice = self.choices.get(piece.index, Choice())
            if choice.heard != choice.given:
                raise other_words()
        key, words = (piece.index if isinstance(piece, Finish) else type(piece)), said(piece)
        if key in self.rest and self.rest[key] != words:
            raise other_words()
        known = key in self.rest
        self.rest[key] = words
        return None if known else piece


class Asked(Ticket):
    """A request under way at some replica."""

    def __init__(self, request: Request, known: Known) -> None:
        super().__init__(request, known.info)
        self.known, self.told = known, Told()
        self.admitted: Future[None] = Future()  # done once a replica has taken it, or it has been refused
        self.process = 0  # of the replica that has it

    def hear(self, piece: Piece) -> None:
        """Hand over what is new of a piece; raises `ServeError` SP-E838 where the replica before said otherwise."""
        new = self.told.new(piece)
        if new is not None:
            self.put(new)


def said(piece: Piece) -> Any:
    """What two replicas must agree on: labels, not the last digits of a probability."""
    if isinstance(piece, Finish):
        return piece.reason
    if isinstance(piece, Scored):
        return piece.label, piece.tags
    return piece.completion_tokens if isinstance(piece, Usage) else None


def other_words() -> ServeError:
    """The error for an answer that cannot go on: the client has another beginning of it."""
    found, do = "an answer that another replica began in other words", "send the request again"
    return ServeError("SP-E838", found, "the same words again", do, trouble="internal")
