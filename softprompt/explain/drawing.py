"""Drawings of the page as inline SVG: a bar, a curve, a shade."""

from collections.abc import Sequence
from typing import Any

WIDTH, HEIGHT = 300, 170
LEFT, TOP, BOTTOM = 40, 10, 24  # room for the numbers of the axes
NUMBER = 26  # how far apart numbers below an axis stand


def bars(value: float, most: float) -> str:
    """A bar of `value`, the longest being `most`."""
    width = 60 * value / most if most > 0 else 0.0
    box = 'width="62" height="8" style="display:inline-block;margin-right:.5em" aria-hidden="true"'
    return f'<svg {box}><rect class="bar" width="{width:.1f}" height="8" rx="2"/></svg>'


def shade(value: float) -> str:
    """The style of a cell for a value from 0 to 1: the stronger the higher."""
    return f"background: rgba(var(--heat), {0.75 * min(1.0, max(0.0, value)):.2f})"


def curve(points: Sequence[dict[str, Any]]) -> str:
    """The score (solid, on its axis from 0 to 1 where it fits) and the loss (dashed, from 0) over what was changed."""
    places = [float(one["at"]) for one in points]
    losses = [float(one["loss"]) for one in points]
    scores = [float(one["score"]) for one in points if one["score"] is not None]
    drawn = [line(places, losses, 0.0, max(losses) or 1.0, "path loss")]
    axis = f"{max(losses):.2f}"
    if len(scores) == len(points):
        low, high = min(0.0, *scores), max(1.0, *scores)
        drawn.append(line(places, scores, low, high, "path"))
        axis = f"{high:.2f}"
    labels = "".join(
        f'<text x="{across(at, places):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{at:g}</text>'
        for at in apart(places)
    )
    floor = HEIGHT - BOTTOM
    frame = f'<line class="axis" x1="{LEFT}" y1="{floor}" x2="{WIDTH - 10}" y2="{floor}"/>'
    marks = f'<text x="{LEFT - 6}" y="{TOP + 8}" text-anchor="end">{axis}</text>'
    marks += f'<text x="{LEFT - 6}" y="{floor}" text-anchor="end">0</text>'
    inside = f"<title>{told(points)}</title>{frame}{marks}{labels}{''.join(drawn)}"
    return f'<svg role="img" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">{inside}</svg>'


def apart(places: Sequence[float]) -> list[float]:
    """The places whose numbers do not run into each other, the last one among them."""
    kept: list[float] = []
    for at in sorted(places, reverse=True):
        if not kept or across(kept[-1], places) - across(at, places) >= NUMBER:
            kept.append(at)
    return kept


def told(points: Sequence[dict[str, Any]]) -> str:
    """The points in words, for readers who see no drawing."""
    return "; ".join(
        f"at {one['at']:g} loss {one['loss']:.3f}" + ("" if one["score"] is None else f", score {one['score']:.3f}")
        for one in points
    )


def across(at: float, places: Sequence[float]) -> float:
    """Where a place stands from left to right."""
    low, high = min(places), max(places)
    return LEFT + (at - low) / ((high - low) or 1.0) * (WIDTH - LEFT - 20) + 6


def line(places: Sequence[float], values: Sequence[float], low: float, high: float, kind: str) -> str:
    """A line through values."""
    tall = HEIGHT - BOTTOM - TOP
    pairs = zip(places, values, strict=True)
    dots = " ".join(
        f"{across(at, places):.1f},{TOP + tall * (1 - (value - low) / ((high - low) or 1.0)):.1f}"
        for at, value in pairs
    )
    return f'<polyline class="{kind}" points="{dots}"/>'
