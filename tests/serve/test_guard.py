"""What the server refuses, and how: keys, sizes, times, queues, hostile bodies, clients that go."""

import asyncio
import base64
import contextlib
import json
import logging
import socket
import threading
import time

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serve.test_http import chat, wait

from softprompt.serve.http import guard
from softprompt.serve.http.guard import Keys, Limits

KEY = "a-key-that-is-long-enough"
ROUTES = ["/", "/docs", "/openapi.json", "/ready", "/version", "/live", "/metrics", "/v1/models", "/v1/models/moods"]
POSTS = ["completions", "chat/completions", "classify", "tag", "regress", "embeddings"]


@pytest.fixture(scope="module")
def locked():
    from serve.running import running, small_shelf
    from serve.small_engine import SmallEngine

    with running(SmallEngine(), small_shelf(), keys=["another-key-of-this-server", KEY]) as made:
        yield made


@pytest.mark.parametrize("path", [*ROUTES, "/v1/prompts/moods", "/nothing", "//health", "/health/", "/HEALTH"])
def test_without_a_key_every_route_but_health_is_closed(locked, path):
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic !"}, {"x-api-key": KEY}):
        answer = httpx.get(locked.url + path, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"].startswith("Basic")
    assert httpx.get(f"{locked.url}/health").status_code == 200


@pytest.mark.parametrize("path", POSTS)
def test_without_a_key_no_post_is_read(locked, path):
    assert httpx.post(f"{locked.url}/v1/{path}", content=b"x" * 3_000_000).status_code == 401


def test_a_key_opens_as_bearer_and_as_password(locked):
    basic = base64.b64encode(f"anyone:{KEY}".encode()).decode()
    for header in (f"Bearer {KEY}", f"bearer {KEY}", f"Basic {basic}", "Bearer another-key-of-this-server"):
        assert httpx.get(f"{locked.url}/v1/models", headers={"authorization": header}).status_code == 200
    client = openai.OpenAI(base_url=f"{locked.url}/v1", api_key=KEY)
    assert chat(client, "moods").choices[0].message.content == "bad"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{locked.url}/v1", api_key="wrong").models.list()


def test_keys_are_compared_in_constant_time_and_all_of_them(monkeypatch):
    compared = []

    def compare(one, other):
        compared.append(len(one) == len(other) == 32)
        return one == other

    keys = Keys(["first", "second", "third"])
    monkeypatch.setattr(guard.hmac, "compare_digest", compare)
    assert keys.fits("first")
    assert not keys.fits("firs")
    assert compared == [True] * 6
    assert not any("first" in str(value) for value in vars(keys).values())


def test_without_keys_only_names_of_this_machine_are_answered(start):
    with start(hosts=["127.0.0.1", "localhost"]) as server:
        assert httpx.get(f"{server.url}/v1/models").status_code == 200
        answer = httpx.get(f"{server.url}/v1/models", headers={"host": "evil.example:80"})
        assert answer.status_code == 403
        assert "evil" not in answer.text


def test_a_body_over_the_limit_is_413_whether_it_says_its_size_or_not(server):
    def parts():
        for _ in range(30):
            yield b"x" * 100_000

    with server.http(headers={"content-type": "application/json"}) as http:
        for content in (b"x" * 1_000_001, parts()):
            answer = http.post("/v1/classify", content=content)
            assert answer.status_code == 413
            assert answer.json()["error"]["code"] == "body_too_large"
        small = json.dumps({"model": "moods", "input": "x" * 100_000})
        assert http.post("/v1/classify", content=small).status_code == 200


def test_only_plain_json_is_read(server):
    body = json.dumps({"model": "moods", "input": "x"}).encode()
    with server.http() as http:
        for headers in (
            {"content-type": "text/plain"},
            {},
            {"content-type": "application/json", "content-encoding": "gzip"},
        ):
            assert http.post("/v1/classify", content=body, headers=headers).status_code == 415


def test_a_full_queue_is_429_with_retry_after_and_takes_requests_again(start):
    with start(pause=0.2, room=1) as server:
        client = server.client()
        stream = chat(client, "writer", "a b c d e f g h", stream=True)
        next(iter(stream))
        with pytest.raises(openai.RateLimitError) as caught:
            chat(client, "moods")
        assert caught.value.response.headers["retry-after"] == "1"
        assert caught.value.code == "queue_full"
        stream.close()
        wait(lambda: not server.engine.active)
        assert chat(client, "moods").choices[0].message.content == "bad"


def test_one_refused_input_takes_the_others_out_of_the_queue(start):
    with start(pause=0.2, room=2) as server:
        answer = server.http().post("/v1/completions", json={"model": "writer", "prompt": ["a b", "c d", "e f"]})
        assert answer.status_code == 429
        assert not server.engine.active
        assert all(handle.cancelled for handle in server.engine.gone)


def test_too_many_requests_at_once_are_429(start):
    with start(pause=0.2, limits=Limits(at_once=1)) as server:
        stream = chat(server.client(), "writer", "a b c d e f", stream=True)
        next(iter(stream))
        with pytest.raises(openai.RateLimitError):
            chat(server.client(), "moods")
        assert server.http().get("/ready").status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_frees_its_place(start, stream):
    with start(pause=0.1) as server:
        body = {"model": "writer", "prompt": "w " * 100, "max_tokens": 100, "stream": stream}
        text = json.dumps(body)
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n"
        head += "Content-Type: application/json\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(f"{head}{text}".encode())
            wait(lambda: server.engine.active)
            time.sleep(0.3)
        began = time.monotonic()
        wait(lambda: server.engine.gone[-1].cancelled and not server.engine.active)
        assert time.monotonic() - began < 1
        wait(lambda: server.service.gate.busy == 0)


def test_an_answer_that_takes_too_long_is_504_and_frees_its_place(start):
    with start(pause=0.1, limits=Limits(request_seconds=0.3)) as server:
        body = {"model": "writer", "prompt": "w " * 100, "max_tokens": 100}
        assert server.http().post("/v1/completions", json=body).json()["error"]["code"] == "timeout"
        with pytest.raises(openai.APIError, match="too long"):
            list(server.client().completions.create(**body, stream=True))
        wait(lambda: not server.engine.active)


def test_headers_and_bodies_that_do_not_come_are_cut_off(start):
    limits = Limits(header_seconds=0.4, body_seconds=0.4)
    with start(limits=limits) as server:
        beginnings = [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: x\r\n"]
        doors = [socket.create_connection(("127.0.0.1", server.port)) for _ in beginnings]
        for door, text in zip(doors, beginnings, strict=True):
            door.sendall(text)
            door.settimeout(5)
        began = time.monotonic()
        assert httpx.get(f"{server.url}/health").status_code == 200
        for door in doors:
            assert door.recv(100) == b""
            door.close()
        assert 0.2 < time.monotonic() - began < 3
        with socket.create_connection(("127.0.0.1", server.port)) as door:
            head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            door.sendall(head + b"Content-Length: 99\r\n\r\n{")
            door.settimeout(5)
            assert b" 408 " in door.recv(4000)


def test_a_drop_of_headers_a_moment_does_not_hold_a_connection(start):
    with start(limits=Limits(header_seconds=0.5)) as server:
        door = socket.create_connection(("127.0.0.1", server.port))
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 10:
                door.sendall(b"G")
                time.sleep(0.1)
        assert time.monotonic() - began < 5


def test_headers_that_are_too_large_are_refused(server):
    for headers in ({"x-large": "x" * 200_000}, {f"x-{i}": "y" * 40 for i in range(10_000)}):
        with contextlib.suppress(httpx.TransportError):  # closed while the headers were still being sent
            assert httpx.get(f"{server.url}/health", headers=headers).status_code in (400, 431)
    assert httpx.get(f"{server.url}/health").status_code == 200


def head(path, length, *, host="x"):
    """The beginning of a request with a body."""
    lines = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n"
    return f"{lines}Content-Type: application/json\r\n\r\n".encode()


def test_headers_that_never_end_are_refused_however_small_their_pieces_are(server):
    with socket.create_connection(("127.0.0.1", server.port)) as door:
        door.settimeout(5)
        door.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: ")
        with contextlib.suppress(OSError):
            for _ in range(40):
                door.sendall(b"x" * 1000)
                time.sleep(0.005)
        assert b" 400 " in door.recv(4000)


def test_a_large_body_does_not_count_as_headers_of_the_next_request(server):
    body = json.dumps({"model": "moods", "input": "x" * 90_000}).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as door:
        door.settimeout(5)
        for _ in range(3):
            door.sendall(head("/v1/classify", len(body)) + body[:-1])
            door.sendall(body[-1:])
            assert door.recv(4000).startswith(b"HTTP/1.1 200")


def test_a_client_that_goes_ends_the_request_before_the_last_of_a_pipeline(start):
    with start(pause=0.1) as server:
        body = json.dumps({"model": "writer", "prompt": "w " * 100, "max_tokens": 100}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as door:
            door.sendall(2 * (head("/v1/completions", len(body)) + body))
            wait(lambda: server.engine.active)
            time.sleep(0.2)
        began = time.monotonic()
        wait(lambda: not server.engine.active and server.service.gate.busy == 0)
        assert time.monotonic() - began < 2
        assert [handle.cancelled for handle in server.engine.gone] == [True]


def test_a_body_that_drips_in_after_its_refusal_does_not_hold_a_connection(start):
    with start(keys=[KEY], limits=Limits(header_seconds=0.5)) as server:
        door = socket.create_connection(("127.0.0.1", server.port))
        door.sendall(head("/v1/classify", 1000))
        door.settimeout(5)
        assert b" 401 " in door.recv(4000)
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 10:
                door.sendall(b"x")
                time.sleep(0.1)
        assert time.monotonic() - began < 5


ABUSE = [
    {"n": 10**6}, {"n": 0}, {"n": -1}, {"n": 1.5}, {"n": "2"}, {"max_tokens": 10**9}, {"max_tokens": 0},
    {"max_tokens": -5}, {"temperature": -1}, {"temperature": 99}, {"temperature": "hot"}, {"top_p": 0}, {"top_p": 2},
    {"logprobs": -1}, {"logprobs": 1000}, {"stop": ["x"] * 10_000}, {"stop": ""}, {"stop": [""]}, {"stop": [1]},
    {"stop": "x" * 10_000}, {"seed": -1}, {"seed": 2**70}, {"seed": "a"}, {"stream": "perhaps"}, {"best_of": 5},
    {"echo": True}, {"suffix": "x"}, {"logit_bias": {"1": 2}}, {"frequency_penalty": 1}, {"presence_penalty": -1},
    {"unknown-option-of-mine": 1}, {"prompt": []}, {"prompt": [[1, 2]]}, {"prompt": ["x"] * 1000}, {"prompt": None},
    {"prompt": 7}, {"prompt": {"other": "x"}}, {"prompt": "\ud800"}, {"prompt": "x" * 300_000}, {"model": None},
    {"model": ""}, {"model": 3}, {"model": "x" * 10_000}, {"model": ["moods"]}, {"user": "x" * 10_000},
    {"stream_options": {"include_usage": True}}, {"stream_options": {"x": 1}}, {"prompt_embeds": "AAAA"},
]  # fmt: skip


@pytest.mark.parametrize("wrong", ABUSE, ids=str)
def test_options_out_of_range_are_400_and_nothing_is_echoed(server, wrong):
    body = json.dumps({"model": "writer", "prompt": "x"} | wrong)
    with server.http(headers={"content-type": "application/json"}) as http:
        answer = http.post("/v1/completions", content=body)
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert len(answer.content) < 4000
    assert "unknown-option-of-mine" not in answer.text
    assert "xxxxx" not in answer.text


RAW = [
    b"", b"{", b"[]", b"null", b'"x"', b"1", b"NaN", b"\xff\xfe", b"\0", b"[" * 100_000, b'{"a":' * 100_000,
    b'{"model":"moods","input":"x"', b'{"model":"moods","input":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    b'{"model":"moods","input":' + b"1" * 100_000 + b"}", b'{"model":"moods","input":Infinity}',
]  # fmt: skip


@pytest.mark.parametrize("raw", RAW, ids=lambda raw: repr(raw[:20]))
def test_bodies_that_are_no_request_are_400(server, raw):
    with server.http(headers={"content-type": "application/json"}) as http:
        answer = http.post("/v1/classify", content=raw)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert len(answer.content) < 4000


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
KNOWN = ["model", "prompt", "messages", "input", "n", "stop", "seed", "logprobs", "stream", "max_tokens", "temperature"]
likely = st.dictionaries(
    st.sampled_from(KNOWN),
    anything | st.sampled_from(["moods", "writer", "tagger", [{"role": "user", "content": "x"}], 1, True]),
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=anything | likely, path=st.sampled_from(POSTS))
def test_no_body_whatever_makes_the_server_fail(server, body, path):
    with server.http(headers={"content-type": "application/json"}) as http:
        answer = http.post(f"/v1/{path}", content=json.dumps(body))
    assert answer.status_code < 500
    if answer.status_code >= 400:
        assert len(answer.content) < 4000
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_defects_and_bad_numbers_are_500_for_one_request_and_tell_nothing(server, caplog):
    with server.http() as http, caplog.at_level(logging.INFO, logger="softprompt.serve"):
        for text in ("explode secret-text", "nan secret-text"):
            answer = http.post("/v1/classify", json={"model": "moods", "input": text})
            assert answer.status_code == 500
            assert answer.json()["error"]["code"] == "internal_error"
            assert "secret" not in answer.text
        assert http.post("/v1/classify", json={"model": "moods", "input": "x"}).status_code == 200
        stream = http.post("/v1/completions", json={"model": "writer", "prompt": "explode me", "stream": True})
        assert json.loads(stream.text.removeprefix("data: "))["error"]["code"] == "internal_error"
        assert "[DONE]" not in stream.text
    assert "secret" not in caplog.text
    assert "RuntimeError" in caplog.text


def test_the_engines_refusal_does_not_quote_the_text(server):
    with server.http() as http:
        answer = http.post("/v1/tag", json={"model": "tagger", "input": [[]]})
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "SP-E123"
        assert "()" not in answer.text


def test_the_log_has_one_json_line_a_request_with_an_id_and_no_text(server, caplog):
    with server.http() as http, caplog.at_level(logging.INFO, logger="softprompt.serve"):
        answer = http.post("/v1/classify", json={"model": "moods", "input": "a secret-text"})
        http.get("/secret-path?secret=1")
        wait(lambda: len([r for r in caplog.records if '"request"' in r.message]) >= 2)
    lines = [json.loads(r.message) for r in caplog.records if r.name == "softprompt.serve"]
    first = next(line for line in lines if line["route"] == "/v1/classify")
    assert first["request_id"] == answer.headers["x-request-id"]
    assert (first["task"], first["version"], first["status"]) == ("moods", "2", 200)
    assert "secret" not in caplog.text


def test_every_answer_has_an_id_and_safe_headers(server):
    with server.http() as http:
        for answer in (http.get("/health"), http.get("/nothing"), http.post("/v1/classify", json={})):
            assert len(answer.headers["x-request-id"]) == 32
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "server" not in answer.headers
    assert httpx.delete(f"{server.url}/v1/models").status_code == 405


def test_while_draining_new_requests_are_503_and_those_under_way_are_finished(start):
    with start(pause=0.2) as server:
        stream = chat(server.client(), "writer", "a b c d e", stream=True)
        words = iter(stream)
        next(words)
        server.server.drain()
        with pytest.raises(openai.InternalServerError) as caught:
            chat(server.client(), "moods")
        assert (caught.value.status_code, caught.value.code) == (503, "draining")
        assert "retry-after" in caught.value.response.headers
        assert server.http().get("/ready").status_code == 503
        rest = "".join(c.choices[0].delta.content or "" for c in words)
        assert rest.replace(" ", "") == "abcde"


def test_many_slow_connections_leave_the_others_alone(start):
    with start(limits=Limits(header_seconds=2)) as server:
        doors = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(200)]
        for door in doors:
            door.sendall(b"G")
        began = time.monotonic()
        for _ in range(20):
            assert chat(server.client(), "moods").choices[0].message.content == "bad"
        assert time.monotonic() - began < 10
        for door in doors:
            door.close()


def test_threads_that_ask_at_once_get_their_own_answers(server):
    found, errors = {}, []

    def ask(i):
        try:
            found[i] = chat(server.client(), "writer", f"word{i} is mine").choices[0].message.content
        except Exception as error:  # shown below
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert found == {i: f"word{i} is mine" for i in range(16)}


def test_the_asynchronous_client_works_too(server):
    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            asked = [client.completions.create(model="writer", prompt=f"w{i}") for i in range(8)]
            return [answer.choices[0].text for answer in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == [f"w{i}" for i in range(8)]
