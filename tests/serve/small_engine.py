"""A small engine of the contract, for tests of the HTTP side: it repeats the words of a text, one at a time."""

import asyncio
import hashlib
import threading
import time
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace

from softprompt.artifact import BackboneCard, Card, HeadCard, MethodCard, TaskCard, TemplateCard
from softprompt.errors import DataError
from softprompt.serve.contract import Delta, Finish, Scored, ServeError, Stats, TaskInfo, Token, Usage
from softprompt.serve.http.shelf import Listed

KINDS = {"write": "generation", "label": "classification", "tags": "tagging", "number": "regression"}


def card(kind="label", labels=("good", "bad"), report=None):
    """The card of a prompt that does not exist."""
    return Card(
        method=MethodCard(name="prompt_tuning", length=4),
        head=HeadCard(name="verbalizer"),
        template=TemplateCard(text="{soft:4}{text} {mask}", hash="0"),
        backbone=BackboneCard(
            name="small",
            family="llama",
            kind="causal",
            hidden=8,
            layers=2,
            dtype="float32",
            fingerprint="f",
            tokenizer="t",
        ),
        task=TaskCard(kind=KINDS[kind], labels=labels),
        report=report or {},
    )


def artifact(kind="label", labels=("good", "bad"), fields=("text",), answer=None, report=None):
    """What a shelf gives out; `answer` is the label that this prompt always gives."""
    return SimpleNamespace(card=card(kind, labels, report), kind=kind, labels=labels, fields=fields, answer=answer)


class SmallShelf:
    """Prompts in a dictionary: `put` and `take` while a server runs."""

    def __init__(self):
        self.held, self.names, self.changes = {}, {}, 0

    def put(self, name, made, version="1", stamp=None):
        self.changes += 1
        self.held[name, version] = (made, stamp or str(self.changes))

    def take(self, name):
        self.held = {key: value for key, value in self.held.items() if key[0] != name}

    def listing(self):
        names = {}
        for (name, version), (_, stamp) in self.held.items():
            names.setdefault(name, {})[version] = stamp
        return {name: Listed(versions, self.names.get(name, {})) for name, versions in names.items()}

    def load(self, name, version):
        made, _ = self.held[name, version]
        if isinstance(made, Exception):
            raise made
        return made

    def parents(self, name, version):
        return []


@dataclass
class SmallHandle:
    engine: "SmallEngine"
    request: object
    info: TaskInfo
    cancelled: bool = False

    def cancel(self):
        if not self.cancelled:
            self.cancelled = True
            self.engine.freed(self)

    async def __aiter__(self):
        try:
            for piece in self.engine.answer(self.request, self.info):
                if isinstance(piece, Delta) and self.engine.pause:
                    await asyncio.sleep(self.engine.pause)
                if self.cancelled:
                    raise ServeError("SP-E799", "x", "y", "z", trouble="cancelled")
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            self.engine.freed(self)


class SmallEngine:
    """Answers at once, or `pause` seconds a word; `room` is how many requests it takes."""

    def __init__(self, pause=0.0, room=64):
        self.pause, self.room, self.tasks, self.lock = pause, room, {}, threading.Lock()
        self.active, self.outcomes, self.gone = set(), Counter(), []

    def add(self, name, version, prompt):
        if prompt.answer == "broken":
            raise DataError("SP-E123", "nothing", "something", "mend it")
        info = TaskInfo(
            name, version, prompt.kind, prompt.labels, prompt.fields, 16, 128, 4, "prompt_tuning", time.time()
        )
        with self.lock:
            self.tasks[name, version] = (info, prompt)
        return info

    def remove(self, name, version="", *, wait=True):
        with self.lock:
            self.tasks.pop((name, version))

    def names(self):
        return tuple(info for info, _ in self.tasks.values())

    def submit(self, request):
        with self.lock:
            if (request.task, request.version) not in self.tasks:
                raise ServeError("SP-E701", "a", "b", "c", trouble="model_not_found")
            if len(self.active) >= self.room:
                raise ServeError("SP-E702", "a", "b", "c", trouble="queue_full")
            if any(not value for value in request.fields.values()):
                raise DataError("SP-E123", f"empty {request.fields!r}", "text", "add it")
            handle = SmallHandle(self, request, self.tasks[request.task, request.version][0])
            self.active.add(id(handle))
            self.gone.append(handle)
            return handle

    def freed(self, handle):
        with self.lock:
            self.active.discard(id(handle))

    def answer(self, request, info):
        _, prompt = self.tasks.get((request.task, request.version), (None, None))
        words = [w for value in request.fields.values() for w in (value.split() if isinstance(value, str) else value)]
        if "explode" in words:
            yield RuntimeError("explode " + " ".join(words))
        if "nan" in words:
            yield ServeError("SP-E703", "a", "b", "c", trouble="not_finite")
        if request.kind == "write":
            yield from self.written(words, request.sampling)
            return
        if request.kind == "embedding":
            yield Scored(embedding=tuple(b / 255 for b in hashlib.sha256(" ".join(words).encode()).digest()[:4]))
        elif request.kind == "tags":
            yield Scored(tags=tuple(info.labels[len(w) % len(info.labels)] for w in words))
        elif request.kind == "number":
            yield Scored(number=float(len(words)))
        else:
            label = (prompt.answer if prompt else None) or info.labels[0]
            rest = 0.25 / max(1, len(info.labels) - 1)
            yield Scored(label=label, probabilities={x: 0.75 if x == label else rest for x in info.labels})
        yield Usage(len(words) + 4, 0, 4)

    def written(self, words, sampling):
        most = sampling.max_new_tokens or 16
        words = words[:most]
        for i in range(sampling.n):
            for j, word in enumerate(words):
                text = word if j == 0 else f" {word}"
                token = Token(j, text, -0.5, (("other", -1.5),) if sampling.logprobs else ())
                yield Delta(text, i, (token,) if sampling.logprobs is not None else ())
            yield Finish("length" if len(words) == most else "stop", i)
        yield Usage(len(words) + 4, len(words) * sampling.n, 4)

    def stats(self):
        return Stats(running=len(self.active), prompts=len(self.tasks), requests=dict(self.outcomes))

    def close(self, *, drain=True, timeout=None):
        pass
