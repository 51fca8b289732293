"""A thin client of a server, with the standard library alone: it starts at once and needs no model."""

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from softprompt.cli.output import escaped, note
from softprompt.errors import SoftpromptError

KEY = "SOFTPROMPT_API_KEY"  # environment
MANY = 32  # texts of one request
TABLES = (".jsonl", ".ndjson", ".json", ".parquet", ".pq", ".conll", ".bio", ".iob", ".iob2")  # that can hold words
TASKS: dict[str, Any] = {"write": "generation", "label": "classification", "tags": "tagging", "number": "regression"}
PATHS = {"label": "classify", "tags": "tag", "number": "regress"}


def send(server: str, path: str, body: dict[str, Any] | None) -> Any:
    """A response that can be read; raises `SoftpromptError` SP-E776 where nobody answers, SP-E777 for a refusal."""
    url = f"{server.rstrip('/')}{path}"
    if not url.startswith(("http://", "https://")):
        raise SoftpromptError("SP-E776", f"the address {server!r}"[:200], "http://host:port", "mend --server")
    headers = {"content-type": "application/json"}
    if key := os.environ.get(KEY):
        headers["authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    try:
        return urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=330)
    except urllib.error.HTTPError as error:
        raise refused(error.code, error.read(8000)) from error
    except (OSError, ValueError) as error:
        raise SoftpromptError(
            "SP-E776", "no server that answers", "one that runs", "start one with `softprompt serve`", where=server
        ) from error


def refused(status: int, body: bytes) -> SoftpromptError:
    """What a server says when it refuses."""
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = "no more than that"
    do = f"set {KEY}" if status == 401 else "see the server's /v1/models and /docs"
    return SoftpromptError("SP-E777", f"a refusal, {status}: {escaped(str(message))[:600]}", "an answer", do)


def call(server: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """The JSON document that a server answers with."""
    with send(server, path, body) as response:
        return json.load(response)


def stream(server: str, name: str, text: str, options: dict[str, Any]) -> Iterator[str]:
    """The pieces of an answer as they come."""
    body = {"model": name, "messages": [{"role": "user", "content": text}], "stream": True} | options
    with send(server, "/v1/chat/completions", body) as response:
        for line in response:
            if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise refused(200, line[6:])
            for choice in event["choices"]:
                yield choice["delta"].get("content", "")


@dataclass(frozen=True)
class Answered:
    """One answer of a server, as `softprompt.prompt.Prediction` is one of a prompt."""

    answer: str | float | tuple[str, ...]
    scores: dict[str, float] = field(default_factory=dict)


def predictions(server: str, name: str, source: str) -> list[Answered]:
    """Answers to every text of a file or of standard input; raises what `send` and reading raise."""
    from softprompt.data import Columns, read_inputs

    about = call(server, f"/v1/models/{quote(name, safe='@')}")
    plain = about["kind"] == "tags" and not source.lower().endswith(TABLES)
    kind = TASKS["write" if plain else about["kind"]]
    data = read_inputs(source, Columns(tuple(about["fields"])), kind=kind)
    inputs = [sent(example.fields, about["fields"]) for example in data.examples]
    parts = [inputs[start : start + MANY] for start in range(0, len(inputs), MANY)]
    return [one for part in parts for one in answers(server, name, about["kind"], part)]


def sent(values: Any, names: list[str]) -> Any:
    """An example as the server wants it: a text, a list of words, or an object of columns."""
    if len(names) == 1:
        value = values[names[0]]
        return value if isinstance(value, str) else list(value)
    return {name: values[name] for name in names}


def answers(server: str, name: str, kind: str, inputs: list[Any]) -> list[Answered]:
    """Answers to some inputs, in their order."""
    if kind not in PATHS:
        found = call(server, "/v1/completions", {"model": name, "prompt": inputs})["choices"]
        return [Answered(choice["text"]) for choice in found]
    found = call(server, f"/v1/{PATHS[kind]}", {"model": name, "input": inputs})["data"]
    if kind == "tags":
        return [Answered(tuple(one["tags"])) for one in found]
    return [
        Answered(one["number"]) if kind == "number" else Answered(one["label"], one["probabilities"]) for one in found
    ]


def typed() -> Iterator[str]:
    """Lines of standard input; where somebody types, they are asked for them."""
    while True:
        if sys.stdin.isatty():
            note("a text, or Ctrl-D to end:")
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.rstrip("\n")


def shown(text: str) -> str:
    """Text that cannot steer the terminal."""
    return escaped(text)
