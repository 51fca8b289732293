"""Replicas started and ended, and the server's service over them."""

import asyncio
import logging
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import serve

from softprompt.errors import RecipeError, SoftpromptError
from softprompt.recipe import bare_name
from softprompt.serve.cluster.asked import Asked
from softprompt.serve.cluster.replica import Places, Replica
from softprompt.serve.cluster.replicas import Replicas
from softprompt.serve.http.catalog import Catalog
from softprompt.serve.http.guard import Limits
from softprompt.serve.http.metrics import Meters
from softprompt.serve.http.refusals import Refusal
from softprompt.serve.http.service import Service, Work, outcome_of
from softprompt.serve.http.shelf import Shelf
from softprompt.sweep.workers import connect

QUICK = 5.0  # seconds of too long a queue before another replica starts
SLOW = 300.0  # seconds of too short a one before a replica ends


@contextmanager
def deployed(backbone: dict[str, Any], places: Places, address: str | None = None) -> Iterator[Replicas]:
    """Replicas with a backbone, the arguments of `load_backbone`, on the Ray cluster at an address or on this machine.

    Raises `RecipeError` for a cluster that does not answer or has no room, `SoftpromptError` SP-E837 where none starts.
    """
    before, name = ray.is_initialized(), f"softprompt-{secrets.token_hex(4)}"
    stays = before or address is not None  # the cluster, after us
    if not before:
        connect(ray, address)
    try:
        gpus = min(1.0, ray.cluster_resources().get("GPU", 0.0))
        check_room(ray.nodes(), places, gpus)
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(proxy_location="Disabled")  # the door is ours
        try:
            engine = Replicas(started(backbone, places, gpus, name), places.waiting)
            try:
                yield engine
            finally:
                engine.close(drain=False)
        finally:
            if stays:
                serve.delete(name)
    finally:
        if not before:
            ray.shutdown()


def started(backbone: dict[str, Any], places: Places, gpus: float, name: str) -> Any:
    """A handle of replicas that answer; raises `SoftpromptError` where none does."""
    deployment = serve.deployment(Replica).options(**options(places, gpus))
    try:
        return serve.run(deployment.bind(backbone, places), name=name, route_prefix=None)
    except RuntimeError as error:
        known = re.search(r"SP-E\d+ [^\n]*", str(error))
        found = f"no replica that starts: {known[0] if known else error}".splitlines()[0][:300]
        do = "see that every machine of the cluster has the model and this package"
        raise SoftpromptError("SP-E837", found, "replicas that load the backbone", do) from error


def options(places: Places, gpus: float) -> dict[str, Any]:
    """What Serve is told of the replicas."""
    found: dict[str, Any] = {
        "name": "engine",
        "max_ongoing_requests": places.rows,
        "max_queued_requests": places.waiting,
        "ray_actor_options": {"num_cpus": places.cores, "num_gpus": gpus},
        "max_constructor_retry_count": 2,
    }
    if places.most == places.fewest:
        return found | {"num_replicas": places.fewest}
    scale = {"min_replicas": places.fewest, "max_replicas": places.most, "target_ongoing_requests": places.rows}
    return found | {"autoscaling_config": scale | {"upscale_delay_s": QUICK, "downscale_delay_s": SLOW}}


def check_room(nodes: list[dict[str, Any]], places: Places, gpus: float) -> None:
    """Raise `RecipeError` where not even the fewest replicas fit: Serve would wait for room for ever."""
    each = [node["Resources"] for node in nodes if node["Alive"]]
    room = sum(
        int(min(one.get("CPU", 0) // places.cores, one.get("GPU", 0) // gpus if gpus else float("inf"))) for one in each
    )
    if room < places.fewest:
        found = f"room for {room} replicas of {places.cores} cores{' and a GPU' if gpus else ''} each"
        raise RecipeError("SP-E836", found, f"for {places.fewest}", "lower --replicas or --cores, or add machines")


def service_over(engine: Replicas, shelf: Shelf, model: str, limits: Limits) -> Service:
    """A service over replicas, whose prompts have been tried."""
    base = bare_name(model)
    catalog = Catalog(engine, shelf, base)
    catalog.sync()
    return Admitting(engine, catalog, Meters(engine, base), limits)


class Admitting(Service):
    """Begins an answer once a replica has taken the request, so that a refusal comes instead of it, not within."""

    async def begin(self, *asked: Any) -> Work:
        """Queue every input of a request; raises `Refusal` or `SoftpromptError` where one of them is refused."""
        work = await super().begin(*asked)
        try:
            async with asyncio.timeout(self.limits.request_seconds):
                for handle in work.handles:
                    assert isinstance(handle, Asked)
                    await asyncio.shield(asyncio.wrap_future(handle.admitted))
        except TimeoutError:
            work.close("timeout")
            raise Refusal(504, "timeout", "no replica had room in time") from None
        except BaseException as error:
            work.close(outcome_of(error))
            raise
        return work
