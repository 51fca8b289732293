"""Frozen weights in fewer bits: gradients still pass through a linear layer to the prompt, and nothing updates it.

int8 on the CPU by torchao (weights alone, a scale per row); int8 (Dettmers et al. 2022, arXiv:2208.07339) and 4-bit
NormalFloat (Dettmers et al. 2023, arXiv:2305.14314) on CUDA by bitsandbytes. Neither library is a dependency.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from softprompt.errors import BackboneError, Unsupported


def check_quantize(how: str, device: torch.device) -> None:
    """Raise `BackboneError` where the library is absent, and `Unsupported` for what the device cannot do.

    No int4 on the CPU: bitsandbytes 0.50 repacks its weights there and fails on layers narrower than a block.
    """
    library = "bitsandbytes" if device.type == "cuda" else "torchao"
    if how not in ("int8", "int4") or (how == "int4" and library == "torchao"):
        found = f"quantize={how} on {device.type}"
        raise Unsupported("SP-E425", found, "none, int8, or on CUDA int4", "set backbone.quantize")
    if find_spec(library) is None:
        found, do = f"no package {library}", f"pip install {library}, or stay with whole weights"
        raise BackboneError("SP-E408", found, f"it, for {how} weights on {device.type}", do)


def quantize_linear(model: Any, how: str, device: torch.device) -> None:
    """Round the linear layers of a model on the CPU and move it to `device`; output embeddings stay as they are.

    Raises `Unsupported` where the family has no linear layers of torch (GPT-2).
    """
    output = model.get_output_embeddings()
    chosen = {name: m for name, m in model.named_modules() if type(m) is nn.Linear and m is not output}
    if not chosen:
        found = f"no linear layers in {model.config.model_type}"
        raise Unsupported("SP-E425", found, "torch's own", "leave backbone.quantize out")
    if device.type == "cuda":
        for name, layer in chosen.items():
            model.set_submodule(name, by_bitsandbytes(layer, how, device))
    else:
        torchao: Any = import_module("torchao.quantization")
        torchao.quantize_(model, torchao.Int8WeightOnlyConfig(), filter_fn=lambda layer, name: name in chosen)
    model.to(device).requires_grad_(False).eval()


def by_bitsandbytes(layer: nn.Linear, how: str, device: torch.device) -> nn.Module:
    """The same layer in bits of `how`; it is rounded while it moves to the device."""
    library: Any = import_module("bitsandbytes.nn")
    shape, bias = (layer.in_features, layer.out_features), layer.bias is not None
    if how == "int8":
        made = library.Linear8bitLt(*shape, bias=bias, has_fp16_weights=False)
    else:
        made = library.Linear4bit(*shape, bias=bias, compute_dtype=layer.weight.dtype, quant_type="nf4")
    made.load_state_dict(layer.state_dict())
    moved: nn.Module = made.to(device)
    return moved
