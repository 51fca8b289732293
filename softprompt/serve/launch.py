"""From the settings of a command line to a server that runs until it is told to stop."""

import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from softprompt.backbones import Backbone
from softprompt.errors import RecipeError, SoftpromptError
from softprompt.recipe import bare_name
from softprompt.serve.contract import Engine
from softprompt.serve.engine import PromptEngine
from softprompt.serve.engine.scheduler import Limits as EngineLimits
from softprompt.serve.http import logs
from softprompt.serve.http.admin import admin_app
from softprompt.serve.http.app import make_app
from softprompt.serve.http.catalog import Catalog
from softprompt.serve.http.guard import Limits
from softprompt.serve.http.metrics import Meters
from softprompt.serve.http.server import Draining, bound_socket, configured, run_server
from softprompt.serve.http.service import Service
from softprompt.serve.http.shelf import Shelf

SHORTEST = 16  # characters of a key: fewer can be tried out


@dataclass(frozen=True)
class Door:
    """Where a server can be reached, and by whom."""

    host: str = "127.0.0.1"
    port: int = 8000  # 0: any that is free
    keys: Sequence[str] = ()
    admin_port: int | None = None
    admin_token: str = ""


@dataclass(frozen=True)
class Opened:
    """What a server says of itself once it takes requests."""

    url: str
    admin: str | None
    service: Service


def open_engine(
    shelf: Shelf, backbone: Backbone, limits: Limits, *, rows: int = 32, waiting: int = 256
) -> tuple[PromptEngine, Service]:
    """An engine that holds what the shelf has, and the service over it."""
    engine = PromptEngine(backbone, EngineLimits(rows=rows, waiting=waiting))
    return engine, service_of(engine, shelf, bare_name(backbone.name), limits)


def service_of(engine: Engine, shelf: Shelf, base: str, limits: Limits) -> Service:
    """A service whose prompts have been loaded."""
    catalog = Catalog(engine, shelf, base)
    catalog.sync()
    return Service(engine, catalog, Meters(engine, base), limits)


def run(service: Service, door: Door, opened: Callable[[Opened], None], *, watch: float = 2.0) -> None:
    """Serve until SIGTERM or SIGINT, finish what is under way, and return. `opened` is told the address.

    Raises `RecipeError` SP-E773 for a door that is open to others without a key, and `SoftpromptError` SP-E775 where an
    address is taken.
    """
    check_door(door)
    service.gate.hosts = set() if door.keys else {door.host.lower(), "localhost", "127.0.0.1", "[::1]"}
    socket_ = listening(door.host, door.port)
    server = Draining(configured(make_app(service, door.keys), service), service)
    admin, address = None, None
    if door.admin_port is not None:
        other = listening(door.host, door.admin_port)
        admin = (Draining(configured(admin_app(service, door.admin_token), service), service), [other])
        address = address_of(other)
    logs.to_stderr()
    opened(Opened(address_of(socket_), address, service))
    run_server(server, [socket_], watch=watch, admin=admin)
    logs.log("stopped")


def check_door(door: Door) -> None:
    """Raise `RecipeError` where a stranger could come in."""
    for key in (*door.keys, *([door.admin_token] if door.admin_port is not None else [])):
        if len(key) < SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
            found = f"a key or token of {len(key)} characters"
            expected = f"{SHORTEST} or more of plain ASCII without spaces"
            do = "make one with: python -c 'import secrets; print(secrets.token_urlsafe())'"
            raise RecipeError("SP-E774", found, expected, do)
    if not door.keys and not local(door.host):
        found = f"the address {door.host} without an API key: everybody who can reach it could use it"
        raise RecipeError("SP-E773", found, "a key", "add --api-keys FILE, or use --host 127.0.0.1")


def local(host: str) -> bool:
    """True for addresses that only this machine reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listening(host: str, port: int) -> socket.socket:
    """A socket on an address; raises `SoftpromptError` SP-E775 where there can be none."""
    try:
        return bound_socket(host, port)
    except OSError as error:
        found = f"{host}:{port}, which cannot be listened to ({(error.strerror or 'no address').lower()})"
        raise SoftpromptError("SP-E775", found, "a free address of this machine", "choose another --port") from error


def address_of(made: socket.socket) -> str:
    """The URL of a socket."""
    host, port = made.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def secrets_of(path: Path) -> list[str]:
    """Keys from a file, one a line; raises `RecipeError` SP-E774 where there is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise RecipeError(
            "SP-E774", "no file of keys that can be read", "one key a line", "make one", where=str(path)
        ) from error
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise RecipeError("SP-E774", "a file without a key", "one key a line", "write one into it", where=str(path))
    return keys
