"""Numbers for Prometheus: vLLM's names where they mean the same, `softprompt:` where vLLM has no such thing."""

import threading
import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from softprompt.serve.contract import Engine, Stats

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
TASKS = 200  # names that get a label of their own; later ones share "other"
GAUGES = {
    "vllm:num_requests_running": ("running", "Requests in the batch."),
    "vllm:num_requests_waiting": ("waiting", "Requests in the queue."),
    "softprompt:prompts": ("prompts", "Prompts that are served."),
    "softprompt:prompt_kv_compiled": ("compiled", "Prompts whose keys and values are held."),
    "softprompt:prompt_kv_bytes": ("compiled_bytes", "Bytes of keys and values of prompts."),
}
COUNTERS = {
    "vllm:prompt_tokens": ("prompt_tokens", "Tokens of prompts and texts that were read."),
    "vllm:prompt_tokens_cached": ("cached_tokens", "Of these, not computed again."),
    "vllm:generation_tokens": ("completion_tokens", "Tokens that were written."),
    "softprompt:decode_steps": ("steps", "Forwards that decoded."),
    "softprompt:prompt_kv_hits": ("hits", "Requests that found their prompt compiled."),
    "softprompt:prompt_kv_misses": ("misses", "Requests whose prompt was compiled for them."),
    "softprompt:prompt_kv_evictions": ("evictions", "Compiled prompts that were let go."),
}


class OfEngine(Collector):
    """The engine's own counts, read when somebody asks."""

    def __init__(self, engine: Engine, model: str) -> None:
        self.engine, self.model = engine, model

    def collect(self) -> Iterable[Metric]:
        """One family each."""
        stats = self.engine.stats()
        for name, (field, text) in GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=["model_name"])
            gauge.add_metric([self.model], getattr(stats, field))
            yield gauge
        for name, (field, text) in COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=["model_name"])
            counter.add_metric([self.model], getattr(stats, field))
            yield counter
        ended = CounterMetricFamily(
            "softprompt:requests_ended", "Requests by outcome.", labels=["model_name", "outcome"]
        )
        for outcome, count in stats.requests.items():
            ended.add_metric([self.model, outcome], count)
        yield ended


class Meters:
    """What the HTTP side measures."""

    def __init__(self, engine: Engine, model: str) -> None:
        self.registry, self.model, self.engine = CollectorRegistry(), model, engine
        self.registry.register(OfEngine(engine, model))
        label, own = ["model_name"], self.registry
        self.whole = Histogram(
            "vllm:e2e_request_latency_seconds", "From body to end.", label, buckets=SECONDS, registry=own
        ).labels(model)
        self.first = Histogram(
            "vllm:time_to_first_token_seconds", "To the first text.", label, buckets=SECONDS, registry=own
        ).labels(model)
        self.between = Histogram(
            "vllm:inter_token_latency_seconds", "Between texts.", label, buckets=SECONDS, registry=own
        ).labels(model)
        self.finished = Counter(
            "vllm:request_success", "Answered requests.", ["model_name", "finished_reason"], registry=own
        )
        self.tasks = Counter(
            "softprompt:task_requests", "Requests by task and outcome.", ["task", "outcome"], registry=own
        )
        self.names: set[str] = set()
        self.known: dict[tuple[str, str], Counter] = {}  # by task and outcome: looking them up in theirs takes longer
        self.rate = Rate()

    def task(self, name: str, outcome: str) -> None:
        """Count a request of a task that exists. The number of labels is bounded."""
        if name not in self.names and len(self.names) < TASKS:
            self.names.add(name)
        key = (name if name in self.names else "other", outcome)
        if key not in self.known:
            self.known[key] = self.tasks.labels(*key)
        self.known[key].inc()
        self.rate.add(outcome)

    def text(self) -> bytes:
        """The page of /metrics."""
        return generate_latest(self.registry)


class Rate:
    """Ended requests of the last ten seconds."""

    def __init__(self, seconds: float = 10.0) -> None:
        self.seconds, self.times, self.outcomes, self.lock = (
            seconds,
            deque[float](maxlen=100_000),
            Tally[str](),
            threading.Lock(),
        )

    def add(self, outcome: str) -> None:
        """One more."""
        with self.lock:
            self.times.append(time.monotonic())
            self.outcomes[outcome] += 1

    def now(self) -> float:
        """Requests a second."""
        with self.lock:
            while self.times and self.times[0] < time.monotonic() - self.seconds:
                self.times.popleft()
            return len(self.times) / self.seconds


def live(stats: Stats, rate: Rate) -> dict[str, object]:
    """What the page shows as it changes."""
    return {
        "running": stats.running,
        "waiting": stats.waiting,
        "prompts": stats.prompts,
        "prompt_tokens": stats.prompt_tokens,
        "cached_tokens": stats.cached_tokens,
        "completion_tokens": stats.completion_tokens,
        "requests_per_second": round(rate.now(), 2),
        "requests": dict(stats.requests),
        "time": time.time(),
    }
