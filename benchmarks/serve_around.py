"""What stands around a step of the engine: a thousand prompts beside ten, and HTTP in front of it (for serve.py)."""

import http.client
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from softprompt.artifact import Artifact
from softprompt.core import Start
from softprompt.heads import LanguageModel, Verbalizer
from softprompt.methods.prompt_tuning import PromptTuning
from softprompt.prompt import Prompt, Task
from softprompt.serve.contract import Request, Sampling
from softprompt.serve.engine import PromptEngine
from softprompt.serve.engine.limits import Limits
from softprompt.serve.http import logs
from softprompt.serve.http.app import make_app
from softprompt.serve.http.guard import Limits as HttpLimits
from softprompt.serve.http.server import Draining, bound_socket, configured, run_server
from softprompt.serve.http.shelf import Files
from softprompt.serve.launch import open_engine
from softprompt.template import Template

MIB = 1 << 20
ASKED = 30  # requests of each kind whose time is taken
PAIRS = 300  # requests over HTTP and direct: each takes 18 ms, give or take 2, and a difference of 1 is looked for


def resident() -> int:
    """Bytes of memory that this process has."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * 4096


def write_prompt(backbone: Any, m: int, seed: int) -> Prompt:
    """A prompt that writes, of random vectors."""
    vectors = torch.randn(m, backbone.spec.hidden, generator=torch.Generator().manual_seed(seed))
    method = PromptTuning(backbone.spec, Start(vectors * backbone.spec.rms))
    template = Template("{soft}{text}", backbone, length=m)
    return Prompt(backbone, method, LanguageModel(), template, Task("generation", new_tokens=4))


def first_piece(engine: PromptEngine, name: str, text: str) -> float:
    """CPU seconds from a request to the first of its answer."""
    begin = time.process_time()
    handle = engine.submit(Request(name, {"text": text}, "write", sampling=Sampling(max_new_tokens=2)))
    next(iter(handle))
    taken = time.process_time() - begin
    handle.result()
    return taken


def many(backbone: Any, m: int, texts: list[str], counts: tuple[int, int] = (10, 1000)) -> dict[str, Any]:
    """Memory, and CPU time to the first token, with few and with many prompts."""
    engines, memory, compiled = [], [], []
    for count in counts:
        before, engine = resident(), PromptEngine(backbone, Limits())
        for i in range(count):
            engine.add(f"t{i}", "1", write_prompt(backbone, m, i))
        engines.append(engine)
        memory.append(resident() - before)
        compiled.append(engine.stats().compiled_bytes)
    times: list[list[float]] = [[], []]
    for i in range(ASKED + 3):
        for engine, count, found in random.sample(list(zip(engines, counts, times, strict=True)), 2):
            taken = first_piece(engine, f"t{random.randrange(count)}", texts[i % len(texts)])
            found.extend([taken] if i >= 3 else [])
    for engine in engines:
        engine.close()
    medians = [statistics.median(found) for found in times]
    return {
        "m": m,
        "prompts": list(counts),
        "MiB of weights": round(sum(x.numel() * x.element_size() for x in backbone.model.parameters()) / MIB, 1),
        "MiB that the process grew by": [round(grown / MIB, 1) for grown in memory],
        "MiB of compiled prompts": [round(held / MIB, 1) for held in compiled],
        "cpu ms to the first token": [round(1000 * median, 2) for median in medians],
        "many / few": round(medians[1] / medians[0], 3),
    }


@contextmanager
def served(backbone: Any, m: int) -> Iterator[tuple[PromptEngine, int]]:
    """A server with one task of two classes, in this process; its engine and its port."""
    made = write_prompt(backbone, m, 0)
    template = Template("{soft}{text}{mask}", backbone, length=m)
    head = Verbalizer([[20], [21]])
    prompt = Prompt(backbone, made.method, head, template, Task("classification", ("a", "b"))).eval()
    with tempfile.TemporaryDirectory() as folder:
        Artifact.of(prompt, {}, {}).save(Path(folder) / "task.safetensors")
        engine, service = open_engine(Files([Path(folder)]), backbone, HttpLimits())
    service.gate.hosts = {"127.0.0.1"}
    logs.to_stderr()  # a line a request, as `softprompt serve` writes it
    door = bound_socket("127.0.0.1", 0)
    server = Draining(configured(make_app(service, ()), service), service)
    thread = threading.Thread(target=run_server, args=(server, [door]), kwargs={"watch": 0.0}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield engine, door.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def over_http(backbone: Any, m: int, texts: list[str]) -> dict[str, Any]:
    """CPU time of a request over HTTP and of the same one to the engine.

    The client runs in this thread, so what it takes is known, and it is not the server's: both are told.
    """
    with served(backbone, m) as (engine, port):
        connection = http.client.HTTPConnection("127.0.0.1", port)

        def by_http(text: str) -> float:
            body = json.dumps({"model": "task", "input": text})
            connection.request("POST", "/v1/classify", body, {"content-type": "application/json"})
            answer = json.loads(connection.getresponse().read())
            return float(next(iter(answer["data"][0]["probabilities"].values())))

        def direct(text: str) -> float:
            scored = engine.submit(Request("task", {"text": text}, "label")).result().scored
            assert scored is not None
            return next(iter(scored.probabilities.values()))

        ways: dict[str, Callable[[str], float]] = {"http": by_http, "engine": direct}
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}  # of the process, of this thread
        for i in range(PAIRS + 5):
            text = texts[i % len(texts)]
            answers = []
            for name in random.sample(sorted(ways), 2):
                begin = time.process_time(), time.thread_time()
                answers.append(ways[name](text))
                taken = time.process_time() - begin[0], time.thread_time() - begin[1]
                times[name] += [taken] if i >= 5 else []
            assert abs(answers[0] - answers[1]) < 1e-4, "HTTP answers differ from the engine's"
        connection.close()
    pairs = list(zip(times["http"], times["engine"], strict=True))
    return {
        "m": m,
        "cpu ms of a request": {name: milliseconds(whole for whole, _ in found) for name, found in times.items()},
        "cpu ms of the client alone": milliseconds(own for _, own in times["http"]),
        "cpu ms that HTTP adds, client included": milliseconds(a - b for (a, _), (b, _) in pairs),
        "cpu ms that HTTP adds on the server": milliseconds(a - own - b for (a, own), (b, _) in pairs),
    }


def milliseconds(seconds: Iterable[float]) -> float:
    """The median, in milliseconds."""
    return round(1000 * statistics.median(seconds), 2)
