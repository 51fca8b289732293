"""What stands in front of every route: keys, the size and time of a body, how many at once, and one log line each."""

import asyncio
import hashlib
import hmac
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from softprompt.serve.http.logs import failure, log
from softprompt.serve.http.presence import Presence, watched
from softprompt.serve.http.refusals import Refusal, busy

OPEN = "/health"  # the one route that needs no key
DISCARDED = 16_000_000  # bytes of a body that is too large, read so that the client gets to see why
SAFE = [  # headers of every answer
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
]


@dataclass(frozen=True)
class Limits:
    """What one client may cost."""

    body: int = 1_000_000  # bytes
    body_seconds: float = 30.0
    header_seconds: float = 10.0
    request_seconds: float = 300.0
    at_once: int = 256  # requests under way; what waits for the engine is bounded by its queue
    drain_seconds: float = 30.0


class Keys:
    """Secrets of which any one opens the door. Only their hashes are kept."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self.digests)

    def fits(self, given: str) -> bool:
        """True for a key of ours; takes the same time whichever it is and however much of it is right."""
        digest = hashlib.sha256(given.encode()).digest()
        return sum([hmac.compare_digest(digest, known) for known in self.digests]) > 0


@dataclass
class Gate:
    """What the guard knows beyond one request."""

    busy: int = 0  # requests under way
    draining: bool = False
    hosts: set[str] = field(default_factory=set)  # names that this server is called by; empty: any


class Guard:
    """ASGI middleware: admits a request or refuses it, hands the whole body on, and names every answer."""

    def __init__(self, app: ASGIApp, *, keys: Keys, limits: Limits, gate: Gate) -> None:
        self.app, self.keys, self.limits, self.gate = app, keys, limits, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every outcome is logged, and no exception leaves this function."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            raise RuntimeError("a connection that is no HTTP request")
        began = time.monotonic()
        note: dict[str, Any] = {"request_id": os.urandom(16).hex(), "status": 499}
        state = scope.setdefault("state", {})
        state["note"] = note
        state.setdefault("presence", Presence())
        reply = Reply(send, note)
        try:
            await self.answer(scope, receive, reply)
        except Refusal as refusal:
            await reply.refuse(refusal)
        except Exception as error:  # whatever it is, the client gets an answer of our shape, and the log the place
            failure(error, note["request_id"])
            await reply.refuse(Refusal(500, "internal_error", "the server could not answer this request"))
        finally:
            route = scope.get("route")
            note |= {"method": scope["method"], "route": getattr(route, "path", None)}
            log("request", **note, seconds=round(time.monotonic() - began, 4))
        return None

    async def answer(self, scope: Scope, receive: Receive, reply: "Reply") -> None:
        """Admit the request, read its body and run the app."""
        headers = Headers(scope["headers"])
        if scope["path"] != OPEN:
            self.admit(headers)
        if scope["method"] not in ("POST", "PUT", "PATCH"):
            return await self.app(scope, receive, reply)
        if self.gate.draining:
            raise busy(503, "draining", "the server is about to stop; try again", 5)
        if self.gate.busy >= self.limits.at_once:
            raise busy(429, "too_many_requests", "too many requests are under way; try again")
        self.gate.busy += 1
        try:
            body = await self.body(headers, receive, scope["state"]["presence"])
            return await self.app(scope, replay(body, receive), reply)
        finally:
            self.gate.busy -= 1

    def admit(self, headers: "Headers") -> None:
        """Raise `Refusal` 401 without a key of ours, and 403 for another name where there are no keys.

        A page that makes a browser believe its own name were this machine's (DNS rebinding) comes with that name.
        """
        if self.keys:
            if not self.keys.fits(given_key(headers.text(b"authorization"))):
                told = {"www-authenticate": 'Basic realm="softprompt", charset="UTF-8"'}
                raise Refusal(401, "invalid_api_key", "no API key, or none that is known here", headers=told)
        elif self.gate.hosts and host_of(headers.text(b"host")) not in self.gate.hosts:
            raise Refusal(403, "unknown_host", "this server is not called by that name; use localhost, or an API key")

    async def body(self, headers: "Headers", receive: Receive, presence: Presence) -> bytes:
        """The whole body; raises `Refusal` for one that is too large, too slow or no JSON."""
        kind = headers.text(b"content-type").partition(";")[0].strip().lower()
        length = headers.text(b"content-length")
        if length.isdecimal() and int(length) > self.limits.body:
            if b"expect" not in headers:
                await discard(receive)
            raise self.too_large()
        whole = await watched(self.read(receive), presence, self.limits.body_seconds, slow)
        if kind != "application/json" or headers.text(b"content-encoding", "identity") != "identity":
            raise Refusal(415, "unsupported_media_type", "the body must be plain application/json")
        return whole

    async def read(self, receive: Receive) -> bytes:
        """The bytes of a body, up to the limit."""
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refusal(499, "cancelled", "the client has gone")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.limits.body:
                await discard(receive)
                raise self.too_large()
            more = message.get("more_body", False)
        return b"".join(parts)

    def too_large(self) -> Refusal:
        """413, and the connection ends."""
        message = f"the body is larger than {self.limits.body} bytes"
        return Refusal(413, "body_too_large", message, headers={"connection": "close"})


class Headers(dict[bytes, bytes]):
    """The headers of a request, their names in small letters as ASGI has them; of equal names the last."""

    def text(self, name: bytes, default: str = "") -> str:
        """The value of one."""
        value = self.get(name)
        return default if value is None else value.decode("latin-1")


class Reply:
    """The way back to the client: adds headers that every answer has, and remembers the status."""

    def __init__(self, send: Send, note: dict[str, Any]) -> None:
        self.send, self.note, self.started = send, note, False

    async def __call__(self, message: Message) -> None:
        """Pass a message on."""
        if message["type"] == "http.response.start":
            self.started, self.note["status"] = True, message["status"]
            own = [(b"x-request-id", self.note["request_id"].encode()), *SAFE]
            message = {**message, "headers": [*message.get("headers", []), *own]}
        await self.send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Send a refusal, unless an answer has begun already."""
        if self.started:
            return
        body = json.dumps(refusal.body()).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body))} | refusal.headers
        coded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self({"type": "http.response.start", "status": refusal.status, "headers": coded})
        await self({"type": "http.response.body", "body": body})


def slow(seconds: float) -> Refusal:
    """The refusal of a body that does not come."""
    return Refusal(408, "body_timeout", "the body took too long", headers={"connection": "close"})


def given_key(header: str) -> str:
    """The key in an Authorization header: Bearer, or the password of Basic, which is what a browser asks for."""
    import base64

    scheme, _, rest = header.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest.strip(), validate=True).decode().partition(":")[2]
        except ValueError:
            return ""
    return ""


def host_of(header: str) -> str:
    """The name in a Host header, without its port."""
    return header.rpartition(":")[0].lower() if header.rpartition(":")[2].isdecimal() else header.lower()


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body at once, and then what comes after it: the end of the connection."""
    whole = [body]

    async def again() -> Message:
        if whole:
            return {"type": "http.request", "body": whole.pop(), "more_body": False}
        return await receive()

    return again


async def discard(receive: Receive) -> None:
    """Read on for a second at most: a client that is still sending would see a broken connection, not the reason."""
    size = 0
    try:
        async with asyncio.timeout(1):
            while size < DISCARDED:
                message = await receive()
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return
