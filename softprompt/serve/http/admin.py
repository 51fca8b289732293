"""The administrator's calls: their own port, their own token, off by default. They take names, never paths."""

import asyncio
from typing import Any

from fastapi import FastAPI
from starlette.responses import Response
from starlette.types import ASGIApp

from softprompt.serve.http.app import health_of
from softprompt.serve.http.catalog import unknown
from softprompt.serve.http.faults import answers_errors
from softprompt.serve.http.guard import Guard, Keys
from softprompt.serve.http.logs import log
from softprompt.serve.http.schemas import NameRequest
from softprompt.serve.http.service import Service


def admin_app(service: Service, token: str) -> ASGIApp:
    """The application of the administrator's port. Every call but /health needs the token."""
    app = FastAPI(title="softprompt admin", docs_url=None, redoc_url=None)
    answers_errors(app)

    @app.get("/health")
    async def health() -> Response:
        """The process answers, and its engine lives."""
        return health_of(service)

    @app.get("/v1/prompts")
    async def prompts() -> dict[str, Any]:
        """What is served, what was withdrawn, and which prompts do not fit and why."""
        catalog = service.catalog
        refused = [{"name": n, "version": v, "code": code} for (n, v), (_, code) in catalog.refused.items()]
        served = [{"name": name, "version": version} for name, version in catalog.now.entries]
        return {"served": served, "withdrawn": sorted(catalog.withdrawn), "refused": refused}

    @app.post("/v1/load_prompt_adapter")
    async def load(asked: NameRequest) -> dict[str, str]:
        """Serve a name of the store now; once this returns, the next request works."""
        name = asked.name.partition("@")[0]
        await asyncio.to_thread(service.catalog.restore, name)
        entry = await service.catalog.find(asked.name)
        log("admin", call="load", task=name)
        return {"name": entry.info.name, "version": entry.info.version}

    @app.post("/v1/unload_prompt_adapter")
    async def unload(asked: NameRequest) -> dict[str, str]:
        """Serve a name no longer, until it is loaded again; requests under way are finished."""
        if asked.name not in service.catalog.now.listed:
            raise unknown()
        await asyncio.to_thread(service.catalog.withdraw, asked.name)
        log("admin", call="unload", task=asked.name)
        return {"name": asked.name}

    @app.post("/v1/sync")
    async def sync() -> dict[str, int]:
        """Look at the store now, not at the next round."""
        await asyncio.to_thread(service.catalog.sync)
        return {"prompts": len(service.catalog.now.listed)}

    return Guard(app, keys=Keys([token]), limits=service.limits, gate=service.gate)
