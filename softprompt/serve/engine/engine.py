"""The engine: one backbone, many prompts, answers from one batch (`contract.Engine`)."""

import re
import time
from collections import Counter
from copy import deepcopy
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.errors import ArtifactError, RecipeError
from softprompt.generate import Ending
from softprompt.methods import Method, name_of
from softprompt.prompt import Bare, Prompt
from softprompt.serve.contract import Request, Sampling, ServeError, Stats, TaskInfo
from softprompt.serve.engine.compiled import compile_front, injection_of
from softprompt.serve.engine.registry import Entry, Registry
from softprompt.serve.engine.rows import kind_of, rows_of
from softprompt.serve.engine.scheduler import Limits, Scheduler
from softprompt.serve.engine.ticket import Ticket
from softprompt.serve.engine.trial import eligible, trial
from softprompt.serve.engine.work import Work
from softprompt.serve.engine.writer import settings_of

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class PromptEngine:
    """Serves prompts of one backbone from one thread; every method may be called from any other."""

    def __init__(self, backbone: Backbone, limits: Limits | None = None) -> None:
        self.backbone = backbone
        self.scheduler = Scheduler(backbone, limits or Limits(), self.release)
        self.registry = Registry(self.scheduler.store.drop)
        self.lock = Lock()
        self.outcomes: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.scheduler.thread.start()

    def add(self, name: str, version: str, prompt: Prompt | Artifact | str | Path) -> TaskInfo:
        """Serve a prompt; once this returns, the next request works. An existing version of the name is replaced.

        Everything that can fail is tried here: the file, the backbone, the numbers, and answers to fixed texts in the
        way in which requests will be run. Raises `ArtifactError` or `ServeError`; then nothing has changed.
        """
        for what, text in (("name", name), ("version", version)):
            if not NAME.fullmatch(text):
                expected = "letters, digits, '.', '_' and '-', 128 at most, a letter or digit first"
                found = f"{what} {text[:80]!r}"
                raise ServeError("SP-E706", found, expected, "choose another", trouble="invalid_request")
        if isinstance(prompt, str | Path):
            prompt = Artifact.load(prompt)
        if isinstance(prompt, Artifact):
            prompt = prompt.bind(self.backbone)
        entry = self.entry(name, version, prompt)
        self.registry.put(entry)
        return entry.info

    @torch.inference_mode()
    def entry(self, name: str, version: str, given: Prompt) -> Entry:
        """A prompt as it will be served: a copy of its own, tried."""
        check(given, self.backbone, name)
        prompt = Prompt(
            self.backbone, deepcopy(given.method).fold(), deepcopy(given.head), given.template, given.task
        ).eval()
        entry = Entry(describe(name, version, prompt), prompt, ends=ends_of(prompt))
        injection = injection_of(prompt) if eligible(self.backbone) else None
        reader = self.scheduler.reader
        compiled = compile_front(prompt, injection, reader) if injection is not None else None
        found = trial(prompt, compiled, reader)
        if not found.finite:
            raise not_finite("states that are not finite", name)
        entry.ragged = eligible(self.backbone) and not found.off
        if entry.ragged and compiled is not None:
            entry.injection = injection
            self.scheduler.store.put(entry, compiled)
        return entry

    def remove(self, name: str, version: str = "", *, wait: bool = True) -> None:
        """Take away a version, or all of a name; with `wait`, return once no request holds it any more."""
        self.registry.remove(name, version, wait=wait)

    def names(self) -> tuple[TaskInfo, ...]:
        """The registry at this moment."""
        return self.registry.infos()

    def submit(self, request: Request) -> Ticket:
        """Queue a request; never blocks. Raises `ServeError`, `DataError` or `RecipeError` where it is refused."""
        entry = self.registry.hold(request.task, request.version)
        try:
            check_sampling(request.sampling, self.scheduler.limits.rows)
            most = request.sampling.max_new_tokens
            settings_of(request, entry.prompt.task.new_tokens if most is None else most)
            Ending(entry.prompt.template.tokenizer, entry.ends, request.sampling.stop)
            work = Work(Ticket(request, entry.info), entry, rows_of(entry.prompt, request))
            work.ticket.on_cancel, work.ticket.on_end = self.scheduler.wake, self.outcomes_of(work)
            self.scheduler.submit(work)
        except BaseException:
            self.registry.release(entry)
            raise
        return work.ticket

    def release(self, work: Work) -> None:
        """A request has ended: its entry is free."""
        self.registry.release(work.entry)

    def outcomes_of(self, work: Work) -> Any:
        """What counts a request when it ends."""

        def count(outcome: str) -> None:
            with self.lock:
                self.outcomes[outcome] += 1
                self.tokens["prompt"] += work.usage.prompt_tokens
                self.tokens["cached"] += work.usage.cached_tokens
                self.tokens["completion"] += work.tokens

        return count

    def stats(self) -> Stats:
        """Counts."""
        scheduler, store = self.scheduler, self.scheduler.store
        with self.lock:
            outcomes, tokens = dict(self.outcomes), Counter(self.tokens)
        return Stats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            prompts=sum(len(entries) for entries in self.registry.snapshot.values()),
            requests=outcomes,
            prompt_tokens=tokens["prompt"],
            cached_tokens=tokens["cached"],
            completion_tokens=tokens["completion"],
            steps=scheduler.steps,
            compiled=len(store.held),
            compiled_bytes=store.bytes,
            hits=store.hits,
            misses=store.misses,
            evictions=store.evictions,
        )

    def close(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """Refuse new requests, finish (or with drain=False cancel) those under way, and stop.

        What is not finished after `timeout` seconds is cancelled.
        """
        self.scheduler.stop(drain=drain)
        self.scheduler.thread.join(timeout)
        if self.scheduler.thread.is_alive():
            self.scheduler.stop(drain=False)
            self.scheduler.thread.join()

    def __enter__(self) -> "PromptEngine":
        return self

    def __exit__(self, *reason: object) -> None:
        self.close(drain=reason[0] is None)


def check(prompt: Prompt, backbone: Backbone, name: str) -> None:
    """Raise `ArtifactError` for a prompt of another backbone, one of images, and one with NaN in its numbers."""
    if prompt.backbone is not backbone:
        found, expected = "a prompt on another backbone", "the backbone of this engine"
        raise ArtifactError("SP-E320", found, expected, "load it with the engine's backbone", where=name)
    if backbone.spec.kind == "vision":
        found, expected = "a prompt for images", "one for text"
        raise ArtifactError("SP-E311", found, expected, "use Prompt.predict for images", where=name)
    for part, value in prompt.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise not_finite(f"NaN or infinity in {part}", name)


def not_finite(found: str, name: str) -> ArtifactError:
    """The error for a prompt with numbers that nobody can use."""
    return ArtifactError("SP-E305", found, "finite numbers", "train again with a lower rate", where=name)


def describe(name: str, version: str, prompt: Prompt) -> TaskInfo:
    """What clients may know of a prompt."""
    template, bare = prompt.template, isinstance(prompt.method, Bare)
    length = 0 if bare else prompt.method.length
    return TaskInfo(
        name,
        version,
        kind_of(prompt.head),
        prompt.task.labels,
        tuple(dict.fromkeys(template.fields)),
        prompt.task.new_tokens,
        template.limit + length - template.vectors,
        length,
        "none" if bare else called(prompt.method),
        time.time(),
    )


def called(method: Method) -> str:
    """The name of a method; of a class that nobody registered, that of the class."""
    try:
        return name_of(method)
    except RecipeError:
        return type(method).__name__.lower()


def check_sampling(sampling: Sampling, rows: int) -> None:
    """Raise `ServeError` where more choices are asked for than can be written at once, or likeliest tokens below 0."""
    if not 1 <= sampling.n <= rows or not 0 <= (sampling.logprobs or 0) <= 20:
        found = f"n={sampling.n}, logprobs={sampling.logprobs}"
        expected = f"n from 1 to {rows}, logprobs from 0 to 20"
        raise ServeError("SP-E704", found, expected, "ask for fewer", trouble="invalid_request")


def ends_of(prompt: Prompt) -> frozenset[int]:
    """The tokens that end an answer, as `softprompt.generate.generate` knows them."""
    named = prompt.backbone.model.generation_config if prompt.backbone.spec.kind in ("causal", "seq2seq") else None
    ends = getattr(named, "eos_token_id", None)
    found = {prompt.template.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
    return frozenset(found - {None})
