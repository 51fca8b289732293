"""The results as a PNG, by matplotlib, which comes with `pip install 'softprompt[lab]'`."""

import io
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from softprompt.lab.verdict import Numbers

INCH, DPI = 3.2, 150


def drawable() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw(numbers: Numbers) -> bytes:
    """A panel for every question: means with ± over seeds, and every run; the bytes of a PNG."""
    questions = numbers["questions"]
    names = numbers["protocol"]["methods"]
    size = (INCH * 1.6, (0.9 + 0.3 * len(names)) * len(questions))
    figure: Any = import_module("matplotlib.figure").Figure(figsize=size, dpi=DPI, layout="constrained")
    panels = figure.subplots(len(questions), 1, squeeze=False)[:, 0]
    for question, panel in zip(questions, panels, strict=True):
        for at, method in enumerate(question["methods"]):
            score, values = method["test"], [run["test"]["value"] for run in method["runs"]]
            panel.errorbar(score["value"], at, xerr=score["error"], fmt="o", color="#2a6fc9")
            panel.plot(values, [at] * len(values), "o", markerfacecolor="none", markeredgecolor="#2a6fc9", alpha=0.6)
        panel.set_yticks(range(len(names)), names)
        panel.invert_yaxis()
        panel.margins(y=0.3)
        panel.set_title(f"{question['task']}, {question['size']}: {question['metric']}", fontsize=9)
        panel.grid(axis="x", alpha=0.4)
    made = io.BytesIO()
    figure.savefig(made, format="png", metadata={"Software": None})  # the version would change the bytes
    return made.getvalue()
