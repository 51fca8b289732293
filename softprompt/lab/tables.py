"""A comparison as CSV and LaTeX: what is the same in every repetition apart from what is not (seconds)."""

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any

from softprompt.lab.verdict import Numbers

Row = dict[str, Any]


def runs(numbers: Numbers) -> list[Row]:
    """A row for every reported run."""
    return [
        {
            **asked(question),
            "method": method["method"],
            "seed": run["seed"],
            "metric": question["metric"],
            "test": run["test"]["value"],
            "error_over_examples": run["test"]["error"],
            "examples": run["test"]["n"],
            "dev_metric": run["dev"]["name"],
            "dev": run["dev"]["value"],
            "steps": run["steps"],
            "parameters": method["parameters"],
            "operations": run["operations"],
            "setting": plain(method["trials"][method["chosen"]]["setting"]),
        }
        for question in numbers["questions"]
        for method in question["methods"]
        for run in method["runs"]
    ]


def trials(numbers: Numbers) -> list[Row]:
    """A row for every trial: its setting, and its score on the selection split."""
    return [
        {
            **asked(question),
            "method": method["method"],
            "trial": trial["trial"],
            "setting": plain(trial["setting"]),
            "metric": (trial["selection"] or {}).get("name", ""),
            "selection": (trial["selection"] or {}).get("value", ""),
            "chosen": int(trial["trial"] == method["chosen"]),
            "error": (trial["error"] or {}).get("message", ""),
        }
        for question in numbers["questions"]
        for method in question["methods"]
        for trial in method["trials"]
    ]


def pairs(numbers: Numbers) -> list[Row]:
    """A row for every pair of methods: difference, ±, p before and after Holm's correction."""
    keys = ("first", "second", "seeds", "difference", "error", "p", "p_holm", "better")
    found = [(question, pair) for question in numbers["questions"] for pair in question["pairs"]]
    return [asked(question) | {key: pair.get(key) for key in keys} for question, pair in found]


def asked(question: Numbers) -> Row:
    """Which question a row belongs to."""
    return {"task": question["task"], "size": question["size"]}


def plain(setting: Row) -> str:
    """A setting in one cell; empty for the recipe as it stands."""
    return json.dumps(setting, sort_keys=True) if setting else ""


def as_csv(rows: Sequence[Row]) -> str:
    """Rows with a header, in full precision; empty without rows."""
    made = io.StringIO()
    if rows:
        writer = csv.DictWriter(made, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return made.getvalue()


def as_latex(numbers: Numbers) -> str:
    """Methods by questions, mean ± over seeds on a scale as it is; the best mean is bold. Needs no package."""
    questions = numbers["questions"]
    lines = [f"% {len(numbers['protocol']['seeds'])} seeds, {numbers['protocol']['trials']} trials a method"]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(questions)}}}", r"\hline"]
    lines.append(row(["", *(f"{question['task']}, {question['size']}" for question in questions)]))
    lines.append(row(["method", *(question["metric"] for question in questions)]))
    lines.append(r"\hline")
    for at, method in enumerate(numbers["protocol"]["methods"]):
        cells = [cell(question, question["methods"][at]) for question in questions]
        lines.append(f"{escaped(method)} & {' & '.join(cells)} \\\\")
    lines += [r"\hline", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def row(cells: Sequence[str]) -> str:
    """A line of a table of plain texts."""
    return " & ".join(map(escaped, cells)) + r" \\"


def cell(question: Numbers, method: Numbers) -> str:
    """A mean with its ±, bold where it is the best."""
    values = [other["test"]["value"] for other in question["methods"]]
    best = max(values) if question["higher_is_better"] else min(values)
    value, error = method["test"]["value"], method["test"]["error"]
    text = rf"{value:.3f} \pm {error:.3f}"
    return rf"$\mathbf{{{text}}}$" if value == best else f"${text}$"


def escaped(text: str) -> str:
    """Text that LaTeX sets as it stands."""
    marks = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return re.sub(r"[\\~^&%$#_{}]", lambda match: marks.get(match[0], "\\" + match[0]), text)
