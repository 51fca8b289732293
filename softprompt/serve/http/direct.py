"""POST routes whose body is one model, answered without the layers that FastAPI puts around a route.

Those take longer than all else that HTTP adds to a short request. FastAPI knows the same routes for its OpenAPI
document, and answers whatever is not a POST to one of their paths.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel, ValidationError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from softprompt.errors import SoftpromptError
from softprompt.serve.http.refusals import Refusal, refusal_of
from softprompt.serve.http.schemas import problem

Endpoint = Callable[[Any, Request], Awaitable[Response | dict[str, Any]]]
WRITTEN = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


@dataclass(frozen=True)
class Known:
    """What answers a path, and what its body has to be."""

    path: str
    model: type[BaseModel]
    endpoint: Endpoint


class Direct(FastAPI):
    """An application some of whose routes are asked directly; the guard before it has read the whole body."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.known: dict[str, Known] = {}

    def answer(self, path: str, tag: str) -> Callable[[Endpoint], Endpoint]:
        """Register `endpoint(asked, request)`, which gives a response or the document of one.

        The annotation of `asked` is the model of the body.
        """

        def register(endpoint: Endpoint) -> Endpoint:
            self.post(path, tags=[tag], response_model=None)(endpoint)  # for the document alone
            self.known[path] = Known(path, endpoint.__annotations__["asked"], endpoint)
            return endpoint

        return register

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises `Refusal` where it is refused, which the guard tells the client."""
        known = self.known.get(scope["path"]) if scope.get("method") == "POST" else None
        if known is None:
            return await super().__call__(scope, receive, send)
        scope["route"] = known  # the log names its path
        asked = read(known.model, (await receive())["body"])
        try:
            made = await known.endpoint(asked, Request(scope, receive, send))
        except SoftpromptError as error:
            raise refusal_of(error) from error
        return await (made(scope, receive, send) if isinstance(made, Response) else tell(made, send))


def read(model: type[BaseModel], body: bytes) -> BaseModel:
    """A body as its model; raises `Refusal` 400 without quoting it."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        message, param = problem(error.errors(include_url=False, include_context=False, include_input=False))
    raise Refusal(400, "invalid_request", message, param)


async def tell(made: dict[str, Any], send: Send) -> None:
    """Send a document as JSON."""
    body = WRITTEN.encode(made).encode("utf-8", "replace")
    headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
