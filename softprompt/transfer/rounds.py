"""Training over several tasks at once, in rounds that no kill undoes.

A round does what follows from the seed, its number and the last state, and from nothing else; so a state is enough to
go on, and what was killed ends with the same bits as what was not.
"""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from softprompt import checkpoint
from softprompt.backbones import Backbone
from softprompt.checkpoint import State
from softprompt.errors import TrainingError
from softprompt.files import sweep, write_atomically
from softprompt.optim import clip
from softprompt.plan import Plan
from softprompt.run import Listener, Log, Stopped, stopping
from softprompt.training import SAVING

Tensors = dict[str, Tensor]


class Rounds(Protocol):
    """Something that is trained in rounds."""

    def tensors(self) -> Tensors:
        """All that changes while it is trained."""

    def restore(self, tensors: Tensors) -> None:
        """Put that back, bit for bit."""

    def round(self, number: int) -> dict[str, Any]:
        """Do round `number` (from 0); its loss, and how many prompts and tokens it took."""


def go(work: Rounds, place: Path, total: int, seconds: float, listen: Listener) -> None:
    """Rounds from the newest state (or from the first) to the last one; states and log.jsonl are kept in `place`.

    `seconds` is the longest time between states. Raises `Stopped` after a signal, with the state saved.
    """
    states = place / "states"
    states.mkdir(parents=True, exist_ok=True)
    sweep(place)  # what a killed process was writing
    sweep(states)
    state, notes = checkpoint.newest(states)
    for note in notes:
        listen({"event": "note", "text": note})
    done = 0
    if state is not None:
        work.restore(state.tensors)
        done = state.step
    log = Log(place / "log.jsonl", done)
    saved, cost = time.monotonic(), 0.0
    with stopping() as stop:
        while done < total:
            began = time.monotonic()
            facts = work.round(done)
            done += 1
            log.write({"event": "step", "step": done, **facts})
            now = time.monotonic()
            listen({"event": "pass", "step": done, "total": total, "seconds": now - began, **facts})
            if stop or now - saved > max(seconds, cost / SAVING) or done == total:
                log.flush()
                checkpoint.save(states, State(done, work.tensors(), {}))
                saved, cost = time.monotonic(), time.monotonic() - now
            if stop:
                listen({"event": "stopped", "step": done})
                raise Stopped(128 + stop[0])
    log.close()


def claim(place: Path, plans: Mapping[str, Plan], backbone: Backbone, settings: dict[str, Any]) -> None:
    """Say in `place/rounds.json` what is trained there, or read it; the number of threads is that of the first time.

    Raises `TrainingError` SP-E514 where it says something else already, SP-E510 where a single run is there.
    """
    tasks = {name: plan.recipe.rooted().model_dump(mode="json") for name, plan in plans.items()}
    facts: dict[str, Any] = {"backbone": backbone.fingerprint, "tasks": tasks, "settings": settings}
    facts["data"] = {name: plan.sha256 for name, plan in plans.items()}
    path = place / "rounds.json"
    if (place / "recipe.yaml").exists():
        raise TrainingError("SP-E510", f"a run in {place}", "a new folder", "use another folder, with --run")
    if not path.exists():
        place.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(facts | {"threads": torch.get_num_threads()}, indent=1).encode())
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    other = [name for name, value in facts.items() if before.get(name) != value]
    if other:
        found, do = f"a training with other {' and '.join(other)}", "remove it, or choose another folder"
        raise TrainingError("SP-E514", found, "an empty folder, or this training", do, where=str(place))
    torch.set_num_threads(before["threads"])  # sums over other blocks give other last bits


def moments(optimizer: torch.optim.Optimizer) -> Tensors:
    """What an optimiser remembers, by the place of the weight and the name of the value."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    return {f"{i}/{key}": value for i, w in enumerate(weights) for key, value in optimizer.state[w].items()}


def remember(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Give an optimiser back what it remembered (`moments`)."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    fused = any(group.get("fused") for group in optimizer.param_groups)
    for name, tensor in tensors.items():
        place, _, key = name.partition("/")
        weight = weights[int(place)]
        if key == "step":  # the fused optimiser counts on the device of the weight, others on the CPU
            optimizer.state[weight][key] = tensor.to(weight.device if fused else "cpu")
        else:  # in the layout of the weight: the fused optimiser walks both by the same strides
            optimizer.state[weight][key] = torch.empty_like(weight).copy_(tensor)


def move(optimizer: torch.optim.Optimizer, rates: list[float], limit: float | None, loss: float) -> None:
    """Clip the gradients of a round and let the optimiser step; raises `TrainingError` where they are not finite."""
    norm = clip(optimizer, rates, limit)
    if not (math.isfinite(norm) and math.isfinite(loss)):
        found, do = f"loss {loss} and gradient {norm}", "lower optim.lr, or use float32; the last finite state is kept"
        raise TrainingError("SP-E520", found, "finite numbers", do)
    optimizer.step()


def part(tensors: Tensors, name: str) -> Tensors:
    """The tensors whose names begin with `name/`, by what follows."""
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}


def drawn(count: int, size: int, seed: int, number: int) -> list[int]:
    """Which `size` of `count` things round `number` takes, from the seed alone; all of them where there are no more."""
    generator = torch.Generator().manual_seed(seed * 7_919 + number)
    return sorted(torch.randperm(count, generator=generator)[:size].tolist())


__all__ = ["Rounds", "Tensors", "claim", "drawn", "go", "moments", "move", "part", "remember"]
