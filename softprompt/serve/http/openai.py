"""The routes of OpenAI's API: models, completions and chat, whole or as a stream."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from softprompt.errors import SoftpromptError
from softprompt.serve.contract import Delta, Finish, Scored, Usage
from softprompt.serve.http.catalog import Entry
from softprompt.serve.http.direct import Direct
from softprompt.serve.http.formats import Chat, Completion, usage_of
from softprompt.serve.http.gather import spoken, together
from softprompt.serve.http.logs import failure
from softprompt.serve.http.presence import watched
from softprompt.serve.http.refusals import Refusal, refusal_of
from softprompt.serve.http.schemas import ChatRequest, CompletionRequest, Writing
from softprompt.serve.http.service import Given, Service, Work, outcome_of

Shape = Completion | Chat


def routes(app: Direct, service: Service) -> None:
    """Give an application these routes, over one service."""

    @app.get("/v1/models", tags=["models"])
    async def models() -> dict[str, Any]:
        """Every name that a request may give as `model`; `parent` is the backbone."""
        return {"object": "list", "data": [described(key, entry, service) for key, entry in service.catalog.models()]}

    @app.get("/v1/models/{model}", tags=["models"])
    async def model(model: str) -> dict[str, Any]:
        """One of them."""
        return described(model, await service.catalog.find(model), service)

    @app.answer("/v1/completions", "writing")
    async def completions(asked: CompletionRequest, request: Request) -> Response | dict[str, Any]:
        """Answer raw texts: the prompt's own template is written around them."""
        given = asked.prompt if isinstance(asked.prompt, list) else [asked.prompt]
        return await write(service, asked, given, Completion(asked.logprobs), request, "prompt")

    @app.answer("/v1/chat/completions", "writing")
    async def chat(asked: ChatRequest, request: Request) -> Response | dict[str, Any]:
        """Answer the text of one message. A prompt that classifies answers with the label."""
        wanted = (asked.top_logprobs or 0) if asked.logprobs else None
        return await write(service, asked, [asked.messages[0].text], Chat(wanted), request, "messages")


def described(key: str, entry: Entry, service: Service) -> dict[str, Any]:
    """A model of the list."""
    info = entry.info
    return {
        "id": key,
        "object": "model",
        "created": int(info.created),
        "owned_by": "softprompt",
        "root": info.name,
        "parent": service.catalog.base,
        "max_model_len": info.limit,
        "version": info.version,
        "kind": info.kind,
        "labels": list(info.labels),
        "fields": list(info.fields),
        "method": info.method,
    }


async def write(
    service: Service, asked: Writing, given: Sequence[Given], shape: Shape, request: Request, param: str
) -> Response | dict[str, Any]:
    """The answer to a request of either shape."""
    sampling = asked.sampling(secrets.randbits(31), shape.logprobs)
    note = request.scope["state"]["note"]
    work = await service.begin(asked.model, given, None, sampling, note, param)
    frame = {
        "id": shape.prefix + note["request_id"],
        "created": int(time.time()),
        "model": asked.model,
        "system_fingerprint": f"{work.entry.info.name}@{work.entry.info.version}",
    }
    if asked.stream:
        usage = bool(asked.stream_options and asked.stream_options.include_usage)
        return Streamed(work, shape, frame, choices=sampling.n, usage=usage)
    choices, usages = [], []
    for number, whole in enumerate(await work.answers(request.scope["state"]["presence"])):
        usages.append(whole.usage)
        for i in sorted(whole.reasons):
            text, tokens = whole.texts.get(i, ""), whole.tokens.get(i, [])
            choices.append(shape.full(number * sampling.n + i, text, tokens, whole.reasons[i]))
    return frame | {"object": shape.whole, "choices": choices, "usage": usage_of(together(usages))}


class Streamed(Response):
    """Server-sent events. Whatever ends the connection, the engine's rows are freed."""

    media_type = "text/event-stream"

    def __init__(self, work: Work, shape: Shape, frame: dict[str, Any], *, choices: int, usage: bool) -> None:
        self.work, self.shape, self.choices, self.usage = work, shape, choices, usage
        self.frame = frame | {"object": shape.chunk}
        self.status_code, self.background = 200, None
        self.init_headers({"x-accel-buffering": "no"})
        self.raw_headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write events until the answer ends or the client goes."""
        try:
            await watched(self.write(send), scope["state"]["presence"], None)
        except Refusal:  # nobody is there to be told
            return
        finally:
            self.work.close()

    async def write(self, send: Send) -> None:
        """The events, and the end."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async with asyncio.timeout(self.work.service.limits.request_seconds):
                async for event in self.events():
                    await send({"type": "http.response.body", "body": line(event), "more_body": True})
            last = b"data: [DONE]\n\n"
        except (Exception, TimeoutError) as error:
            last = line(self.broken(error).body())
        await send({"type": "http.response.body", "body": last})

    def broken(self, error: Exception) -> Refusal:
        """What a client reads where the end should be; the work is closed."""
        if isinstance(error, TimeoutError):
            refusal = Refusal(504, "timeout", "the answer took too long")
        elif isinstance(error, SoftpromptError):
            refusal = refusal_of(error)
        else:
            failure(error, self.work.note["request_id"])
            refusal = Refusal(500, "internal_error", "the server could not finish this answer")
        self.work.note["status"] = refusal.status
        self.work.close(outcome_of(refusal if isinstance(error, TimeoutError) else error))
        return refusal

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Chunks, a choice each."""
        usages, reasons = [], []
        for i in range(len(self.work.handles) * self.choices):
            for choice in self.shape.opening(i):
                yield self.frame | {"choices": [choice]}
        async for number, piece in self.work.pieces():
            first = number * self.choices
            if isinstance(piece, Delta):
                yield self.frame | {"choices": [self.shape.part(first + piece.index, piece.text, piece.tokens)]}
            elif isinstance(piece, Scored):
                text = spoken(piece, self.work.entry.info)
                yield self.frame | {"choices": [self.shape.part(first, text, ())]}
                yield self.frame | {"choices": [self.shape.end(first, "stop")]}
                reasons.append("stop")
            elif isinstance(piece, Finish):
                reasons.append(piece.reason)
                yield self.frame | {"choices": [self.shape.end(first + piece.index, piece.reason)]}
            else:
                usages.append(piece)
        total: Usage = together(usages)
        self.work.finished(reasons, total)
        if self.usage:
            yield self.frame | {"choices": [], "usage": usage_of(total)}


def line(event: dict[str, Any]) -> bytes:
    """One event."""
    return b"data: " + json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n\n"
