"""Frozen models: loading, probing, and the seam where prompts enter."""

from softprompt.backbones.base import Backbone, Recorded
from softprompt.backbones.load import load_backbone, wrap

__all__ = ["Backbone", "Recorded", "load_backbone", "wrap"]
