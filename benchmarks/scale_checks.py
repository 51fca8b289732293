"""What benchmarks/serve.py and train.py have measured, predicted from two numbers of the machine (for scale.py)."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scale_model import Asked, Machine, Model, Replica, llama

SMALL = {
    "15M": {"vocab_size": 8192, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6}
    | {"intermediate_size": 1024},
    "80M": {"vocab_size": 32_000, "hidden_size": 768, "num_hidden_layers": 8, "num_attention_heads": 12}
    | {"intermediate_size": 2048},
}
NEW, TASKS = 16, 64  # of benchmarks/serve.py


def lengths(count: int, mean: int, seed: int) -> list[int]:
    """Tokens of the texts that benchmarks/train.py and serve.py make."""
    drawn = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    made: list[int] = (drawn * 0.5).exp().mul(mean).clamp(mean / 4, 3 * mean).int().tolist()
    return made


def burst(count: int, tasks: int, new: int) -> list[Asked]:
    """Requests of serve.py, all at once; of 0 tasks: without a prompt."""
    texts = lengths(TASKS, 32, 2)
    return [Asked(0.0, i % max(1, tasks), texts[i], new) for i in range(count)]


@dataclass(frozen=True)
class Work:
    """Operations and bytes of something that was measured."""

    operations: float
    bytes: float

    def on(self, machine: Machine) -> float:
        return machine.seconds(self.operations, self.bytes)


def answered(model: Model, m: int, requests: Sequence[Asked]) -> Work:
    """What a replica does that has all prompts compiled."""

    def counted(machine: Machine) -> float:
        known = OrderedDict.fromkeys(asked.prompt for asked in requests)
        return Replica(model, machine, m, store=known).serve(requests).busy

    return Work(counted(Machine(1.0, float("inf"))), counted(Machine(float("inf"), 1.0)))


def by_peft(model: Model, m: int, requests: Sequence[Asked]) -> Work:
    """One request after the other, the prompt in each, logits at every position of what is read."""
    done = bytes_read = 0.0
    for asked in requests:
        tokens, later = m + asked.text, max(0, asked.new - 1)
        done += model.operations(tokens, tokens**2, 1 if asked.new else tokens)
        done += sum(model.operations(1, tokens + i, 1) for i in range(later))
        bytes_read += (1 + later) * model.weights * model.size
        bytes_read += model.place * sum(tokens + i for i in range(later))
    return Work(done, bytes_read)


def trained(model: Model, row: dict[str, Any]) -> Work:
    """A step of our packed engine in train.json, which reads all weights forward and back."""
    texts = [n - 1 for n in lengths(row["batch"], row["n"], row["m"])]
    return Work(model.training(texts, row["m"], 2 * len(texts)), 2 * model.weights * model.size)


@dataclass(frozen=True)
class Check:
    """A measurement, what the model of two numbers says of it, and whether the numbers were fitted to it."""

    what: str
    measured: float
    predicted: float
    fitted: bool = False

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


def fitted(serve: dict[str, Any]) -> Machine:
    """The two numbers of this machine at which scoring and writing without a prompt take what they took."""
    scored, wrote = answered(small("15M"), 0, burst(64, 0, 0)), answered(small("15M"), 0, burst(32, 0, NEW))
    a, b = (seconds(serve, name, 20)["no prompt"] for name in ("scoring", "decode"))
    whole = scored.operations * wrote.bytes - wrote.operations * scored.bytes
    slow = (a * wrote.bytes - b * scored.bytes) / whole  # seconds of an operation
    return Machine(1 / slow, 1 / ((b - slow * wrote.operations) / wrote.bytes))


def small(name: str) -> Model:
    return llama(**SMALL[name])


def seconds(serve: dict[str, Any], name: str, m: int) -> dict[str, float]:
    """CPU seconds of a row of serve.json at 15M."""
    found: dict[str, float] = next(row for row in serve[name] if (row["size"], row["m"]) == ("15M", m))["cpu seconds"]
    return found


def checks(machine: Machine, serve: dict[str, Any], train: dict[str, Any]) -> list[Check]:
    """Every measurement at 15M that the simulation covers, and the training steps of both sizes."""
    made, model = [], small("15M")
    rows = {
        name: [row for row in serve.get(name, []) if row["size"] == "15M"] for name in ("scoring", "decode", "http")
    }
    for row in rows["scoring"]:
        m, taken, n = row["m"], row["cpu seconds"], row["requests"]
        what = f"{n} requests of {TASKS} tasks scored, 15M, m = {m}"
        bare = answered(model, 0, burst(n, 0, 0)).on(machine)
        name = f"{n} requests scored without a prompt, 15M" + ("" if m == 20 else ", measured again")
        made.append(Check(name, taken["no prompt"], bare, m == 20))
        made.append(Check(what, taken["engine"], answered(model, m, burst(n, TASKS, 0)).on(machine)))
        made.append(Check(f"{what}, PEFT", taken["peft"], by_peft(model, m, burst(n, TASKS, 0)).on(machine)))
    for row in rows["decode"]:
        m, taken, what = row["m"], row["cpu seconds"], f"32 answers of {NEW} tokens, 15M, m = {row['m']}"
        bare = answered(model, 0, burst(32, 0, NEW)).on(machine)
        name = f"32 answers of {NEW} tokens without a prompt, 15M" + ("" if m == 20 else ", measured again")
        made.append(Check(name, taken["no prompt"], bare, m == 20))
        for tasks in (1, 8, 32):
            work = answered(model, m, burst(32, tasks, NEW))
            made.append(
                Check(f"{what}, {tasks} task{'s' * (tasks > 1)}", taken[f"engine, {tasks} tasks"], work.on(machine))
            )
        made.append(Check(f"{what}, PEFT", taken["peft"], by_peft(model, m, burst(32, 32, NEW)).on(machine)))
    for row in rows["http"]:
        work = answered(model, row["m"], burst(1, 1, 0))
        alone = row["cpu ms of a request"]["engine"] / 1000
        made.append(Check(f"one request alone scored, 15M, m = {row['m']}", alone, work.on(machine)))
    for row in train["rows"]:
        if row["method"] == "prompt_tuning" and row["batch"] > 1:
            what = f"a training step of {row['batch']} texts, {row['size']}, m = {row['m']}, n = {row['n']}"
            made.append(Check(what, row["packed"]["seconds"], trained(small(row["size"]), row).on(machine)))
    return made
