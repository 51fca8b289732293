"""What the server's two halves say to each other: requests, the pieces of an answer, and the engine between them.

The HTTP side resolves names, checks keys and writes JSON; the engine runs the backbone. Neither imports the other, both
import this file, and nothing in it needs a tensor.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from softprompt.errors import SoftpromptError

Kind = Literal["write", "label", "tags", "number", "embedding"]
Reason = Literal["stop", "length", "cancelled"]
Trouble = Literal[
    "model_not_found",
    "invalid_request",
    "queue_full",
    "draining",
    "cancelled",
    "not_finite",
    "engine_failed",
    "internal",
]


class ServeError(SoftpromptError):
    """A request that was refused or failed; `trouble` is the machine's word for it.

    Bad fields of an example come as `DataError`, bad options of generation as `RecipeError`, and a bad prompt at `add`
    as `ArtifactError`: those are the client's to mend too.
    """

    def __init__(
        self, code: str, found: str, expected: str, do: str, *, trouble: Trouble, where: str | None = None
    ) -> None:
        super().__init__(code, found, expected, do, where=where)
        self.trouble: Trouble = trouble


@dataclass(frozen=True)
class Sampling:
    """How one answer is written. What is sampled depends on `seed` and the number of the choice, on nothing else."""

    max_new_tokens: int | None = None  # None: what the task was trained with
    temperature: float = 0.0  # 0: the likeliest token
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0  # the HTTP side draws one where the client gives none
    logprobs: int | None = None  # None: none; 0: of the chosen tokens; k: of the k likeliest beside them
    n: int = 1  # choices; choice i of a seed is the answer of row i in `softprompt.generate.generate`


@dataclass(frozen=True)
class Request:
    """One example for one task. `fields` are the columns of the task's template; lists of words for tagging."""

    task: str  # a name in the registry, already resolved
    fields: Mapping[str, str | tuple[str, ...]]
    kind: Kind
    version: str = ""  # empty: the newest at the moment of `submit`
    sampling: Sampling = field(default_factory=Sampling)  # for kind "write"


@dataclass(frozen=True)
class Token:
    """One written token: its text, log-probability before any sampling, and the likeliest at its place."""

    id: int
    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Delta:
    """More text of choice `index`. All deltas of a choice joined are exactly the answer, without its stop string."""

    text: str
    index: int = 0
    tokens: tuple[Token, ...] = ()  # only where log-probabilities were asked for


@dataclass(frozen=True)
class Finish:
    """Choice `index` is complete."""

    reason: Reason
    index: int = 0


@dataclass(frozen=True)
class Scored:
    """The answer of a head that scores; which field is set follows from the request's kind."""

    label: str = ""
    probabilities: Mapping[str, float] = field(default_factory=dict)  # kind "label": of every class
    tags: tuple[str, ...] = ()
    number: float | None = None
    embedding: tuple[float, ...] = ()


@dataclass(frozen=True)
class Usage:
    """Tokens of one request; always the last piece."""

    prompt_tokens: int  # prompt vectors and text
    completion_tokens: int = 0  # of all choices
    cached_tokens: int = 0  # of `prompt_tokens`: not computed again, because the prompt was compiled


Piece = Delta | Finish | Scored | Usage


@dataclass(frozen=True)
class Answer:
    """A whole answer: what `Handle.result` gathers from the pieces."""

    texts: tuple[str, ...]
    reasons: tuple[Reason, ...]
    tokens: tuple[tuple[Token, ...], ...]
    scored: Scored | None
    usage: Usage


@dataclass(frozen=True)
class TaskInfo:
    """One entry of the registry, as clients may see it."""

    name: str
    version: str
    kind: Kind  # what the head answers; "embedding" is answered by every task beside it
    labels: tuple[str, ...]  # classes or tags
    fields: tuple[str, ...]  # the columns that a request must give
    new_tokens: int  # the default of `max_new_tokens`
    limit: int  # most tokens of prompt, text and answer together
    vectors: int  # P
    method: str
    created: float  # seconds since 1970
    newest: bool = True  # what a request without a version gets


@dataclass(frozen=True)
class Stats:
    """What the engine has done since it began, and what it is doing."""

    running: int = 0
    waiting: int = 0
    prompts: int = 0
    requests: Mapping[str, int] = field(default_factory=dict)  # ended requests by outcome: "done" or a `Trouble`
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0  # forwards that decoded
    compiled: int = 0  # prompts whose keys and values are held
    compiled_bytes: int = 0
    hits: int = 0
    misses: int = 0
    evictions: int = 0
    failed: str = ""  # why the engine will answer nothing any more; empty while it may


class Handle(Protocol):
    """A request under way. Iterate it once, blocking or with `async for`; errors are raised out of the iteration."""

    @property
    def info(self) -> TaskInfo:
        """The version that this request holds."""

    def __iter__(self) -> Iterator[Piece]:
        """Pieces as they come, `Usage` last."""

    def __aiter__(self) -> AsyncIterator[Piece]:
        """The same on an event loop; leaving the loop early does not cancel, `cancel` does."""

    def result(self, timeout: float | None = None) -> Answer:
        """All pieces gathered; `TimeoutError` after `timeout` seconds, `ServeError` where the request failed."""

    def cancel(self) -> None:
        """Stop: the row leaves the batch before the next step; the iteration ends with `ServeError` "cancelled"."""


class Engine(Protocol):
    """One backbone and many prompts. Every method may be called from any thread."""

    def add(self, name: str, version: str, prompt: Any) -> TaskInfo:
        """Serve a `Prompt`, an `Artifact` or the path of one; once this returns, the next request works.

        An existing version of the name stays for requests that ask for it; the same version is replaced. Raises
        `ArtifactError` for a prompt that is not fit to serve here, and then nothing has changed.
        """

    def remove(self, name: str, version: str = "", *, wait: bool = True) -> None:
        """Take away a version, or with "" all of a name; with `wait`, return once no request holds it any more."""

    def names(self) -> tuple[TaskInfo, ...]:
        """The registry at this moment, in the order in which entries came."""

    def submit(self, request: Request) -> Handle:
        """Queue a request; never blocks. Raises `ServeError`, `DataError` or `RecipeError` where it is refused."""

    def stats(self) -> Stats:
        """Counts."""

    def close(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """Refuse new requests, finish (or with drain=False cancel) those under way, and stop."""


Source = str | Path  # where `add` reads an artifact
