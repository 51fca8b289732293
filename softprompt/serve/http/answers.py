"""Routes beside OpenAI's: labels with probabilities, tags, numbers; and embeddings, which are OpenAI's again."""

import base64
import struct
import time
from collections.abc import Sequence
from typing import Any

from fastapi import Request

from softprompt.serve.contract import Kind, Sampling, Scored
from softprompt.serve.http.direct import Direct
from softprompt.serve.http.formats import usage_of
from softprompt.serve.http.gather import together
from softprompt.serve.http.schemas import EmbeddingRequest, ScoreRequest, TagRequest
from softprompt.serve.http.service import Given, Service


def routes(app: Direct, service: Service) -> None:
    """Give an application these routes, over one service."""

    @app.answer("/v1/classify", "answers")
    async def classify(asked: ScoreRequest, request: Request) -> dict[str, Any]:
        """The label of every input, with the probability of every label."""
        return await answer(service, asked.model, asked.input, "label", request)

    @app.answer("/v1/tag", "answers")
    async def tag(asked: TagRequest, request: Request) -> dict[str, Any]:
        """A tag for every word of every input."""
        return await answer(service, asked.model, asked.input, "tags", request)

    @app.answer("/v1/regress", "answers")
    async def regress(asked: ScoreRequest, request: Request) -> dict[str, Any]:
        """A number for every input."""
        return await answer(service, asked.model, asked.input, "number", request)

    @app.answer("/v1/embeddings", "answers")
    async def embeddings(asked: EmbeddingRequest, request: Request) -> dict[str, Any]:
        """A vector for every input: what the backbone makes of it with this prompt."""
        found = await answer(service, asked.model, asked.input, "embedding", request)
        if asked.encoding_format == "base64":
            for item in found["data"]:
                item["embedding"] = packed(item["embedding"])
        return found


async def answer(service: Service, model: str, given: Any, kind: Kind, request: Request) -> dict[str, Any]:
    """The answers to one input or to a list of them."""
    inputs: Sequence[Given] = given if isinstance(given, list) else [given]
    note = request.scope["state"]["note"]
    work = await service.begin(model, inputs, kind, Sampling(), note, "input")
    wholes = await work.answers(request.scope["state"]["presence"])
    return {
        "id": f"{kind}-{note['request_id']}",
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": [{"index": i} | shown(whole.scored, kind) for i, whole in enumerate(wholes)],
        "usage": usage_of(together([whole.usage for whole in wholes])),
    }


def shown(scored: Scored, kind: Kind) -> dict[str, Any]:
    """One answer. `probs` and `num_classes` are what vLLM's /classify calls them."""
    if kind == "label":
        chances = dict(scored.probabilities)
        both = {"probs": list(chances.values()), "num_classes": len(chances)}
        return {"label": scored.label, "probabilities": chances} | both
    if kind == "tags":
        return {"tags": list(scored.tags)}
    if kind == "number":
        return {"number": scored.number}
    return {"object": "embedding", "embedding": list(scored.embedding)}


def packed(vector: Sequence[float]) -> str:
    """Floats of 32 bits in base64, little end first."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
