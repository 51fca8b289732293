"""Prompts for GraphRAG, LightRAG and nano-graphrag: written for a corpus, scored on chunks held out, or left alone."""

from softprompt.graphrag.forms import Draft, as_files, render
from softprompt.graphrag.leave import Outcome
from softprompt.graphrag.plan import Plan, make_plan
from softprompt.graphrag.profile import Given
from softprompt.graphrag.targets import TARGETS, find_target
from softprompt.graphrag.tune import tune
from softprompt.graphrag.validate import Checked, Finding, validate

__all__ = [
    "TARGETS",
    "Checked",
    "Draft",
    "Finding",
    "Given",
    "Outcome",
    "Plan",
    "as_files",
    "find_target",
    "make_plan",
    "render",
    "tune",
    "validate",
]
