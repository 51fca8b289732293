"""Read labelled text, tags and images into examples; find what is wrong with them; split and sample."""

from softprompt.data.checks import leakage
from softprompt.data.dataset import Columns, Dataset, OnBadRow, TaskKind
from softprompt.data.problem import BadRows, Problem
from softprompt.data.reader import Report, check, read, read_inputs
from softprompt.data.split import k_shot, split

__all__ = [
    "BadRows",
    "Columns",
    "Dataset",
    "OnBadRow",
    "Problem",
    "Report",
    "TaskKind",
    "check",
    "k_shot",
    "leakage",
    "read",
    "read_inputs",
    "split",
]
