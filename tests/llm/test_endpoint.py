"""The client against a server that fails: over real HTTP, through the real SDK, to the call."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from llm.fake import serving

from softprompt.errors import SoftpromptError
from softprompt.llm.endpoint import Budget, Cache, Client, Endpoint, Spent
from softprompt.llm.log import Log


def asking(text):
    return [{"role": "user", "content": text}]


def thing(n):
    return asking(f"Name it.\n\nthe grass number {n}\n\nAnswer with one of: blue, green.")


def endpoint(fake, **settings):
    return Endpoint(**{"base_url": fake.url, "model": "task", "pause": 0.001} | settings)


def test_every_attempt_is_counted_on_both_sides_and_every_question_is_answered_under_faults():
    with serving(faults=40) as fake:
        budget = Budget(200)
        client = Client(endpoint(fake), budget)
        answers = client.ask_all([thing(n) for n in range(60)])
        assert {answer.text for answer in answers} <= {"blue", "green"}
        assert sum(fake.failed[kind] for kind in ("429", "500", "malformed", "nothing")) > 10
        assert all(fake.failed[kind] for kind in ("429", "500", "malformed", "nothing"))
        assert fake.calls == budget.spent == client.sent > 60
        assert budget.asked == 60


def test_a_budget_is_not_exceeded_by_one_call_by_many_threads_at_once():
    with serving(faults=30, slow=0.002) as fake:
        budget = Budget(37)
        client = Client(endpoint(fake, workers=16), budget)
        with pytest.raises(Spent, match="37 of 37 calls"):
            client.ask_all([thing(n) for n in range(100)])
        assert fake.calls == budget.spent == 37


def test_tokens_and_cost_are_reserved_before_a_call_and_never_exceeded():
    with serving() as fake:
        priced = endpoint(fake, workers=1, max_tokens=20, price_in=1_000_000, price_out=2_000_000)
        for limits in ({"tokens": 400}, {"cost": 400.0}):
            budget = Budget(1000, **limits)
            with pytest.raises(Spent):
                Client(priced, budget).ask_all([thing(n) for n in range(100)])
            assert 200 < (budget.used.tokens if "tokens" in limits else budget.used.cost) <= 400


def test_one_request_is_asked_once_even_by_many_threads_and_its_samples_are_apart():
    with serving(slow=0.02) as fake:
        client = Client(endpoint(fake), Budget(100))
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: client.ask(thing(1)), range(12)))
        assert fake.calls == 1
        assert sum(not answer.cached for answer in answers) == 1
        client.ask(thing(1), temperature=1.0, rollout=0)
        client.ask(thing(1), temperature=1.0, rollout=1)
        assert client.ask(thing(1), temperature=1.0, rollout=1).cached
        assert fake.calls == 3
        assert [body.get("seed") for body in fake.requests] == [None, 0, 1]


def test_a_log_gives_answers_and_counts_back_and_drops_a_torn_line(tmp_path):
    path = tmp_path / "events.jsonl"
    with serving(faults=40) as fake:
        log = Log(path)
        budget = Budget(100)
        first = Client(endpoint(fake), budget, Cache(log.past), log).ask_all([thing(n) for n in range(20)])
        log.close()
        spent, calls = budget.spent, fake.calls
        with path.open("a") as file:
            file.write('{"event": "sent", "call": "ab')
        log = Log(path)
        budget = Budget(100, past=log.past)
        client = Client(endpoint(fake), budget, Cache(log.past), log)
        assert (budget.spent, budget.used.tokens) == (spent, sum(e["tokens"] for e in log.past if e["event"] != "sent"))
        again = client.ask_all([thing(n) for n in range(20)])
        assert [answer.text for answer in again] == [answer.text for answer in first]
        assert all(answer.cached for answer in again)
        assert fake.calls == calls
        assert budget.asked == 20
        assert path.read_bytes().endswith(b"}\n")


def test_a_call_that_was_on_its_way_stays_spent(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text(json.dumps({"event": "sent", "call": "a", "key": "k", "tokens": 30, "cost": 0.5}) + "\n")
    budget = Budget(10, past=Log(path).past)
    assert (budget.spent, budget.used.tokens, budget.used.cost) == (1, 30, 0.5)


def test_a_damaged_log_is_refused(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "sent"\n{"event": "sent"}\n')
    with pytest.raises(SoftpromptError, match="SP-E738"):
        Log(path)


def test_what_a_model_writes_cannot_break_the_log(tmp_path):
    path = tmp_path / "events.jsonl"
    text = "a line\u2028another\u0085a third\nhalf a pair: \ud83d"
    log = Log(path)
    log.write({"event": "answered", "text": text})
    log.close()
    assert [event["text"] for event in Log(path).past] == [text]


def test_a_log_that_another_run_writes_to_is_refused(tmp_path):
    pytest.importorskip("fcntl")
    first = Log(tmp_path / "events.jsonl")
    with pytest.raises(SoftpromptError, match=r"SP-E738 .*at work"):
        Log(tmp_path / "events.jsonl")
    first.close()
    Log(tmp_path / "events.jsonl").close()


def test_another_decision_than_the_log_holds_is_refused(tmp_path):
    log = Log(tmp_path / "events.jsonl")
    log.decide({"step": 1, "best": "a"})
    log.close()
    again = Log(tmp_path / "events.jsonl")
    with pytest.raises(SoftpromptError, match="SP-E738"):
        again.decide({"step": 1, "best": "b"})


@pytest.mark.parametrize(
    ("always", "code", "text", "calls"),
    [
        ("500", "SP-E734", "3 attempts without an answer, the last: status 500", 3),
        ("malformed", "SP-E734", "malformed answer", 3),
        ("nothing", "SP-E734", "no choice", 3),
        ("hang", "SP-E734", "no answer in time", 3),
        ("401", "SP-E733", "status 401", 1),
    ],
)
def test_what_never_gets_better_is_named(always, code, text, calls):
    with serving(always=always) as fake:
        client = Client(endpoint(fake, attempts=3, timeout=0.15 if always == "hang" else 5), Budget(10))
        with pytest.raises(SoftpromptError, match=f"{code} .*{text}"):
            client.ask(thing(1))
        assert fake.calls == client.sent == client.budget.spent == calls


def test_a_model_that_takes_no_temperature_is_asked_without_one_and_answers_replay(tmp_path):
    with serving(own_temperature=True) as fake:
        with pytest.raises(
            SoftpromptError, match=r"SP-E733 .*status 400.*do: leave the temperature out: tempered=false"
        ):
            Client(endpoint(fake), Budget(10)).ask(thing(1))
        log = Log(tmp_path / "events.jsonl")
        client = Client(endpoint(fake, tempered=False), Budget(10), log=log)
        first = [client.ask(thing(1)), client.ask(thing(1), temperature=1.0, rollout=3)]
        log.close()
        assert all("temperature" not in body for body in fake.requests[1:])
        assert [body.get("seed") for body in fake.requests[1:]] == [None, 3]
        again = Client(endpoint(fake, tempered=False), Budget(10), log=Log(tmp_path / "events.jsonl"))
        replayed = [again.ask(thing(1)), again.ask(thing(1), temperature=1.0, rollout=3)]
        assert [answer.text for answer in replayed] == [answer.text for answer in first]
        assert all(answer.cached for answer in replayed)
        assert fake.calls == 3
        fake.always = "400"
        with pytest.raises(SoftpromptError, match=r"SP-E733 .*do: check address"):
            again.ask(thing(2))


def test_no_server_is_an_error_and_no_fallback():
    client = Client(Endpoint(base_url="http://127.0.0.1:9/v1", model="task", attempts=2, pause=0), Budget(10))
    with pytest.raises(SoftpromptError, match=r"SP-E734 .*no connection"):
        client.ask(thing(1))


def test_a_cut_answer_says_so():
    with serving(cut=100) as fake:
        answer = Client(endpoint(fake, model="writer"), Budget(10)).ask(asking("<prompt>one two</prompt>"))
        assert answer.finished == "length"


def test_the_key_comes_from_the_environment_and_goes_to_the_server_alone(tmp_path, monkeypatch):
    with serving() as fake:
        monkeypatch.delenv("OUR_KEY", raising=False)
        with pytest.raises(SoftpromptError, match=r"SP-E731 .*OUR_KEY"):
            Client(endpoint(fake, key="OUR_KEY"), Budget(10))
        monkeypatch.setenv("OUR_KEY", "secret-123")
        log = Log(tmp_path / "events.jsonl")
        made = endpoint(fake, key="OUR_KEY")
        Client(made, Budget(10), log=log).ask(thing(1))
        assert fake.headers[0]["authorization"] == "Bearer secret-123"
        fake.always = "401"
        with pytest.raises(SoftpromptError, match=r"Bearer \*\*\*") as refused:
            Client(made, Budget(10), log=log).ask(thing(2))
        left = (tmp_path / "events.jsonl").read_text() + repr(made) + made.model_dump_json() + str(refused.value)
        assert "secret-123" not in left


@pytest.mark.parametrize("url", ["localhost:8000/v1", "http://me:pw@host/v1", "ftp://host/v1", "https://host/v1?key=1"])
def test_an_address_that_is_none_or_holds_a_secret_is_refused(url):
    with pytest.raises(ValueError, match="an address"):
        Endpoint(base_url=url, model="m")
