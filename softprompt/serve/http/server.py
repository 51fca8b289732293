"""uvicorn around the applications: slow and long headers are cut off, SIGTERM drains, and a shelf is watched.

Its parser and its loop are those in C (httptools, uvloop): a short request takes half of the time.
"""

import asyncio
import signal
import socket
import sys
import time
from itertools import chain
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from softprompt.errors import SoftpromptError
from softprompt.serve.http.logs import failure, log
from softprompt.serve.http.presence import Presence
from softprompt.serve.http.service import Service

CONNECTIONS = 1000
LONGEST_HEAD = 32_768  # bytes of a request line and headers


class Impatient(HttpToolsProtocol):
    """Closes connections whose request line and headers do not come in time, or do not end: uvicorn waits for ever."""

    seconds = 10.0
    timer: asyncio.TimerHandle | None = None
    heading = False  # whether the head of a request has begun and not ended
    heard = 0  # bytes of it that have come since it began

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection begins: so does its time."""
        super().connection_made(transport)
        self.earlier: list[RequestResponseCycle] = []  # requests of a pipeline, before the last, that are not answered
        self.watch()

    def data_received(self, data: bytes) -> None:
        """Bytes came; the time of a head does not begin anew with each of them."""
        begun = self.heading
        super().data_received(data)
        self.heard = self.heard + len(data) if begun and self.heading else 0
        if self.heard > LONGEST_HEAD and not self.transport.is_closing():
            self.send_400_response("The headers are too long.")
        self.watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """A connection ends, and with it whatever is asked on it; uvicorn tells the last request alone."""
        self.unwatch()
        super().connection_lost(exc)
        for cycle in (*self.earlier, self.cycle) if self.cycle is not None else ():
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
                cycle.scope["state"]["presence"].leave()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope["state"]["presence"] = Presence()
        self.heading = True

    def on_headers_complete(self) -> None:
        """The head is there; what is raised here becomes a 400."""
        before, self.heading = self.cycle, False
        if len(self.url) + sum(map(len, chain(*self.headers))) > LONGEST_HEAD:
            raise ValueError("the headers are too long")
        super().on_headers_complete()
        if before is not None:
            self.earlier = [cycle for cycle in (*self.earlier, before) if not cycle.response_complete]

    def watch(self) -> None:
        """Run the clock while headers are awaited, and stop it while a request is under way."""
        if self.answering:
            self.unwatch()
        elif self.timer is None and not self.transport.is_closing():
            self.timer = self.loop.call_later(self.seconds, self.cut)

    def unwatch(self) -> None:
        """Stop the clock."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def cut(self) -> None:
        """Close a connection that waits for headers; one that is being answered is left alone."""
        self.timer = None
        if not self.answering:
            self.transport.close()

    @property
    def answering(self) -> bool:
        """Whether a request is under way."""
        return self.cycle is not None and not self.cycle.response_complete


class Draining(uvicorn.Server):
    """Stops in two steps: on a signal it refuses new requests with 503 and finishes those under way, then it ends.

    The exit code of an orderly end is 0; a second SIGINT ends at once.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service, self.until = service, 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains."""
        if self.service.gate.draining and sig == signal.SIGINT:
            self.force_exit = self.should_exit = True
            return
        self.drain()

    def drain(self) -> None:
        """Refuse what comes from now on."""
        if not self.service.gate.draining:
            self.until = time.monotonic() + self.service.limits.drain_seconds
            self.service.gate.draining = True

    async def on_tick(self, counter: int) -> bool:
        """End once nothing is under way, or when the time for that is over."""
        gate = self.service.gate
        if gate.draining and not self.should_exit and (gate.busy == 0 or time.monotonic() > self.until):
            log("draining", under_way=gate.busy)
            self.should_exit = True
        return await super().on_tick(counter)


def configured(app: ASGIApp, service: Service) -> uvicorn.Config:
    """Uvicorn's settings: its own logs stay silent, because access lines hold paths that clients chose."""
    patient = type("Timed", (Impatient,), {"seconds": service.limits.header_seconds})
    return uvicorn.Config(
        app,
        http=patient,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=int(service.limits.header_seconds) or 1,
        timeout_graceful_shutdown=5,
    )


def new_loop() -> asyncio.AbstractEventLoop:
    """An event loop that takes half of the time of Python's own; on Windows, which it does not know, Python's."""
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


def run_server(server: Draining, sockets: list[socket.socket], *, watch: float = 2.0, admin: Any = None) -> None:
    """Serve until a signal, on a loop of its own."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(serve(server, sockets, watch=watch, admin=admin))


async def serve(server: Draining, sockets: list[socket.socket], *, watch: float = 2.0, admin: Any = None) -> None:
    """Serve until a signal; `admin` is a server and its sockets. The shelf is looked at every `watch` seconds."""
    tasks = [asyncio.create_task(watching(server.service, watch))] if watch else []
    if admin is not None:
        other, doors = admin
        tasks.append(asyncio.create_task(other._serve(doors)))  # without signals: the first server has them
    try:
        await server.serve(sockets)
    finally:
        if admin is not None:
            other.should_exit = True
            await asyncio.wait(tasks[-1:], timeout=5)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def watching(service: Service, seconds: float) -> None:
    """Keep the catalogue in step with the shelf."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await asyncio.to_thread(service.catalog.sync)
        except SoftpromptError as error:
            log("store", code=error.code)
        except Exception as error:  # a defect must not end the rounds
            failure(error)


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that listens; raises `OSError` where the address is taken or is none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named: asyncio switches Nagle's algorithm off only then, and it costs 40 ms an answer.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(512)
    except OSError:
        made.close()
        raise
    made.set_inheritable(False)
    return made
