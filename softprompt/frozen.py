"""States that never change, computed once: what the first layer that a prompt enters reads, for every training row.

A prompt that enters at layer k leaves everything below as it was, and the backbone is frozen, so the layers below k
would compute the same in every epoch. Their last states are kept in memory, or in a file that later runs of the same
backbone, data, template and layer use again, and steps begin at layer k (`core.Below`). Nothing is believed: before the
first step, loss and gradient of a few rows are compared with those of the whole model.

A file is the states, row after row in the order `by_length`, then the SHA-256 of all that they depend on, then the
SHA-256 of the states. It holds nothing that has to be parsed, and a file that is not exactly this is made again.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softprompt.core import Below, Row, entry
from softprompt.engine import difference, few, measured, trial
from softprompt.errors import SoftpromptError, Unsupported
from softprompt.plan import Plan
from softprompt.prompt import Prompt, by_length

Listener = Callable[[dict[str, Any]], None]
FORMAT = 1
SEAL = 64  # bytes at the end of a file: what the states depend on, and what they are, as SHA-256


@dataclass(frozen=True)
class Shape:
    """What is kept, known before it is computed."""

    layer: int  # the first layer that the prompt enters
    before: int  # P, the places of its prefix
    tokens: int  # of all rows
    width: int  # H
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """The size of all states."""
        return self.tokens * self.width * self.dtype.itemsize

    def __str__(self) -> str:
        return f"states below layer {self.layer} ({self.tokens:,} tokens, {self.bytes:,} bytes)"


def remember(prompt: Prompt, plan: Plan, rows: list[Row], place: Path, listen: Listener) -> list[Row]:
    """The rows, with states to start from where recipe, prompt and backbone let them; notes say what is done.

    `place` is the run's folder. Raises `SoftpromptError` SP-E501 where a file was asked for and cannot be written.
    """
    settings = plan.recipe.train
    wanted = settings.cache != "auto"
    if settings.cache == "none" or not (wanted or plan.steps > plan.steps_per_epoch):  # of one epoch nothing comes back
        return rows
    with trial(prompt):
        shape = planned(prompt, rows)
    if isinstance(shape, str):
        if wanted or shape != NOTHING:
            note(listen, f"no states are kept: {shape}")
        return rows
    if shape.bytes > settings.cache_bytes:
        note(listen, f"{shape} are not kept: more than train.cache_bytes={settings.cache_bytes}")
        return rows
    if settings.cache == "file":
        folder = Path(settings.cache_folder) if settings.cache_folder else place / "cache"
        whole = in_file(prompt, rows, shape, folder, key(prompt, plan, rows, shape), settings.batch_size, listen)
    else:
        note(listen, f"{shape} are computed once and kept in memory")
        whole = in_memory(prompt, rows, shape, settings.batch_size)
    kept = divided(rows, whole, shape, settings.batch_size)
    why = disagreement(prompt, rows, kept)
    if why:
        note(listen, f"{shape} are not used: {why}")
    return rows if why else kept


NOTHING = "the prompt enters at the first layer"


def planned(prompt: Prompt, rows: list[Row]) -> Shape | str:
    """What is to be kept for a prompt, or why nothing is. Asks the method what it injects, and the backbone."""
    batch = prompt.batch(few(rows))
    injection = prompt.inject(batch)
    layer, prefix = entry(injection), injection.prefix
    if not layer or prefix is None or prefix[layer] is None:
        return NOTHING
    pair = prefix[layer]
    assert pair is not None
    before = pair[0].shape[2]
    backbone = prompt.backbone
    shortest = min(rows, key=lambda row: len(row.ids))
    why = backbone.undivided(Below(torch.empty(0), layer, before), injection)
    if why:
        return why
    try:
        states = backbone.below(prompt.batch([shortest]), layer, before)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        return f"this model cannot run its lower layers alone: {error}".splitlines()[0][:200]
    return Shape(layer, before, sum(len(row.ids) for row in rows), states.shape[-1], states.dtype)


def computed(prompt: Prompt, rows: list[Row], shape: Shape, size: int) -> Iterator[Tensor]:
    """The states [T, H] of every row, in the order `by_length`."""
    packs, prompt.packs = prompt.packs, False  # what is below does not see the prompt: there is nothing to share
    try:
        for chosen in by_length(rows, size):
            batch = prompt.batch([rows[i] for i in chosen])
            states = prompt.backbone.below(batch, shape.layer, shape.before)
            for i, row in zip(chosen, states.cpu(), strict=True):
                yield row[: len(rows[i].ids)]
    finally:
        prompt.packs = packs


def in_memory(prompt: Prompt, rows: list[Row], shape: Shape, size: int) -> Tensor:
    """All states [tokens, H]."""
    whole = torch.empty(shape.tokens, shape.width, dtype=shape.dtype)
    begin = 0
    for states in computed(prompt, rows, shape, size):
        whole[begin : begin + len(states)] = states
        begin += len(states)
    return whole


def in_file(
    prompt: Prompt, rows: list[Row], shape: Shape, folder: Path, needed: bytes, size: int, listen: Listener
) -> Tensor:
    """All states [tokens, H], mapped from a file in `folder`, which is written where it is not there or not right.

    `needed` is the SHA-256 of what the states depend on.
    """
    path = folder / f"{needed.hex()[:32]}.states"
    wrong = damage(path, shape, needed)
    if wrong:
        note(listen, f"{path} is not used and is made again: {wrong}" if path.exists() else f"{path} is new")
        note(listen, f"{shape} are computed once and kept in that file")
        write(path, computed(prompt, rows, shape, size), needed)
        wrong = damage(path, shape, needed)
        if wrong:
            raise SoftpromptError("SP-E501", wrong, "what was written", "set train.cache to memory", where=str(path))
    else:
        note(listen, f"{shape} are read from {path}")
    # Copy on write: torch knows no tensor that must not be written to, and this one writes to no file.
    data = np.memmap(path, dtype=np.uint8, mode="c", shape=(shape.bytes,))
    return torch.from_numpy(data).view(shape.dtype).view(shape.tokens, shape.width)


def write(path: Path, states: Iterator[Tensor], needed: bytes) -> None:
    """Put states and seals into a file that is whole or absent; raises `SoftpromptError` where the system refuses."""
    temporary = path.parent / f".softprompt-{secrets.token_hex(8)}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with temporary.open("xb") as file:
            for part in states:
                data = part.contiguous().view(torch.uint8).numpy().data
                digest.update(data)
                file.write(data)
            file.write(needed + digest.digest())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        do = "free space, set train.cache_folder, or set train.cache to memory or none"
        found = (error.strerror or str(error)).lower()
        raise SoftpromptError("SP-E501", found, "to write states", do, where=str(path)) from error
    finally:
        with suppress(OSError):  # where it has its name, it is gone
            temporary.unlink()


def damage(path: Path, shape: Shape, needed: bytes) -> str:
    """What is wrong with a file of states; empty where it holds these states, every byte of them."""
    try:
        if not path.is_file():
            return "there is no such file"
        with path.open("rb") as file:
            found = os.fstat(file.fileno()).st_size
            if found != shape.bytes + SEAL:
                return f"it has {found:,} bytes, not {shape.bytes + SEAL:,}"
            digest, left = hashlib.sha256(), shape.bytes
            while left and (data := file.read(min(left, 1 << 20))):
                digest.update(data)
                left -= len(data)
            seal = file.read(SEAL)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    if seal[:32] != needed:
        return "it is of another backbone, other data or another template"
    return "" if seal[32:] == digest.digest() else "its bytes are not those that were written"


def key(prompt: Prompt, plan: Plan, rows: list[Row], shape: Shape) -> bytes:
    """SHA-256 over everything that decides about the states, to the last bit.

    An adapter under the prompt and rounded weights are part of the backbone's fingerprint. Versions and threads are in
    it because a run that is repeated, or resumed from another file, has to end with the same bits.
    """
    facts = {
        "format": FORMAT,
        "backbone": prompt.backbone.fingerprint,
        "data": plan.sha256.get("train"),
        "template": plan.recipe.task.template,
        "shape": [shape.layer, shape.before, shape.tokens, shape.width, str(shape.dtype)],
        "rows at once": plan.recipe.train.batch_size,
        "precision": plan.recipe.train.precision,
        "device": prompt.backbone.device.type,
        "threads": torch.get_num_threads(),
        "versions": [torch.__version__, version("transformers")],
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for row in rows:
        digest.update(np.array([len(row.ids), *row.ids], dtype="<i8").tobytes())
    return digest.digest()


def divided(rows: list[Row], whole: Tensor, shape: Shape, size: int) -> list[Row]:
    """Rows with their parts of all states [tokens, H], which stand there in the order `by_length`."""
    kept, begin = list(rows), 0
    for i in chain.from_iterable(by_length(rows, size)):
        end = begin + len(rows[i].ids)
        kept[i] = replace(rows[i], below=Below(whole[begin:end], shape.layer, shape.before))
        begin = end
    return kept


def disagreement(prompt: Prompt, rows: list[Row], kept: list[Row]) -> str:
    """What is wrong with loss or gradient of a few rows that start from states; empty where they are right."""
    with trial(prompt):
        try:
            found = measured(prompt, few(kept), packs=prompt.packs)
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError, Unsupported) as error:
            return f"this model cannot start from them: {error}".splitlines()[0][:200]
        return difference(found, measured(prompt, few(rows), packs=prompt.packs), prompt.backbone.dtype)


def note(listen: Listener, text: str) -> None:
    """Say what is done."""
    listen({"event": "note", "text": text})
