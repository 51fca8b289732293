"""The transfer matrix as one HTML file: a heat map and the table, nothing loaded from anywhere, light and dark."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from softprompt.lab.blocks import POLICY, STYLE, table, wide

if TYPE_CHECKING:
    from softprompt.transfer.matrix import Cell

SIDE, HIGH, LEFT, TOP = 92, 46, 150, 40  # of a cell, and of what stands left of and above all cells
MORE, LESS = "#2a6fc9", "#c13030"  # less error than from scratch, and more
HEADER = ("source", "target", "from scratch", "from the source", "error taken away", "difference", "p", "verdict")
FIGURE = """
figure { margin: 1rem 0 } svg.heat { min-width: 0; width: auto; max-width: none }
svg.heat text { stroke: none } svg.heat rect { stroke: var(--line) }
"""


def page(cells: Sequence["Cell"]) -> str:
    """The whole page of a matrix."""
    title = "What every task gives to every other"
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{title}</title><style>{STYLE}{FIGURE}</style>"
    told = (
        "The share of the error of a target, trained from scratch, that a source takes away; below zero it adds some."
    )
    alone = "A task from its own prompt, on the diagonal, is what longer training alone is worth."
    body = [f"<h1>{title}</h1><p>{escape(sentence(cells))}</p>", f"<figure>{wide(heat(cells))}</figure>"]
    body += [f'<p class="soft">{told} {alone}</p>', table(HEADER, [row(cell) for cell in cells])]
    whole = "\n".join(body)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body><main>\n{whole}\n</main></body></html>\n'


def sentence(cells: Sequence["Cell"]) -> str:
    """How many pairs of different tasks gain and lose, beyond chance."""
    apart = [cell.test.verdict for cell in cells if cell.source != cell.target]
    gains, losses = apart.count("gain"), apart.count("harm")
    if not apart:
        return "One task alone: nothing was transferred."
    return (
        f"Of {len(apart)} pairs of different tasks, {gains} gain and {losses} lose at p < 0.05; no correction is made."
    )


def row(cell: "Cell") -> tuple[str, ...]:
    """One pair as a line of the table."""
    share = "" if cell.relative is None else f"{cell.relative:+.0%}"
    gap = f"{cell.test.difference:+.3f} ±{cell.test.error:.3f}"
    values = (f"{cell.metric} {cell.scratch:.3f}", f"{cell.transferred:.3f}", share, gap, f"{cell.test.p:.2g}")
    return (cell.source, cell.target, *values, cell.test.verdict)


def heat(cells: Sequence["Cell"]) -> str:
    """The heat map: sources from top to bottom, targets from left to right; a star where p < 0.05."""
    names = list(dict.fromkeys(cell.target for cell in cells))
    most = max((abs(cell.relative or 0.0) for cell in cells), default=0.0) or 1.0
    parts = [label(LEFT + SIDE * (i + 0.5), TOP - 10, name, "middle") for i, name in enumerate(names)]
    parts += [label(LEFT - 8, TOP + HIGH * (i + 0.5) + 4, name, "end") for i, name in enumerate(names)]
    for cell in cells:
        x, y = LEFT + SIDE * names.index(cell.target), TOP + HIGH * names.index(cell.source)
        share = cell.relative or 0.0
        opacity, colour = 0.85 * abs(share) / most, MORE if share > 0 else LESS
        words = f"{cell.source} to {cell.target}: {cell.test.verdict}"
        box = f'x="{x}" y="{y}" width="{SIDE}" height="{HIGH}" fill="{colour}" fill-opacity="{opacity:.2f}"'
        parts.append(f"<rect {box}><title>{escape(words)}</title></rect>")
        parts.append(label(x + SIDE / 2, y + HIGH / 2 + 4, marked(cell), "middle"))
    width, height = LEFT + SIDE * len(names) + 10, TOP + HIGH * len(names) + 10
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'<svg class="heat" {size} role="img" aria-label="heat map of transfer">{"".join(parts)}</svg>'


def marked(cell: "Cell") -> str:
    """The share of a cell, with a star where p < 0.05."""
    star = "" if cell.test.verdict == "no gain" else " *"
    return "-" if cell.relative is None else f"{cell.relative:+.0%}{star}"


def label(x: float, y: float, words: str, anchor: str) -> str:
    """Words at a place; long names are cut, the table has them whole."""
    cut = words if len(words) <= 20 else words[:19] + "…"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(cut)}</text>'


__all__ = ["marked", "page"]
