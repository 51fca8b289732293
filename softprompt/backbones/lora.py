"""LoRA under a prompt: an adapter of PEFT, merged into the weights before anything else looks at the model.

PEFT refuses to combine LoRA with a prompt. Merged, the two never meet: the seam sees one model, and the prompt is bound
to it by a fingerprint that the adapter's bytes enter.
"""

import hashlib
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from softprompt.container import read_foreign
from softprompt.errors import ArtifactError, BackboneError

WEIGHTS = "adapter_model.safetensors"


def merge(model: Any, folder: Path) -> tuple[Any, str]:
    """A transformers model with a LoRA folder merged into its weights, and the SHA-256 of the adapter's tensors.

    Raises `BackboneError` without the package peft, for adapters of other types, for pickles, and where a tensor of the
    file has no place in the model, or the other way round: PEFT only warns, and would begin those at random.
    """
    if find_spec("peft") is None:
        raise BackboneError("SP-E408", "no package peft", "it, for backbone.adapter", "pip install peft")
    from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict

    try:
        given = read_foreign(folder / WEIGHTS).keys()  # before PEFT, which would open a pickle in its place
        config = PeftConfig.from_pretrained(str(folder))
        if not isinstance(config, LoraConfig):
            raise misfit(folder, f"an adapter of type {config.peft_type}", "LoRA")
        config.task_type = None  # its classes for tasks prepare inputs, which the seam does
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers 5 by an older name: none of ours
            adapted = PeftModel.from_pretrained(model, str(folder), config=config)
    except (ArtifactError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise misfit(folder, f"{error}"[:200], "a LoRA adapter of PEFT for this model") from error
    strange = given ^ get_peft_model_state_dict(adapted).keys()
    if strange:
        raise misfit(folder, f"{min(strange)} in one of adapter and model", "all tensors in both")
    return adapted.merge_and_unload(), hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def misfit(folder: Path, found: str, expected: str) -> BackboneError:
    """The error for a folder that is no adapter of this model."""
    return BackboneError("SP-E409", found, expected, "check backbone.adapter", where=str(folder))
