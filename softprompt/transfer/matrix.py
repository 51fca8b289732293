"""What every task gives to every other: prompts of one recipe, trained from scratch and from each other.

Vu et al. 2022, arXiv:2110.07904, section 4.3, reports transfer as the share of the error that it takes away. The
diagonal is a task that starts from its own prompt: what longer training alone is worth.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.errors import SoftpromptError
from softprompt.files import write_atomically
from softprompt.lab.figure import drawable
from softprompt.metrics import find_metric
from softprompt.plan import make_plan
from softprompt.recipe import Recipe
from softprompt.run import Listener
from softprompt.sweep import train_all
from softprompt.sweep.results import Entry
from softprompt.training import open_backbone, set_threads
from softprompt.transfer.page import marked, page
from softprompt.transfer.paired import Compared, compare
from softprompt.transfer.sources import Source, copied, starting_from

HEADER = ("source", "target", "metric", "scratch", "transferred", "relative", "difference", "error", "p", "verdict")


@dataclass(frozen=True)
class Cell:
    """A target that starts from a source, beside the target from scratch, on test."""

    source: str
    target: str
    metric: str
    scratch: float
    transferred: float
    test: Compared

    @property
    def relative(self) -> float | None:
        """The share of the error that the source takes away, negative where it adds some; None without an error."""
        left = find_metric(self.metric).best - self.scratch
        return (self.transferred - self.scratch) / left if left else None

    def as_dict(self) -> dict[str, Any]:
        """The cell as plain values, in the order of `HEADER`."""
        facts = {"source": self.source, "target": self.target, "metric": self.metric, "scratch": self.scratch}
        facts |= {"transferred": self.transferred, "relative": self.relative}
        return facts | {name: value for name, value in self.test.as_dict().items() if name != "n"}


def matrix(
    recipes: Mapping[str, Recipe],
    folder: str | Path,
    *,
    backbone: Backbone | None = None,
    listen: Listener = lambda event: None,
) -> list[Cell]:
    """Train every recipe, then every recipe from every prompt, in two sweeps.

    matrix.csv and matrix.html go to `folder`, and matrix.png where matplotlib is installed. Repeated, it goes on where
    it was stopped. Raises what `train_all` raises, and `SoftpromptError` SP-E621 where a run broke off.
    """
    place = Path(folder)
    backbone = backbone or open_backbone(next(iter(recipes.values())))
    set_threads(next(iter(recipes.values())))
    scratch = sound(train_all(recipes, place / "scratch", backbone=backbone, listen=listen).entries)
    starts = {
        name: copied(Source(name, Artifact.load(entry.prompt)), place / "sources") for name, entry in scratch.items()
    }
    pairs = {
        f"{source}-to-{target}": starting_from(recipes[target], starts[source])
        for source in recipes
        for target in recipes
    }
    moved = sound(train_all(pairs, place / "pairs", backbone=backbone, listen=listen).entries)
    cells = []
    for target, recipe in recipes.items():
        plan = make_plan(recipe, backbone)
        control = Artifact.load(scratch[target].prompt).bind(backbone)
        for source in recipes:
            entry = moved[f"{source}-to-{target}"]
            test = compare(Artifact.load(entry.prompt).bind(backbone), control, plan)
            values = (first(scratch[target]), first(entry))
            cells.append(Cell(source, target, plan.recipe.task.metric, *values, test))
    write_atomically(place / "matrix.csv", table(cells).encode())
    write_atomically(place / "matrix.html", page(cells).encode())
    if drawable():
        plot(cells, place / "matrix.png")
    return cells


def sound(entries: list[Entry]) -> dict[str, Entry]:
    """Members by name; raises `SoftpromptError` SP-E621 where one broke off, which leaves a hole in the table."""
    for entry in entries:
        if entry.report is None:
            found, do = f"{entry.name} broke off: {(entry.error or {}).get('message')}"[:200], "lower optim.lr"
            raise SoftpromptError("SP-E621", found, "a prompt of every task", do, where=str(entry.folder))
    return {entry.name: entry for entry in entries}


def first(entry: Entry) -> float:
    """The deciding metric on test."""
    assert entry.report is not None
    return float(entry.report["scores"][0]["value"])


def table(cells: list[Cell]) -> str:
    """The cells as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HEADER, lineterminator="\n")
    writer.writeheader()
    writer.writerows(cell.as_dict() for cell in cells)
    return text.getvalue()


def check_plot() -> None:
    """Raise `SoftpromptError` SP-E625 where there is no matplotlib: before hours of training, not after them."""
    if not drawable():
        do = "pip install 'softprompt[lab]', or leave --plot out"
        raise SoftpromptError("SP-E625", "no package matplotlib", "one that draws", do)


def plot(cells: list[Cell], path: Path) -> None:
    """The relative transfer as a picture; raises `SoftpromptError` SP-E625 without matplotlib."""
    check_plot()
    names = list(dict.fromkeys(cell.target for cell in cells))
    values = {(cell.source, cell.target): cell.relative for cell in cells}
    grid = [[values[source, target] or 0.0 for target in names] for source in names]
    limit = max(1e-9, *(abs(value) for row in grid for value in row))
    size = (2.5 + 0.9 * len(names), 1.8 + 0.6 * len(names))
    figure: Any = import_module("matplotlib.figure").Figure(figsize=size, dpi=150, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(grid, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    for cell in cells:
        strong = abs(cell.relative or 0.0) > 0.6 * limit
        place = (names.index(cell.target), names.index(cell.source))
        axes.text(*place, marked(cell), ha="center", va="center", fontsize=8, color="white" if strong else "black")
    axes.set(xlabel="target", ylabel="source")
    axes.set_title("error that the source takes away; * p < 0.05", fontsize=9)
    figure.colorbar(image, format="{x:+.0%}")
    made = io.BytesIO()
    figure.savefig(made, format="png", metadata={"Software": None})  # the version would change the bytes
    write_atomically(path, made.getvalue())


__all__ = ["Cell", "check_plot", "matrix", "plot", "table"]
