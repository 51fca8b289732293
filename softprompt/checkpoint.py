"""The training state as one small file: checksummed, written whole, and the newest valid one wins."""

import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from softprompt.errors import SoftpromptError, TrainingError
from softprompt.files import read_regular, write_atomically

JSON: TypeAlias = "dict[str, JSON] | list[JSON] | str | int | float | bool | None"

NAME = re.compile(r"state-(\d{9,})\.sp")
HEADER = re.compile(rb"softprompt-state 1 ([0-9a-f]{64})\n")
LIMIT = 8 << 30  # bytes; prompts and their Adam moments are far below
DAMAGE = "a training state as it was written"


@dataclass(frozen=True)
class State:
    """Everything a run needs to go on as if it had never stopped."""

    step: int  # optimizer steps done
    tensors: dict[str, Tensor]  # any dense dtype and shape; kept bit for bit, on the CPU
    meta: dict[str, JSON]  # plain JSON: a tuple would come back as a list


def save(folder: Path, state: State, keep: int = 3) -> Path:
    """Write `state-<step>.sp` into an existing folder and drop all but the `keep` newest states up to this step.

    States of later steps are never touched. Raises SoftpromptError SP-E501 when the file cannot be written (the older
    states are intact) and TrainingError SP-E502 when the state is too large to be read back.
    """
    if keep < 1 or state.step < 0:
        raise ValueError(f"keep and step count from 1 and 0, got {keep} and {state.step}")
    data = _encode(state)
    path = folder / f"state-{state.step:09d}.sp"
    if len(data) > LIMIT:
        found, do = f"a state of {len(data):,} bytes", "train fewer parameters"
        raise TrainingError("SP-E502", found, f"at most {LIMIT:,}", do, where=str(path))
    write_atomically(path, data)
    with suppress(OSError):  # the state is safe; an old file too many does no harm
        for _, old in [entry for entry in _states(folder) if entry[0] <= state.step][keep:]:
            os.unlink(old)
    return path


def newest(folder: Path, limit: int | None = None) -> tuple[State | None, list[str]]:
    """The newest valid state of `folder`, or None, and one line for each newer file that had to be passed over.

    With a `limit`, states of later steps than that are left aside.
    A folder that does not exist holds no state; one that cannot be listed raises TrainingError SP-E504.
    """
    notes: list[str] = []
    try:
        states = _states(folder)
    except FileNotFoundError:
        return None, notes
    except OSError as error:
        found, do = (error.strerror or str(error)).lower(), "check the path and that you may read it"
        raise TrainingError("SP-E504", found, "the folder of a run", do, where=str(folder)) from error
    for step, path in states:
        if limit is not None and step > limit:
            continue
        try:
            return _decode(read_regular(path, LIMIT), step, str(path)), notes
        except SoftpromptError as error:
            notes.append(str(error))
    return None, notes


def _states(folder: Path) -> list[tuple[int, Path]]:
    """Step and path of every state file, newest first, valid or not."""
    matches = [match for name in os.listdir(folder) if (match := NAME.fullmatch(name))]
    return sorted(((int(match[1]), folder / match[0]) for match in matches), reverse=True)


def _encode(state: State) -> bytes:
    # A clone is contiguous and shares no storage with another tensor: safetensors refuses both.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.tensors.items()
    }
    # One key only: safetensors writes several in an order of its own choosing, and equal states are equal files.
    payload = safetensors.torch.save(tensors, {"state": json.dumps({"step": state.step, "meta": state.meta})})
    return f"softprompt-state 1 {hashlib.sha256(payload).hexdigest()}\n".encode() + payload


def _decode(data: bytes, step: int, where: str) -> State:
    """Raises TrainingError SP-E503 for anything but what `_encode` wrote for this step."""
    match = HEADER.match(data)
    if match is None:
        raise _damaged("a file that does not start as one of this version", where)
    payload = data[match.end() :]
    if hashlib.sha256(payload).hexdigest().encode() != match[1]:
        raise _damaged("bytes that do not match their checksum", where)
    try:
        tensors = {name: tensor.clone() for name, tensor in safetensors.torch.load(payload).items()}
        head = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
        facts = json.loads(head["__metadata__"]["state"])
        state = State(facts["step"], dict(sorted(tensors.items())), facts["meta"])
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged("contents that no training state has", where) from error
    if state.step != step:
        raise _damaged(f"the state of step {state.step}", where)
    return state


def _damaged(found: str, where: str) -> TrainingError:
    return TrainingError(
        "SP-E503", found, DAMAGE, "nothing, if an older state is used; else start the run anew", where=where
    )
