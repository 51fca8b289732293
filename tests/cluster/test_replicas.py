"""The server over two replicas on a local Ray cluster, one of which is killed."""

import asyncio
import os
import random
import signal
import threading
import time
from contextlib import contextmanager
from functools import cached_property

import openai
import pytest
from serve import tasks
from serve.test_http import chat, wait

from softprompt.cli.serve import backbone_named, range_of
from softprompt.errors import RecipeError
from softprompt.serve.contract import Delta, Finish, Request, Scored, ServeError, TaskInfo, Token, Usage
from softprompt.serve.http.app import make_app
from softprompt.serve.http.guard import Limits
from softprompt.serve.http.server import Draining, bound_socket, configured, serve
from softprompt.serve.http.shelf import Kept
from softprompt.store import Store

pytest.importorskip("ray", reason="replicas need Ray: pip install 'softprompt[ray]'")
pytest.importorskip("ray.serve", reason="replicas need Ray Serve: pip install 'softprompt[ray]'", exc_type=ImportError)

from softprompt.serve.cluster.asked import Asked, Known
from softprompt.serve.cluster.deployed import Places, check_room, deployed, options, service_over

KINDS = {"mood": "label", "kind": "label", "parts": "tags", "tale": "write"}


@contextmanager
def door(service):
    """The address of a service, in a thread."""
    made = bound_socket("127.0.0.1", 0)
    server = Draining(configured(make_app(service), service), service)
    thread = threading.Thread(target=lambda: asyncio.run(serve(server, [made], watch=0)), daemon=True)
    thread.start()
    wait(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{made.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(20)


class Here:
    """What the tests share: a server over replicas, its store, and what its prompts answer alone."""

    def __init__(self, url, engine, service, store, frozen, made):
        self.url, self.engine, self.service, self.store, self.frozen = url, engine, service, store, frozen
        self.expected = {(name, text): tasks.alone(one, text) for name, one in made.items() for text in tasks.TEXTS}

    def client(self, **more):
        return openai.OpenAI(base_url=self.url, api_key="none", max_retries=0, timeout=240, **more)

    @cached_property
    def shared(self):
        return self.client()

    def ask(self, name, text, **more):
        return chat(self.shared, name, text, **more).choices[0].message.content

    def at_once(self, count, job):
        """A job in several threads; raises the first error."""
        errors = []

        def run(i):
            try:
                job(i)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def both(self, job):
        """Jobs in more and more threads, until two replicas have taken some.

        Serve prefers the replica that has the prompt. What has waited there for a second goes to the other, so there
        have to be more jobs than one replica answers in that time.
        """
        before, end, count = self.engine.answered.copy(), time.monotonic() + 240, 8
        while len(self.engine.answered - before) < 2:
            assert time.monotonic() < end, "one replica alone answers"
            self.at_once(count, job)
            count = min(2 * count, 240)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replicas")
    frozen = tasks.backbone(folder)
    store, made = Store(folder / "store"), {}
    for seed, (name, kind) in enumerate(KINDS.items()):
        made[name] = tasks.prompt(frozen, name, kind, seed)
        store.publish(tasks.save(made[name], folder / f"{name}.safetensors"), name)
    model = str(folder / "llama")
    # Four prompts a replica, so that a fifth pushes one out; two requests, so that both have work.
    wanted = backbone_named(Kept(store), model)
    with deployed(wanted, Places(2, 2, rows=2, held=4)) as engine:
        service = service_over(engine, Kept(store), wanted["name"], Limits())
        with door(service) as url:
            yield Here(url, engine, service, store, frozen, made)


def test_what_is_published_and_removed_is_so_on_both_replicas_once_the_call_returns(here, tmp_path):
    made = tasks.prompt(here.frozen, "extra", seed=99)
    text, alone = tasks.TEXTS[0], tasks.alone(made, tasks.TEXTS[0])
    here.store.publish(tasks.save(made, tmp_path / "extra.safetensors"), "extra")
    here.service.catalog.sync()  # what the administrator's call does
    here.both(lambda i: answered(here.ask("extra", text), alone))
    other = tasks.prompt(here.frozen, "newer", seed=98)
    here.store.publish(tasks.save(other, tmp_path / "newer.safetensors"), "extra")
    here.service.catalog.sync()
    newer = tasks.alone(other, text)
    here.both(lambda i: answered(here.ask(*[("extra", text), ("extra@1", text)][i % 2]), [newer, alone][i % 2]))
    here.store.remove("extra")
    here.service.catalog.sync()
    here.at_once(8, lambda i: missing(here, "extra"))
    assert {info.name for info in here.engine.names()} == set(KINDS)


def answered(found, expected):
    assert found == expected


def missing(here, name):
    with pytest.raises(openai.NotFoundError) as caught:
        here.ask(name, tasks.TEXTS[0])
    assert caught.value.code == "model_not_found"


def test_what_a_replica_refuses_is_a_refusal_before_a_stream_begins(here):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="SP-E"):
            chat(here.client(), "tale", "w7", n=3, stream=stream)  # more than its rows
    with pytest.raises(openai.BadRequestError, match="columns"):
        here.client().completions.create(model="mood", prompt={"other": "w7"})


def test_a_prompt_that_does_not_fit_is_passed_over_and_its_name_stays_free(here, tmp_path_factory, tmp_path):
    foreign = tasks.backbone(tmp_path_factory.mktemp("other"))
    next(foreign.model.parameters()).data.add_(1.0)
    path = tasks.save(tasks.prompt(foreign, "foreign"), tmp_path / "foreign.safetensors")
    here.store.publish(path, "foreign")
    here.service.catalog.sync()
    assert here.service.catalog.refused["foreign", "1"][1] == "SP-E320"
    missing(here, "foreign")


def test_a_client_that_goes_leaves_nothing_under_way(here):
    stream = here.client().completions.create(model="tale", prompt="w7 w8", max_tokens=100, stream=True, n=2)
    next(iter(stream))
    stream.close()
    wait(lambda: not here.engine.under_way)


def test_a_replica_killed_under_load_costs_no_answer_and_its_streams_go_on_where_they_ended(here):
    wishes = {"model": "tale", "prompt": tasks.TEXTS[0], "max_tokens": 100, "temperature": 1, "seed": 3, "n": 2}
    whole = here.client().completions.create(**wishes)
    before, killed, counts = here.engine.stats().requests, threading.Event(), [0] * 6

    def stream():
        texts = {}
        for number, chunk in enumerate(here.client().completions.create(**wishes, stream=True)):
            if number == 3:
                streamed = next(asked for asked in here.engine.under_way if asked.request.sampling.n == 2)
                os.kill(streamed.process, signal.SIGKILL)
                killed.set()
            for choice in chunk.choices:
                texts[choice.index] = texts.get(choice.index, "") + choice.text
        assert texts == {choice.index: choice.text for choice in whole.choices}

    def ask(i):
        rng, left = random.Random(i), 3
        while left:  # the last three begin after the replica died
            left -= killed.is_set()
            name, text = rng.choice(list(here.expected))
            if rng.random() < 0.3:
                parts = chat(here.client(), name, text, stream=True)
                found = "".join(c.choices[0].delta.content or "" for c in parts if c.choices)
            else:
                found = here.ask(name, text)
            assert found == here.expected[name, text], (name, text)
            counts[i] += 1

    def each(i):
        try:
            ask(i) if i else stream()
        finally:
            if not i:
                killed.set()  # also where this failed, or nobody would end

    here.at_once(len(counts), each)
    assert here.engine.resent > 0, "the stream had not ended when its replica died"
    assert here.engine.stats().requests == before | {"done": before["done"] + sum(counts) + 1}


INFO = TaskInfo("tale", "1", "write", (), ("text",), 8, 100, 4, "prompt_tuning", 0.0)


def test_a_second_replica_is_heard_from_where_the_first_one_ended():
    asked = Asked(Request("tale", {}, "write"), Known(INFO, "tale@1.x", []))
    a, b, c = (Token(i, word, -0.5) for i, word in enumerate(("one", " two", " three")))
    for piece in (Delta("one", 0, (a,)), Delta("ein", 1)):
        asked.hear(piece)
    asked.told.again()
    rest = (Delta(" three", 0, (c,)), Finish("stop"), Finish("stop", 1), Usage(3, 4))
    for piece in (Delta("eins", 1), Delta("one two", 0, (a, b)), *rest):
        asked.hear(piece)
    asked.end()
    assert list(asked) == [Delta("one", 0, (a,)), Delta("ein", 1), Delta("s", 1), Delta(" two", 0, (b,)), *rest]


def test_a_second_replica_that_says_something_else_ends_the_request():
    for first, second in (
        ([Delta("one")], [Delta("two")]),
        ([Delta("one")], [Delta("on"), Finish("stop")]),
        ([Finish("stop")], [Finish("length")]),
        ([Scored("good")], [Scored("bad")]),
    ):
        asked = Asked(Request("tale", {}, "write"), Known(INFO, "tale@1.x", []))
        for piece in first:
            asked.hear(piece)
        asked.told.again()
        for piece in second[:-1]:
            asked.hear(piece)
        with pytest.raises(ServeError, match="SP-E838"):
            asked.hear(second[-1])
    asked.told.again()
    asked.hear(Scored("good", {"good": 0.5000001}))  # the label is the same
    assert list(asked.pieces) == [Scored("good")]


def test_replicas_are_a_number_or_two_and_need_room():
    assert range_of("3") == (3, 3)
    assert range_of("1-4") == (1, 4)
    for text in ("", "0", "-2", "4-1", "1-", "two"):
        with pytest.raises(RecipeError, match="SP-E836"):
            range_of(text)
    nodes = [{"Alive": True, "Resources": {"CPU": 3.0, "GPU": 1.0}}, {"Alive": False, "Resources": {"CPU": 9.0}}]
    check_room(nodes, Places(3, 3), 0)
    for places, gpus in ((Places(4, 4), 0), (Places(2, 2, cores=2), 0), (Places(2, 2), 1)):
        with pytest.raises(RecipeError, match="SP-E836"):
            check_room(nodes, places, gpus)
    scale = options(Places(1, 4, rows=8), 0)["autoscaling_config"]
    assert (scale["min_replicas"], scale["max_replicas"], scale["target_ongoing_requests"]) == (1, 4, 8)
