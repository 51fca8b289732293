"""Number types that a CPU computes in by itself: others are emulated, at a third to a fifteenth of float32's speed."""

from collections.abc import Mapping
from typing import Any

import torch

from softprompt.errors import Unsupported

# Any of these instructions multiplies matrices of the type (names of torch.cpu.get_capabilities).
NATIVE = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16", "fp16_arith"),
}


def capabilities() -> Mapping[str, Any]:
    """The instructions of this CPU by name, as torch found them; empty where this torch cannot tell."""
    ask = getattr(torch.cpu, "get_capabilities", None)  # not in the oldest torch that we run on
    return ask() if ask else {}


def check_precision(dtype: torch.dtype, device: torch.device, setting: str) -> None:
    """Raise `Unsupported` where `setting` asks a CPU for a type that it emulates; what torch cannot tell passes."""
    names, found = NATIVE.get(dtype, ()), capabilities()
    if device.type != "cpu" or not names or not found or any(found.get(name) for name in names):
        return
    kind = str(dtype).removeprefix("torch.")
    raise Unsupported(
        "SP-E426",
        f"{setting}={kind} on a CPU that emulates {kind}",
        f"a GPU, or a CPU with one of {', '.join(names)}",
        "set backbone.dtype=float32 and leave train.precision out: here it is faster",
    )
