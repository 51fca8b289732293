"""Plots as SVG inside a page: text is text, colours are those of the page, light or dark, and nothing is loaded."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, LEFT, RIGHT, LINE = 640, 170, 24, 26
HEIGHT, TOP, BOTTOM, SIDE = 300, 14, 44, 58
SERIES = 8  # colours that the page knows

Scale = Callable[[float], float]


@dataclass(frozen=True)
class Dots:
    """A row of a dot plot: a mean with its ±, and the values behind it."""

    name: str
    value: float
    error: float
    values: Sequence[float] = ()
    muted: bool = False


def dot_plot(rows: Sequence[Dots], unit: str) -> str:
    """Means with their ± under each other, every value a small ring beside them."""
    ends = [v for row in rows for v in (row.value - row.error, row.value + row.error, *row.values)]
    ticks = nice(min(ends), max(ends))
    x = linear(ticks[0], ticks[-1], LEFT, WIDTH - RIGHT)
    bottom = TOP + LINE * len(rows)
    parts = [grid(x(tick), TOP - 6, x(tick), bottom) + text(x(tick), bottom + 16, short(tick)) for tick in ticks]
    for i, row in enumerate(rows):
        y, kind = TOP + LINE * (i + 0.5), "muted" if row.muted else "s0"
        parts.append(text(LEFT - 10, y + 4, row.name, "end"))
        parts.append(mark("line", kind, x1=x(row.value - row.error), x2=x(row.value + row.error), y1=y, y2=y))
        parts += [mark("circle", f"ring {kind}", cx=x(value), cy=y, r=3) for value in row.values]
        label = f"{row.name}: {row.value:.3f} ±{row.error:.3f}"
        parts.append(mark("circle", f"dot {kind}", label, cx=x(row.value), cy=y, r=5))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, bottom + 34, unit))
    return drawn(parts, bottom + 42, f"{unit} of {', '.join(row.name for row in rows)}")


@dataclass(frozen=True)
class Point:
    """A method between quality and what it costs."""

    name: str
    cost: float
    value: float
    error: float
    front: bool


def scatter(points: Sequence[Point], cost: str, unit: str, *, higher: bool) -> str:
    """Quality against cost on a scale of logarithms; the front is filled and joined, what it dominates is grey."""
    costs = [max(point.cost, 1e-9) for point in points]
    decades = range(math.floor(math.log10(min(costs) * 0.8)), math.ceil(math.log10(max(costs) * 1.25)) + 1)
    values = nice(
        min(point.value - point.error for point in points), max(point.value + point.error for point in points)
    )
    x = linear(decades[0], decades[-1], SIDE, WIDTH - RIGHT)
    y = linear(values[0], values[-1], HEIGHT - BOTTOM, TOP)
    parts = axes([(x(d), f"1e{d}") for d in decades], [(y(v), short(v)) for v in values], cost, unit)
    places = [(x(math.log10(max(p.cost, 1e-9))), y(p.value)) for p in points]
    best = sorted(place for place, point in zip(places, points, strict=True) if point.front)
    path = "".join(f"H{a:.1f}V{b:.1f}" for a, b in best[1:])
    if path:
        parts.append(f'<path class="step s0" d="M{best[0][0]:.1f} {best[0][1]:.1f}{path}"/>')
    heights = apart([place[1] - 10 for place in places])
    for point, (a, b), height in zip(points, places, heights, strict=True):
        kind, spread = "s0" if point.front else "muted", (y(point.value - point.error), y(point.value + point.error))
        parts.append(mark("line", kind, x1=a, x2=a, y1=spread[0], y2=spread[1]))
        label = f"{point.name}: {unit} {point.value:.3f} ±{point.error:.3f}, {cost} {point.cost:,.4g}"
        parts.append(mark("circle", f"dot {kind}", label, cx=a, cy=b, r=5))
        late = a > WIDTH * 0.7
        parts.append(text(a + (-9 if late else 9), height, point.name, "end" if late else "start"))
    side = "high" if higher else "low"
    return drawn(parts, HEIGHT, f"{unit} ({side} is better) against {cost}")


def curves(series: dict[str, list[tuple[float, float, float]]], unit: str) -> str:
    """Quality by number of training examples, on a scale of logarithms: (examples, mean, ±) of every method."""
    flat = [point for points in series.values() for point in points]
    sizes = sorted({point[0] for point in flat})
    values = nice(min(p[1] - p[2] for p in flat), max(p[1] + p[2] for p in flat))
    x = linear(math.log(sizes[0]), math.log(sizes[-1]), SIDE + 10, WIDTH - 150)
    y = linear(values[0], values[-1], HEIGHT - BOTTOM, TOP)
    ticks = [(x(math.log(size)), f"{size:,g}") for size in sizes]
    parts = axes(ticks, [(y(value), short(value)) for value in values], "training examples", unit, right=WIDTH - 150)
    ends = apart([y(points[-1][1]) + 4 for points in series.values()])
    for i, (name, points) in enumerate(series.items()):
        kind, shift = f"s{i % SERIES}", 3 * (i - (len(series) - 1) / 2)  # side by side, so that bars stay readable
        places = [(x(math.log(size)) + shift, y(value), error, value, size) for size, value, error in points]
        parts.append(f'<path class="{kind}" d="M{"L".join(f"{p[0]:.1f} {p[1]:.1f}" for p in places)}"/>')
        for a, b, error, value, size in places:
            parts.append(mark("line", f"thin {kind}", x1=a, x2=a, y1=y(value - error), y2=y(value + error)))
            parts.append(mark("circle", f"dot {kind}", f"{name}, {size:,g}: {value:.3f} ±{error:.3f}", cx=a, cy=b, r=4))
        parts.append(text(places[-1][0] + 12, ends[i], name, "start"))
    return drawn(parts, HEIGHT, f"{unit} by number of training examples")


def axes(
    across: Sequence[tuple[float, str]], up: Sequence[tuple[float, str]], below: str, beside: str, right: float = 0
) -> list[str]:
    """Lines and numbers of both axes, and what they measure."""
    right = right or WIDTH - RIGHT
    parts = [grid(SIDE, y, right, y) + text(SIDE - 8, y + 4, name, "end") for y, name in up]
    parts += [grid(x, TOP, x, HEIGHT - BOTTOM) + text(x, HEIGHT - BOTTOM + 16, name) for x, name in across]
    parts.append(text((SIDE + right) / 2, HEIGHT - 8, below))
    turned = f'<text class="turned" x="{-(HEIGHT - BOTTOM + TOP) / 2:.1f}" y="14" text-anchor="middle">'
    return [*parts, f"{turned}{escape(beside)}</text>"]


def drawn(parts: Sequence[str], height: float, title: str) -> str:
    """The whole picture, with its name for those who cannot see it."""
    box = f'viewBox="0 0 {WIDTH} {height:.0f}"'
    return f'<svg {box} role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'


def mark(shape: str, kind: str, label: str = "", **places: Any) -> str:
    """A shape of a class, with a title that a pointer brings up."""
    where = " ".join(f'{name}="{value:.1f}"' for name, value in places.items())
    return f'<{shape} class="{kind}" {where}>{f"<title>{escape(label)}</title>" if label else ""}</{shape}>'


def grid(x1: float, y1: float, x2: float, y2: float) -> str:
    """A line of the grid."""
    return mark("line", "grid", x1=x1, y1=y1, x2=x2, y2=y2)


def text(x: float, y: float, words: str, anchor: str = "middle") -> str:
    """Words at a place; long names are cut, the table has them whole."""
    cut = words if len(words) <= 44 else words[:43] + "…"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(cut)}</text>'


def linear(low: float, high: float, first: float, last: float) -> Scale:
    """A number between `low` and `high` as a place; the middle where both are one."""
    if high == low:
        return lambda value: (first + last) / 2
    return lambda value: first + (value - low) / (high - low) * (last - first)


def nice(low: float, high: float) -> list[float]:
    """Round numbers, about five, from below `low` to above `high`."""
    room = (high - low) or abs(high) or 1.0
    unit = 10.0 ** math.floor(math.log10(room / 4))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= room / 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def apart(heights: Sequence[float], least: float = 13.0) -> list[float]:
    """Places of labels, moved down where one would cover another."""
    made, last = list(heights), -math.inf
    for at in sorted(range(len(made)), key=made.__getitem__):
        made[at] = last = max(made[at], last + least)
    return made


def short(value: float) -> str:
    """A number of an axis."""
    return f"{value:.10g}"
