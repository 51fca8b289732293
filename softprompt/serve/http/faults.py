"""Every error of a route as OpenAI's shape."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from softprompt.errors import SoftpromptError
from softprompt.serve.http.refusals import Refusal, refusal_of
from softprompt.serve.http.schemas import problem

WORDS = {404: ("not_found", "no such route; see /docs"), 405: ("method_not_allowed", "another method; see /docs")}


def answers_errors(app: FastAPI) -> None:
    """Register what turns exceptions into answers."""

    async def refused(request: Request, error: Any) -> Response:
        return told(error)

    async def ours(request: Request, error: Any) -> Response:
        return told(refusal_of(error))

    async def invalid(request: Request, error: Any) -> Response:
        message, param = problem(error.errors())
        return told(Refusal(400, "invalid_request", message, param))

    async def http(request: Request, error: Any) -> Response:
        code, message = WORDS.get(error.status_code, ("invalid_request", "a request that cannot be read"))
        return told(Refusal(error.status_code, code, message))

    async def defect(request: Request, error: Exception) -> Response:
        return told(Refusal(500, "internal_error", "the server could not answer this request"))

    app.add_exception_handler(Refusal, refused)
    app.add_exception_handler(SoftpromptError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, defect)


def told(refusal: Refusal) -> JSONResponse:
    """A refusal as a response."""
    return JSONResponse(refusal.body(), refusal.status, refusal.headers)
