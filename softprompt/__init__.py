"""Prompt tuning for frozen transformers: one backbone in memory, a file of kilobytes per task.

The names below are the public surface; each is imported on first use, so `import softprompt` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from softprompt.api import train
    from softprompt.artifact import Artifact
    from softprompt.backbones import Backbone, load_backbone
    from softprompt.core import Batch, Example, Injection
    from softprompt.ensemble import Ensemble
    from softprompt.errors import SoftpromptError
    from softprompt.estimator import PromptClassifier
    from softprompt.methods import Method
    from softprompt.prompt import Prompt
    from softprompt.pruning import prune
    from softprompt.recipe import Recipe

__version__ = "0.1.0"

_HOMES = {
    "Artifact": "artifact",
    "Backbone": "backbones",
    "Batch": "core",
    "Ensemble": "ensemble",
    "Example": "core",
    "Injection": "core",
    "Method": "methods",
    "Prompt": "prompt",
    "PromptClassifier": "estimator",
    "Recipe": "recipe",
    "SoftpromptError": "errors",
    "load_backbone": "backbones",
    "prune": "pruning",
    "train": "api",
}

__all__ = [
    "Artifact",
    "Backbone",
    "Batch",
    "Ensemble",
    "Example",
    "Injection",
    "Method",
    "Prompt",
    "PromptClassifier",
    "Recipe",
    "SoftpromptError",
    "load_backbone",
    "prune",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'softprompt' has no attribute {name!r}")
    return getattr(import_module(f"softprompt.{_HOMES[name]}"), name)
