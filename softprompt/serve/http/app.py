"""The application: routes of OpenAI's API and beside it, health, metrics, the page, and the guard around all."""

import asyncio
import base64
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp

from softprompt import __version__
from softprompt.serve.http import answers, openai
from softprompt.serve.http.catalog import Entry
from softprompt.serve.http.direct import Direct
from softprompt.serve.http.faults import answers_errors
from softprompt.serve.http.guard import Guard, Keys
from softprompt.serve.http.metrics import live
from softprompt.serve.http.reference import reference
from softprompt.serve.http.service import Service

PAGE = Path(__file__).parent / "page" / "index.html"


def make_app(service: Service, keys: Iterable[str] = ()) -> ASGIApp:
    """The application of the public port; with keys, every route but /health needs one of them."""
    app = Direct(
        title="softprompt",
        version=__version__,
        description="One frozen backbone, many prompts. `model` is the name of a prompt.",
        docs_url=None,  # FastAPI's page loads its scripts from elsewhere
        redoc_url=None,
    )
    answers_errors(app)
    openai.routes(app, service)
    answers.routes(app, service)
    state_routes(app, service)
    page_routes(app, service)
    return Guard(app, keys=Keys(keys), limits=service.limits, gate=service.gate)


def state_routes(app: FastAPI, service: Service) -> None:
    """How the server is."""

    @app.get("/health", tags=["state"])
    async def health() -> Response:
        """200 while the process answers and its engine lives, 503 once the engine has ended for good."""
        return health_of(service)

    @app.get("/ready", tags=["state"])
    async def ready() -> Response:
        """200 while requests are taken, 503 while the server is about to stop, and once its engine has ended."""
        if service.gate.draining:
            return JSONResponse({"status": "draining"}, 503)
        if service.engine.stats().failed:
            return health_of(service)
        return JSONResponse({"status": "ready", "prompts": len(service.catalog.now.listed)})

    @app.get("/version", tags=["state"])
    async def version() -> dict[str, str]:
        """The version of this package and the name of the backbone."""
        return {"version": __version__, "backbone": service.catalog.base}

    @app.get("/metrics", tags=["state"])
    async def metrics() -> Response:
        """Prometheus."""
        text = await asyncio.to_thread(service.meters.text)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    @app.get("/live", tags=["state"])
    async def now() -> dict[str, Any]:
        """What the page shows as it changes: requests running and waiting, throughput, counts."""
        return live(service.engine.stats(), service.meters.rate) | {"draining": service.gate.draining}


def health_of(service: Service) -> Response:
    """Whether the engine lives, and why not."""
    failed = service.engine.stats().failed
    return JSONResponse({"status": "failed", "reason": failed}, 503) if failed else JSONResponse({"status": "ok"})


def page_routes(app: FastAPI, service: Service) -> None:
    """What people look at."""
    text = PAGE.read_text(encoding="utf-8")
    safe = {"content-security-policy": policy(text)}

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(text, headers=safe)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        shown = reference(app.openapi())
        return HTMLResponse(shown, headers={"content-security-policy": policy(shown)})

    @app.get("/v1/prompts/{model}", tags=["models"])
    async def card(model: str) -> dict[str, Any]:
        """The card of a prompt: what it does, how good it is beside its baselines, where it comes from."""
        entry = await service.catalog.find(model)
        parents = await asyncio.to_thread(service.catalog.parents, entry)
        return card_of(entry) | {"parents": parents}


def card_of(entry: Entry) -> dict[str, Any]:
    """A card without recipe and canaries, which quote training data and paths."""
    info, card, report = entry.info, entry.card, entry.card.report
    return {
        "name": info.name,
        "version": info.version,
        "kind": info.kind,
        "labels": list(info.labels),
        "fields": list(info.fields),
        "limit": info.limit,
        "vectors": info.vectors,
        "method": card.method.name,
        "head": card.head.name,
        "template": card.template.text,
        "backbone": {"name": card.backbone.name, "family": card.backbone.family, "dtype": card.backbone.dtype},
        "report": {key: report[key] for key in ("metric", "scores", "baselines", "parameters", "dev") if key in report},
        "versions": card.versions,
    }


def policy(page: str) -> str:
    """A Content-Security-Policy that allows what the page itself holds, this server, and nothing else."""
    hashes = {tag: " ".join(digest(part) for part in inside(page, tag)) or "'none'" for tag in ("script", "style")}
    scripts, styles = f"script-src {hashes['script']}", f"style-src {hashes['style']}"
    rest = "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return f"default-src 'none'; {scripts}; {styles}; {rest}"


def inside(page: str, tag: str) -> list[str]:
    """The contents of every element of a kind."""
    return re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)


def digest(text: str) -> str:
    """The hash by which a policy names a script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
