"""What a run knows besides its weights: how far it is, what was best, its log, and whether it was told to stop."""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from softprompt.checkpoint import State
from softprompt.evaluate import dev_score
from softprompt.files import write_atomically
from softprompt.plan import Plan
from softprompt.prompt import Prompt

Event = dict[str, Any]
Listener = Callable[[Event], None]


class Stopped(SystemExit):
    """The run was told to stop; its state is saved. The exit code is 128 + the signal."""


@dataclass
class Run:
    """What a run knows besides its weights."""

    step: int
    best: dict[str, Tensor]
    history: list[Event]
    worse: int = 0  # evaluations since the best

    @classmethod
    def new(cls, prompt: Prompt) -> "Run":
        """A run that has not begun."""
        return cls(0, snapshot(prompt), [])

    @classmethod
    def of(cls, state: State, prompt: Prompt, optimizer: torch.optim.Optimizer) -> "Run":
        """The run that wrote a state; weights and optimiser are put back as they were."""
        parts: dict[str, dict[str, Tensor]] = {"now": {}, "best": {}, "optimizer": {}}
        for name, tensor in state.tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        restore(prompt, parts["now"])
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        fused = any(group.get("fused") for group in optimizer.param_groups)
        for name, tensor in parts["optimizer"].items():
            index, _, key = name.partition("/")
            weight = weights[int(index)]
            if key == "step":  # the fused optimiser counts on the device of the weight, others on the CPU
                optimizer.state[weight][key] = tensor.to(weight.device if fused else "cpu")
            else:  # in the layout of the weight: the fused optimiser walks both by the same strides
                optimizer.state[weight][key] = torch.empty_like(weight).copy_(tensor)
        meta: Any = state.meta
        return cls(state.step, parts["best"], meta["history"], meta["worse"])

    def state(self, prompt: Prompt, optimizer: torch.optim.Optimizer) -> State:
        """Everything needed to go on."""
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        moments = {
            f"optimizer/{i}/{key}": value for i, w in enumerate(weights) for key, value in optimizer.state[w].items()
        }
        now = {f"now/{name}": value for name, value in snapshot(prompt).items()}
        best = {f"best/{name}": value for name, value in self.best.items()}
        meta: Any = {"history": self.history, "worse": self.worse}
        return State(self.step, now | best | moments, meta)

    def judge(self, prompt: Prompt, plan: Plan, log: "Log", listen: Listener) -> None:
        """Score the dev examples and keep the tensors if they are the best so far."""
        score = dev_score(prompt, plan)
        keys = [tuple(past["key"]) for past in self.history]
        event: Event = {"event": "dev", "step": self.step, **score}
        better = not keys or tuple(score["key"]) > max(keys)
        self.history.append(event)
        if better:
            self.best, self.worse = snapshot(prompt), 0
        else:
            self.worse += 1
        log.write(event)
        listen(event | {"best": better})

    def patience_is_over(self, patience: int | None) -> bool:
        """True when dev has not improved for `patience` evaluations."""
        return patience is not None and self.worse >= patience


class Log:
    """log.jsonl: one line a step. On resume, lines after the state are dropped, because their steps run again."""

    def __init__(self, path: Path, step: int) -> None:
        kept = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    event = json.loads(line)
                except json.JSONDecodeError:  # the line that was being written when the run died
                    continue
                if step and event["step"] <= step:  # at step 0 everything runs again, also what is logged before it
                    kept.append(line + "\n")
        write_atomically(path, "".join(kept).encode())
        self.file = path.open("a", encoding="utf-8")

    def write(self, event: Event) -> None:
        """Append a line."""
        self.file.write(json.dumps(event) + "\n")

    def flush(self) -> None:
        """Hand the lines to the system, before a state says that their steps are done."""
        self.file.flush()

    def close(self) -> None:
        """Finish the file."""
        self.file.close()


def snapshot(prompt: Prompt) -> dict[str, Tensor]:
    """A copy of everything that is trained."""
    return {name: value.detach().cpu().clone() for name, value in prompt.state_dict().items()}


@torch.no_grad()
def restore(prompt: Prompt, tensors: dict[str, Tensor]) -> None:
    """Put trained tensors back, bit for bit."""
    prompt.load_state_dict(tensors)


@contextmanager
def stopping() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT, so that the step at hand is finished and saved; a second SIGINT stops at once."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not in the main thread: whoever owns that thread owns the signals
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
