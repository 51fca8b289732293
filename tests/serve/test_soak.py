"""What has to hold many times over, on a real engine; SOAK_TIMES=10 (`make soak`) asks ten times as often."""

import os
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import torch
from serve import tasks
from serve.running import running
from serve.test_http import wait

from softprompt.core import Example
from softprompt.serve.contract import Request, Sampling
from softprompt.serve.engine import PromptEngine
from softprompt.serve.engine.limits import Limits
from softprompt.serve.http.shelf import Files

TIMES = int(os.environ.get("SOAK_TIMES", "1"))
KINDS = {"mood": "label", "kind": "label", "tale": "write"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A backbone, and a folder with prompt files."""
    folder = tmp_path_factory.mktemp("soaked")
    frozen = tasks.backbone(folder)
    made = {name: tasks.prompt(frozen, name, kind, seed) for seed, (name, kind) in enumerate(KINDS.items())}
    (folder / "prompts").mkdir()
    for name, one in made.items():
        tasks.save(one, folder / "prompts" / f"{name}.safetensors")
    return folder / "prompts", frozen, made


def texts(count: int, seed: int) -> list[str]:
    """Texts of 1 to 24 words."""
    rng = random.Random(seed)
    return [" ".join(f"w{rng.randrange(5, 90)}" for _ in range(rng.randint(1, 24))) for _ in range(count)]


def test_a_thousand_requests_in_one_batch_are_answered_as_each_alone(place):
    """Batches of any make-up move no log-probability by more than 1e-4 and no greedy answer."""
    _, frozen, made = place
    rng, asked = random.Random(3), []
    for text in texts(1000 * TIMES, 1):
        asked.append((rng.choice(["mood", "kind", "kind", "mood", "tale"]), text))
    with PromptEngine(frozen, Limits(waiting=len(asked))) as engine:
        for name, one in made.items():
            engine.add(name, "1", one)
        tickets = [
            engine.submit(Request(name, {"text": text}, "write" if name == "tale" else "label")) for name, text in asked
        ]
        answers = [ticket.result(600) for ticket in tickets]
    for (name, text), answer in zip(asked, answers, strict=True):
        (alone,) = made[name].predict([Example({"text": text})], batch_size=1)
        if name == "tale":
            assert answer.texts == (alone.answer,), text
        else:
            assert answer.scored.label == alone.answer, text
            found, right = (
                torch.tensor([one[k] for k in alone.scores]).log()
                for one in (answer.scored.probabilities, alone.scores)
            )
            torch.testing.assert_close(found, right, atol=1e-4, rtol=0)


def test_a_prompt_that_was_added_answers_the_very_next_request(place):
    _, frozen, made = place
    text = tasks.TEXTS[0]
    right = {name: tasks.alone(made[name], text) for name in ("mood", "kind")}
    with PromptEngine(frozen) as engine:
        for number in range(100 * TIMES):
            name = ("mood", "kind")[number % 2]
            engine.add("fresh", str(number), made[name])
            ticket = engine.submit(Request("fresh", {"text": text}, "label"))
            assert ticket.result(60).scored.label == right[name]
            assert ticket.info.version == str(number)
            if number:
                engine.remove("fresh", str(number - 1))


def test_clients_that_leave_at_any_moment_hold_nothing(place):
    """Streams and whole answers; afterwards no row, request or thread is left, and answers are right."""
    folder, frozen, made = place
    with PromptEngine(frozen) as engine, running(engine, Files([folder])) as server:
        rng, threads = random.Random(5), threading.active_count()
        for number in range(50 * TIMES):
            stream = "true" if number % 2 else "false"
            body = f'{{"model": "tale", "prompt": "w7 w8", "max_tokens": 60, "n": 4, "stream": {stream}}}'.encode()
            head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            with socket.create_connection(("127.0.0.1", server.port)) as door:
                door.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
                time.sleep(rng.uniform(0, 0.03))
        wait(lambda: engine.stats().running == engine.stats().waiting == server.service.gate.busy == 0, 30)
        assert threading.active_count() <= threads + 1
        found = server.client().completions.create(model="tale", prompt=tasks.TEXTS[0]).choices[0].text
        assert found == tasks.alone(made["tale"], tasks.TEXTS[0])


def test_ten_times_what_fits_is_answered_right_or_refused_with_when_to_come_back(place):
    folder, frozen, made = place
    right = tasks.alone(made["tale"], tasks.TEXTS[1])
    with PromptEngine(frozen, Limits(rows=2, waiting=4)) as engine, running(engine, Files([folder])) as server:

        def ask(_):
            asked = {"model": "tale", "prompt": tasks.TEXTS[1]}
            return httpx.post(f"{server.url}/v1/completions", json=asked, timeout=120)

        with ThreadPoolExecutor(60) as pool:
            answers = list(pool.map(ask, range(60 * TIMES)))
        accepted = [answer for answer in answers if answer.status_code == 200]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(accepted) + len(refused) == len(answers)
        assert accepted
        assert refused
        assert {answer.json()["choices"][0]["text"] for answer in accepted} == {right}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert engine.submit(Request("tale", {"text": "w9"}, "write", sampling=Sampling())).result(60).texts
