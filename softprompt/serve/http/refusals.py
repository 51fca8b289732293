"""What a client is told when a request is refused or fails: OpenAI's shape, under 4 KB, and never the client's text."""

from dataclasses import dataclass, field
from typing import Any

from softprompt.errors import SoftpromptError
from softprompt.serve.contract import ServeError, Trouble

LONGEST = 1000  # characters of a message
STATUS: dict[Trouble, int] = {
    "model_not_found": 404,
    "invalid_request": 400,
    "queue_full": 429,
    "draining": 503,
    "cancelled": 499,  # nobody is there to read it; the log shows it
    "not_finite": 500,
    "engine_failed": 503,
    "internal": 500,
}
KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


@dataclass
class Refusal(Exception):
    """A request that gets no answer: HTTP status, OpenAI's `code`, a message, and the field that is to blame."""

    status: int
    code: str
    message: str
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The JSON document that the client gets."""
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        message = self.message[:LONGEST]
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}


def busy(status: int, code: str, message: str, seconds: int = 1) -> Refusal:
    """A refusal for now: the client may try again after some seconds."""
    return Refusal(status, code, message, headers={"retry-after": str(seconds)})


def refusal_of(error: SoftpromptError) -> Refusal:
    """An error of the package as an answer.

    `found` often quotes what the client sent, so it is told only where it quotes nothing; of failures that are ours,
    the client learns no more than that.
    """
    trouble: Trouble = error.trouble if isinstance(error, ServeError) else "invalid_request"
    status = STATUS[trouble]
    if trouble in ("queue_full", "draining"):
        message = "too many requests are waiting" if trouble == "queue_full" else "the server is about to stop"
        return busy(status, trouble, f"{error.code}: {message}; try again")
    if trouble == "engine_failed":
        return Refusal(status, trouble, f"{error.code}: the engine of this server has ended; ask another server")
    if status >= 500:
        return Refusal(status, "internal_error", f"{error.code}: the server could not answer this request")
    code = trouble if isinstance(error, ServeError) else error.code
    found = f"found {error.found}; " if plain(error.found) else ""
    return Refusal(status, code, f"{error.code}: {found}expected {error.expected}; do: {error.do}")


def plain(text: str) -> bool:
    """True for short words of ours: text of others stands in quotation marks in every message."""
    return len(text) <= 160 and text.isascii() and not set(text) & set("'\"`\\")
