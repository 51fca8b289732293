"""A server in a thread beside other work: for demonstrations, notebooks and tests."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from softprompt.backbones import Backbone
from softprompt.serve.http.app import make_app
from softprompt.serve.http.guard import Limits
from softprompt.serve.http.server import Draining, configured, run_server
from softprompt.serve.http.shelf import Shelf
from softprompt.serve.launch import address_of, listening, open_engine


@contextmanager
def beside(shelf: Shelf, backbone: Backbone) -> Iterator[str]:
    """The address of a server on a free port of this machine, which runs until the block is left."""
    engine, service = open_engine(shelf, backbone, Limits())
    try:
        door = listening("127.0.0.1", 0)
        server = Draining(configured(make_app(service), service), service)
        thread = threading.Thread(target=run_server, args=(server, [door]), kwargs={"watch": 0}, daemon=True)
        thread.start()
        while thread.is_alive() and not server.started:
            time.sleep(0.01)
        try:
            yield address_of(door)
        finally:
            server.drain()
            thread.join(service.limits.drain_seconds + 10)
    finally:
        engine.close(drain=False)
