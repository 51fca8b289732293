"""Servers of the tests: in a thread, on a free port."""

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import openai
from serve.small_engine import SmallShelf, artifact

from softprompt.serve.http.app import make_app
from softprompt.serve.http.catalog import Catalog
from softprompt.serve.http.guard import Gate, Limits
from softprompt.serve.http.metrics import Meters
from softprompt.serve.http.server import Draining, bound_socket, configured, run_server
from softprompt.serve.http.service import Service


@dataclass
class Running:
    """A server in a thread."""

    service: Service
    shelf: object
    server: Draining
    url: str
    port: int
    key: str | None

    def client(self, **options):
        """The official client, unchanged."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key or "none", max_retries=0, **options)

    def http(self, **options):
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        return httpx.Client(base_url=self.url, headers=headers | options.pop("headers", {}), timeout=20, **options)

    @property
    def engine(self):
        return self.service.engine


@contextmanager
def running(engine, shelf, *, keys=(), limits=None, watch=0.0, hosts=()):
    catalog = Catalog(engine, shelf, "small")
    catalog.sync()
    service = Service(engine, catalog, Meters(engine, "small"), limits or Limits(), Gate(hosts=set(hosts)))
    app = make_app(service, keys)
    door = bound_socket("127.0.0.1", 0)
    port = door.getsockname()[1]
    server = Draining(configured(app, service), service)
    thread = threading.Thread(target=run_server, args=(server, [door]), kwargs={"watch": watch}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Running(service, shelf, server, f"http://127.0.0.1:{port}", port, next(iter(keys), None))
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def small_shelf():
    shelf = SmallShelf()
    shelf.put("moods", artifact(answer="good"))
    shelf.put("moods", artifact(answer="bad"), "2")
    shelf.put("writer", artifact("write", ()))
    shelf.put("tagger", artifact("tags", ("O", "X")))
    shelf.put("stars", artifact("number", ()))
    shelf.put("pair", artifact(fields=("premise", "hypothesis")))
    shelf.names["moods"] = {"prod": "1"}
    return shelf
