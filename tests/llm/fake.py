"""A server that speaks OpenAI's chat API over real HTTP and has a planted optimum; it fails when it is told to.

The model `task` names the colour of a thing, and is right on the more texts the more planted words stand in the prompt.
The model `writer` edits the last prompt that it is shown: it adds a planted word, or a useless one, or drops one, or
takes over what the others have; at times it writes no prompt, or one that is known.
Every answer is a function of the request, so that runs can be compared; every fault of the request and the attempt.
"""

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

PLANTED = ("slowly", "aloud", "twice")
USELESS = ("banana", "perhaps", "zebra", "maybe", "window", "yes")
COLOURS = {"grass": "green", "leaf": "green", "sky": "blue", "sea": "blue"}
FAULTS = ("429", "500", "malformed", "nothing")
OPTIMUM = len(PLANTED)


def draw(*parts: object) -> int:
    """A number that depends on the parts and on nothing else."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big")


def planted(prompt: str) -> int:
    """How many planted words a prompt has."""
    return sum(word in prompt.split() for word in PLANTED)


def name_colour(message: str) -> str:
    """The answer of the task model: right on a third of the texts for each planted word."""
    prompt, _, text = message.removesuffix("\n\nAnswer with one of: blue, green.").rpartition("\n\n")
    thing = next(word for word in text.split() if word in COLOURS)
    right = COLOURS[thing]
    wrong = "blue" if right == "green" else "green"
    return right if draw("text", text) % OPTIMUM < planted(prompt) else wrong


def edit(body: dict[str, Any]) -> str:
    """The answer of the writer."""
    asked = body["messages"][-1]["content"]
    shown = re.findall(r"<prompt>(.*?)</prompt>", asked, re.DOTALL)
    chance = draw("edit", asked, body.get("seed"))
    words = (shown[-1] if shown else "Name the thing.").split()
    kind = chance % 6
    if kind == 0:
        return "I would rather write no tags."
    if kind == 1 and len(words) > 3:
        words.pop(chance // 7 % len(words))
    elif kind == 2:
        words += [word for prompt in shown for word in prompt.split() if word in PLANTED and word not in words]
    elif kind == 3:
        words.append(USELESS[chance // 11 % len(USELESS)])
    elif kind > 3:
        words.append(PLANTED[chance // 13 % OPTIMUM])
    return f"Here it is: <new>{' '.join(words)}</new>"  # often one that was written before


@dataclass
class Fake:
    """What the server was asked, and how it fails: `faults` of a hundred requests."""

    faults: int = 0
    slow: float = 0.0
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    always: str = ""  # the one fault of every request
    cut: int = 0  # of a hundred answers of the writer
    lock: Lock = field(default_factory=Lock)
    url: str = ""
    own_temperature: bool = False  # refuses any other, as hosted reasoning models do

    @property
    def calls(self) -> int:
        """Requests that came over the wire."""
        return len(self.requests)

    def by(self, model: str) -> int:
        """Requests of one model."""
        return sum(body["model"] == model for body in self.requests)

    def fault(self, body: dict[str, Any]) -> str:
        """How this attempt fails, or an empty string; the third attempt of a request never does."""
        text = json.dumps(body, sort_keys=True)
        with self.lock:
            self.requests.append(body)
            self.seen[text] += 1
            count = self.seen[text]
            kind = self.always
            if self.own_temperature and body.get("temperature", 1) != 1:
                kind = "temperature"
            if not kind and count < 3 and draw("fault", text, count) % 100 < self.faults:
                kind = FAULTS[draw("kind", text, count) % len(FAULTS)]
            self.failed[kind or "none"] += 1
        return kind

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """A completion."""
        asked = body["messages"][-1]["content"]
        text = name_colour(asked) if body["model"] == "task" else edit(body)
        cut = body["model"] == "writer" and draw("cut", asked, body.get("seed")) % 100 < self.cut
        message = {"role": "assistant", "content": text[: len(text) // 2] if cut else text}
        choice = {"index": 0, "message": message, "finish_reason": "length" if cut else "stop"}
        usage = {"prompt_tokens": len(asked.split()), "completion_tokens": len(text.split()), "total_tokens": 0}
        made = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
        return made | {"usage": usage}


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    fake: Fake

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.fake.headers.append({key.lower(): value for key, value in self.headers.items()})
        time.sleep(self.fake.slow)
        fault = self.fake.fault(body) if self.path == "/v1/chat/completions" else "404"
        if fault == "hang":
            time.sleep(1.0)
        told = self.headers["authorization"]  # as careless servers do
        if fault in ("429", "500", "400", "401", "404"):
            self.send(int(fault), json.dumps({"error": {"message": f"fault {fault} for {told}"}}).encode())
        elif fault == "temperature":
            said = "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) is."
            self.send(400, json.dumps({"error": {"message": said, "param": "temperature"}}).encode())
        elif fault == "malformed":
            self.send(200, b'{"choices": [{"mess')
        elif fault == "nothing":
            self.send(200, b'{"choices": []}')
        else:
            self.send(200, json.dumps(self.fake.answer(body)).encode())

    def send(self, status: int, data: bytes) -> None:
        """One answer."""
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        if status == 429:
            self.send_header("retry-after", "0")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Nothing on standard error."""


class Server(ThreadingHTTPServer):
    """Threads that end with the test, and clients that may go away."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no error of the server."""


@contextmanager
def serving(**settings: Any) -> Iterator[Fake]:
    """A server on a free port of this machine."""
    fake = Fake(**settings)
    handler = type("Bound", (Handler,), {"fake": fake})
    server = Server(("127.0.0.1", 0), handler)
    fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
