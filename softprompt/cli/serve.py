"""`softprompt serve`, and `softprompt chat`, a thin client of it."""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.cli.options import Address, AsJson, Model, Where
from softprompt.cli.output import document, next_steps, note, say
from softprompt.cli.serve_vllm import Engines, check_engine, in_vllm
from softprompt.errors import RecipeError

if TYPE_CHECKING:
    from softprompt.artifact import Artifact
    from softprompt.backbones import Backbone
    from softprompt.serve.http.guard import Limits
    from softprompt.serve.http.service import Service
    from softprompt.serve.http.shelf import Shelf
    from softprompt.serve.launch import Opened

KEYS, TOKEN = "SOFTPROMPT_API_KEYS", "SOFTPROMPT_ADMIN_TOKEN"  # environment
Server = Annotated[str, typer.Option("--server", help="Address of a server.  [default key: $SOFTPROMPT_API_KEY]")]


def serve(
    model: Model = None,
    store: Annotated[str | None, typer.Option(help="Serve the prompts of this store.", metavar="S")] = None,
    prompts: Annotated[
        list[str] | None, typer.Option(help="Serve this file, or the files of this folder; repeatable.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any that is free.")] = 8000,
    api_keys: Annotated[
        Path | None, typer.Option(help=f"File of API keys, one a line; or ${KEYS}, with commas.")
    ] = None,
    admin_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help=f"Port of the administrator's calls; needs ${TOKEN}.")
    ] = None,
    queue: Annotated[int, typer.Option(min=1, help="Most requests that wait; more get 429.")] = 256,
    rows: Annotated[int, typer.Option(min=1, help="Most answers that are written at once.")] = 32,
    timeout: Annotated[float, typer.Option(min=0.1, help="Most seconds of one request.")] = 300.0,
    drain: Annotated[float, typer.Option(min=0, help="Seconds to finish requests when told to stop.")] = 30.0,
    watch: Annotated[float, typer.Option(min=0, help="Look for new prompts every so many seconds; 0: never.")] = 2.0,
    on: Annotated[Where | None, typer.Option("--on", help="Run the backbone on the workers of a Ray cluster.")] = None,
    address: Address = None,
    replicas: Annotated[
        str | None, typer.Option(help="With --on: 2, or 1-4 by the length of the queue.  [default: 1]", metavar="N|N-M")
    ] = None,
    cores: Annotated[int | None, typer.Option(min=1, help="With --on: cores of a replica.  [default: 1]")] = None,
    engine: Annotated[
        Engines, typer.Option(help="What writes: built-in, or vLLM, for text answers.")
    ] = Engines.builtin,
    engine_option: Annotated[
        list[str] | None, typer.Option(help="With --engine vllm: an option of its; repeatable.", metavar="NAME=VALUE")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve prompts over HTTP, in OpenAI's API, with a page."""
    check_engine(engine, engine_option or [], on)
    try:
        from softprompt.serve import launch
    except ModuleNotFoundError as error:
        found = f"no package {error.name}"
        raise RecipeError("SP-E770", found, "the packages of the server", "pip install 'softprompt[serve]'") from error
    from softprompt.serve.http.guard import Limits

    keys = launch.secrets_of(api_keys) if api_keys else [key for key in os.environ.get(KEYS, "").split(",") if key]
    door = launch.Door(host, port, keys, admin_port, os.environ.get(TOKEN, ""))
    launch.check_door(door)
    shelf = opened_shelf(store, prompts or [])
    limits = Limits(request_seconds=timeout, drain_seconds=drain)
    if on is None:
        if address is not None or replicas is not None or cores is not None:
            found = "--address, --replicas or --cores without --on"
            raise RecipeError("SP-E252", found, "--on ray beside them", "add --on ray")
        if engine is Engines.vllm:
            opening = in_vllm(shelf, backbone_named(shelf, model), limits, rows, queue, engine_option or [])
        else:
            opening = here(shelf, model, limits, rows=rows, waiting=queue)
    else:
        sizes = {"cores": cores or 1, "rows": rows, "waiting": queue}
        opening = on_cluster(shelf, model, limits, address, range_of(replicas or "1"), sizes)
    with opening as service:
        for (name, _), (_, code) in service.catalog.refused.items():
            note(f"{name} is not served: {code}; softprompt show says more", style="yellow")
        launch.run(service, door, lambda opened: announce(opened, as_json=as_json), watch=watch)


@contextmanager
def here(shelf: "Shelf", model: str | None, limits: "Limits", *, rows: int, waiting: int) -> "Iterator[Service]":
    """The service over an engine of this process."""
    from softprompt.serve import launch

    backbone = backbone_for(shelf, model)
    engine, service = launch.open_engine(shelf, backbone, limits, rows=rows, waiting=waiting)
    try:
        yield service
    finally:
        engine.close(drain=False)


@contextmanager
def on_cluster(
    shelf: "Shelf",
    model: str | None,
    limits: "Limits",
    address: str | None,
    replicas: tuple[int, int],
    sizes: dict[str, int],
) -> "Iterator[Service]":
    """The service over replicas; raises `RecipeError` SP-E822 without Ray, SP-E835 without Ray Serve."""
    from softprompt.sweep.workers import imported

    imported()
    try:
        from softprompt.serve.cluster.deployed import deployed, service_over
        from softprompt.serve.cluster.replica import Places
    except ImportError as error:
        do = "pip install 'softprompt[ray]', or leave out --on"
        raise RecipeError("SP-E835", "a ray package without Serve", "Ray Serve, for --on ray", do) from error
    wanted = backbone_named(shelf, model)
    with deployed(wanted, Places(*replicas, **sizes), address) as engine:
        yield service_over(engine, shelf, wanted["name"], limits)


def range_of(text: str) -> tuple[int, int]:
    """The fewest and the most replicas of `2` or `1-4`; raises `RecipeError` SP-E836 for anything else."""
    low, dash, high = text.partition("-")
    if not (low.isdecimal() and (high.isdecimal() or not dash)) or not 1 <= int(low) <= int(high or low):
        raise RecipeError("SP-E836", f"--replicas {text[:40]!r}", "a number, or two as in 1-4", "write --replicas 2")
    return int(low), int(high or low)


def opened_shelf(store: str | None, prompts: list[str]) -> "Shelf":
    """What is to be served; raises `RecipeError` SP-E772 for a store and files at once."""
    from softprompt.serve.http.shelf import Files, Kept
    from softprompt.store import Store

    if store and prompts:
        raise RecipeError("SP-E772", "a store and files", "one of them", "leave --store or --prompts out")
    if prompts:
        return Files([Path(path) for path in prompts])
    return Kept(Store(store))


def backbone_for(shelf: "Shelf", model: str | None) -> "Backbone":
    """The backbone of the first prompt, in the type that it was trained in; raises SP-E772 where there is no prompt."""
    from softprompt.backbones import load_backbone
    from softprompt.cli.load import open_model

    artifact, name = first_of(shelf, model)
    return load_backbone(name) if artifact is None else open_model(artifact, model)


def backbone_named(shelf: "Shelf", model: str | None) -> dict[str, Any]:
    """The same backbone, as arguments of `load_backbone` that mean the same on another machine with the same disk."""
    from softprompt.cli.load import named, ran, told

    artifact, name = first_of(shelf, model)
    if artifact is None:
        return {"name": placed(name)}
    run = ran(artifact)
    adapter = run.adapter if run else told(artifact, "backbone", "adapter")
    return {
        "name": placed(model or named(artifact)),
        "dtype": artifact.card.backbone.dtype,
        "adapter": placed(adapter) if adapter else None,
        "quantize": told(artifact, "backbone", "quantize") or "none",
    }


def placed(name: str) -> str:
    """A folder of this machine by its whole path; other names as they are."""
    return str(Path(name).absolute()) if Path(name).exists() else name


def first_of(shelf: "Shelf", model: str | None) -> "tuple[Artifact | None, str]":
    """The first prompt, and the model that was given; raises SP-E772 where there is neither."""
    first = next(((name, listed.newest) for name, listed in shelf.listing().items()), None)
    if first is not None:
        return shelf.load(*first), model or ""
    if model is None:
        found, do = (
            "nothing to serve",
            "softprompt store publish RUN NAME, or --prompts FILE, or --model M to wait for one",
        )
        raise RecipeError("SP-E772", found, "a store with a prompt, or files", do)
    return None, model


def announce(opened: "Opened", *, as_json: bool) -> None:
    """Say where the server is."""
    catalog = opened.service.catalog
    if as_json:
        document({"url": opened.url, "admin": opened.admin, "prompts": sorted(catalog.now.listed)})
        sys.stdout.flush()
        return
    say(f"{len(catalog.now.listed)} prompts over {catalog.base} at {opened.url} (stop: Ctrl-C)")
    if opened.admin:
        say(f"administrator's calls at {opened.admin}")
    name = next(iter(sorted(catalog.now.listed)), "NAME")
    next_steps(
        f"softprompt chat {name} --server {opened.url}",
        f"curl {opened.url}/v1/models",
        f"open {opened.url} in a browser",
    )
    sys.stdout.flush()


def chat(
    name: Annotated[str, typer.Argument(help="The prompt: name, name@version or name@alias.", metavar="NAME")],
    text: Annotated[
        str | None, typer.Argument(help="One text; a line at a time from standard input, if not given.")
    ] = None,
    server: Server = "http://127.0.0.1:8000",
    most: Annotated[int | None, typer.Option("--max-new-tokens", min=1, help="Most tokens of an answer.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="Sample; 0: the likeliest token.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of sampling.")] = None,
    as_json: AsJson = False,
) -> None:
    """Send texts to a server; each is answered by itself."""
    from softprompt.cli import remote

    wishes = {"max_tokens": most, "temperature": temperature, "seed": seed}
    options = {key: value for key, value in wishes.items() if value is not None}
    texts = [text] if text is not None else remote.typed()
    answers = []
    for one in texts:
        pieces = remote.stream(server, name, one, options)
        if as_json:
            answers.append({"text": one, "answer": "".join(pieces)})
            continue
        for piece in pieces:
            sys.stdout.write(remote.shown(piece))
            sys.stdout.flush()
        say()
    if as_json:
        document({"answers": answers})
    elif text is not None:
        next_steps(shlex.join(["softprompt", "chat", name, "--server", server]))
