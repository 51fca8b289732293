"""The one way to a language model that somebody serves: OpenAI's chat API, through the `openai` package.

Whatever speaks it can be asked: hosted services, vLLM, llama.cpp, Ollama, and our own `softprompt serve`. Every request
is paid from a budget before it goes out, logged, and asked once: its answer is kept under a hash of all of it.
"""

import os
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from softprompt.errors import SoftpromptError
from softprompt.llm.budget import Budget, Spent, Usage
from softprompt.llm.log import Log, fingerprint
from softprompt.llm.wire import Failed, Finished, connect, send
from softprompt.sections import Section

Messages = list[dict[str, str]]
LONGEST_WAIT = 60.0  # seconds between two attempts, whatever the server asks for
FRAME = 16  # tokens that a chat template may put around a message


class Endpoint(Section):
    """Where a model answers, and on what terms. The key itself is in the environment, and nowhere else."""

    base_url: str = Field(description="such as http://localhost:8000/v1")
    model: str
    key: str | None = Field(None, description="the environment variable that holds the API key; none: no key")
    max_tokens: int = Field(512, ge=1, description="of an answer")
    limit: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="how the server calls that limit; hosted reasoning models want the second"
    )
    seeded: bool = Field(True, description="send the number of a sample as `seed`, where a temperature is set")
    tempered: bool = Field(True, description="send `temperature`; some hosted reasoning models take only their own")
    timeout: float = Field(60.0, gt=0, description="seconds for an answer")
    attempts: int = Field(6, ge=1, description="of a request that the server fails to answer")
    pause: float = Field(0.5, ge=0, description="seconds before the second attempt; doubled before each further one")
    workers: int = Field(8, ge=1, description="requests at a time")
    price_in: float | None = Field(None, ge=0, description="money for a million tokens of requests")
    price_out: float | None = Field(None, ge=0, description="money for a million tokens of answers")

    @field_validator("base_url")
    @classmethod
    def public(cls, url: str) -> str:
        """Refuse an address that is none, and one with a password, which would be stored with the run."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("an address that begins with http:// or https://")
        if parts.username or parts.password or parts.query:
            raise ValueError("an address without a user, password or query")
        return url.rstrip("/")

    def price(self, tokens_in: int, tokens_out: int) -> float:
        """What so many tokens cost; 0 where no price is given."""
        return (tokens_in * (self.price_in or 0.0) + tokens_out * (self.price_out or 0.0)) / 1e6

    def most(self, messages: Messages) -> Usage:
        """The most that a request may use: no tokenizer makes more tokens of a text than it has bytes."""
        tokens = sum(len(message["content"].encode()) + FRAME for message in messages) + FRAME
        return self.usage(tokens, self.max_tokens)

    def usage(self, tokens_in: int, tokens_out: int) -> Usage:
        """So many tokens and their price."""
        return Usage(tokens_in + tokens_out, self.price(tokens_in, tokens_out))


@dataclass(frozen=True)
class Answer:
    """What a model answered. Where `finished` is `length`, the text was cut off at the limit of tokens."""

    text: str
    tokens_in: int
    tokens_out: int
    cached: bool = False
    finished: Finished = "stop"


class Cache:
    """Answers by the SHA-256 of their request. `past` are the events of a log, whose answers it begins with."""

    def __init__(self, past: Sequence[dict[str, Any]] = ()) -> None:
        self.answers: dict[str, Answer] = {}
        for event in past:
            if event["event"] == "answered":
                facts = (event["text"], event["in"], event["out"], True, event["finished"])
                self.answers[event["key"]] = Answer(*facts)


class Client:
    """Asks one endpoint. Clients of a run share the budget and the log; threads may share a client.

    Raises `RecipeError` SP-E730 without the `openai` package and SP-E731 where the variable of the key is empty.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        budget: Budget,
        cache: Cache | None = None,
        log: Log | None = None,
        name: str = "model",
    ) -> None:
        self.endpoint, self.budget, self.name = endpoint, budget, name
        self.log = log or Log()
        self.cache = cache or Cache(self.log.past)
        self.sent = 0  # requests over the wire in this process
        self.lock = Lock()
        self.under_way: dict[str, Future[Answer]] = {}
        self.sdk = connect(endpoint.base_url, endpoint.key, endpoint.timeout)

    def ask(self, messages: Messages, *, temperature: float = 0.0, rollout: int = 0) -> Answer:
        """The answer to messages; `rollout` numbers several answers to the same ones.

        A request is asked once, also by several threads at a time: after that its answer is `cached`. Raises `Spent`
        where the budget allows no call, and `SoftpromptError` SP-E733 (a refusal), SP-E734 (no usable answer after
        `attempts`, or no server).
        """
        body = self.body(messages, temperature, rollout)
        key = fingerprint({"base_url": self.endpoint.base_url, "rollout": rollout, **body})
        with self.lock:
            waiting = self.under_way.get(key)
            mine: Future[Answer] = Future() if waiting is None else waiting
            if waiting is None:
                self.under_way[key] = mine
        if waiting is not None:
            answer = waiting.result()
            return Answer(answer.text, answer.tokens_in, answer.tokens_out, True, answer.finished)
        try:
            found = self.cache.answers.get(key) or self.fetch(key, body)
            self.budget.plan(self.endpoint.usage(found.tokens_in, found.tokens_out))
        except BaseException as error:
            with self.lock:
                del self.under_way[key]
            mine.set_exception(error)
            raise
        mine.set_result(found)
        return found

    def ask_all(
        self, many: Sequence[Messages], *, temperature: float = 0.0, rollouts: Sequence[int] | None = None
    ) -> list[Answer]:
        """The answers to many requests, `workers` at a time, in the order of the requests.

        Where one fails nothing more is sent, those under way are waited for (and logged), and the first error is
        raised.
        """
        numbers = [0] * len(many) if rollouts is None else rollouts
        pool = ThreadPoolExecutor(self.endpoint.workers)
        try:
            pairs = zip(many, numbers, strict=True)
            jobs = [pool.submit(self.ask, one, temperature=temperature, rollout=n) for one, n in pairs]
            wait(jobs, return_when=FIRST_EXCEPTION)
            failed = next((job for job in jobs if job.done() and job.exception() is not None), None)
            return [failed.result()] if failed is not None else [job.result() for job in jobs]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def body(self, messages: Messages, temperature: float, rollout: int) -> dict[str, Any]:
        """What goes over the wire. A model that takes no temperature answers at its own: samples, always."""
        made: dict[str, Any] = {"model": self.endpoint.model, "messages": messages}
        made |= {"temperature": temperature} if self.endpoint.tempered else {}
        made[self.endpoint.limit] = self.endpoint.max_tokens
        return made | ({"seed": rollout} if temperature > 0 and self.endpoint.seeded else {})

    def fetch(self, key: str, body: dict[str, Any]) -> Answer:
        """Ask over the wire until there is an answer."""
        why = ""
        for attempt in range(self.endpoint.attempts):
            try:
                return self.attempt(key, body)
            except Failed as failed:
                why = str(failed)
                pause = self.endpoint.pause * 2**attempt if failed.wait is None else failed.wait
            if attempt + 1 < self.endpoint.attempts:
                time.sleep(min(pause, LONGEST_WAIT))
        found = f"{self.endpoint.attempts} attempts without an answer, the last: {why}"
        do = "repeat the command, which goes on from here, or choose another server"
        raise SoftpromptError("SP-E734", found, "an answer", do, where=self.endpoint.base_url)

    def attempt(self, key: str, body: dict[str, Any]) -> Answer:
        """One request over the wire: reserved, logged, sent, and settled by what it used."""
        most = self.endpoint.most(body["messages"])
        self.budget.reserve(most)
        with self.lock:
            self.sent += 1
        call = os.urandom(8).hex()
        facts = {"call": call, "key": key, "tokens": most.tokens, "cost": most.cost}
        self.log.write({"event": "sent", "who": self.name, **facts})
        try:
            text, read, out, finished = send(self.sdk, body, self.endpoint.base_url)
        except (Failed, SoftpromptError) as failed:
            used = most if isinstance(failed, Failed) and failed.charged else Usage()
            self.budget.settle(most, used)
            facts = {"call": call, "why": str(failed), "tokens": used.tokens, "cost": used.cost}
            self.log.write({"event": "failed", **facts})
            raise
        # Where the server does not count its tokens, the most that they may be are counted.
        out = self.endpoint.max_tokens if out is None else out
        read = most.tokens - self.endpoint.max_tokens if read is None else read
        answer, used = Answer(text, read, out, False, finished), self.endpoint.usage(read, out)
        self.budget.settle(most, used)
        facts = {"call": call, "key": key, "tokens": used.tokens, "cost": used.cost}
        told = {"text": answer.text, "in": answer.tokens_in, "out": answer.tokens_out, "finished": answer.finished}
        self.log.write({"event": "answered", **facts, **told})
        self.cache.answers[key] = answer
        return answer


__all__ = ["Answer", "Budget", "Cache", "Client", "Endpoint", "Messages", "Spent"]
