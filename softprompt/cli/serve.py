"""`softprompt serve`, and `softprompt chat`, a thin client of it."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from softprompt.cli.options import AsJson, Model
from softprompt.cli.output import document, next_steps, note, say
from softprompt.errors import RecipeError

if TYPE_CHECKING:
    from softprompt.backbones import Backbone
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
    as_json: AsJson = False,
) -> None:
    """Serve prompts over HTTP, in OpenAI's API, with a page."""
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
    backbone = backbone_for(shelf, model)
    limits = Limits(request_seconds=timeout, drain_seconds=drain)
    engine, service = launch.open_engine(shelf, backbone, limits, rows=rows, waiting=queue)
    for (name, _), (_, code) in service.catalog.refused.items():
        note(f"{name} is not served: {code}; softprompt show says more", style="yellow")
    try:
        launch.run(service, door, lambda opened: announce(opened, as_json=as_json), watch=watch)
    finally:
        engine.close(drain=False)


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

    first = next(((name, listed.newest) for name, listed in shelf.listing().items()), None)
    if first is not None:
        return open_model(shelf.load(*first), model)
    if model is None:
        found, do = (
            "nothing to serve",
            "softprompt store publish RUN NAME, or --prompts FILE, or --model M to wait for one",
        )
        raise RecipeError("SP-E772", found, "a store with a prompt, or files", do)
    return load_backbone(model)


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
