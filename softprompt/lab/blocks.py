"""What the page of a report is made of: its style, tables, and things that scroll by themselves."""

import json
from collections.abc import Sequence
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --page: #fcfcfb; --ink: #1c1b1a; --soft: #5b5a57; --line: #dedcd6; --tint: #f2f1ed;
  --s0: #2a6fc9; --s1: #b4540f; --s2: #12805c; --s3: #8a3fa8; --s4: #a67a00; --s5: #c13030; --s6: #46627f;
  --s7: #a83e74 }
@media (prefers-color-scheme: dark) { :root { --page: #191918; --ink: #ececea; --soft: #a9a8a4; --line: #3a3a38;
  --tint: #242422; --s0: #6ea8f2; --s1: #ef9a5b; --s2: #4fc79b; --s3: #cd92e6; --s4: #dcb445; --s5: #f08080;
  --s6: #9db6cf; --s7: #e88fbb } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem } p { margin: .5rem 0; max-width: 46rem } .soft { color: var(--soft) }
.wide { overflow-x: auto; margin: .75rem 0 } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .75rem .3rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top }
th { font-weight: 600; white-space: nowrap } td.n, th.n { text-align: right; white-space: nowrap }
tr.base td { color: var(--soft) } code, pre { font: .85rem/1.45 ui-monospace, monospace }
pre { background: var(--tint); padding: .75rem; overflow-x: auto; border-radius: 4px }
td code { overflow-wrap: anywhere } summary { cursor: pointer; padding: .25rem 0 }
svg { display: block; width: 100%; min-width: 30rem; max-width: 44rem; height: auto }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); paint-order: stroke; stroke: var(--page);
  stroke-width: 3px; stroke-linejoin: round } .turned { transform: rotate(-90deg) }
svg line, svg path { stroke-width: 2; fill: none } svg .grid { stroke: var(--line); stroke-width: 1 }
svg .thin { stroke-width: 1.25 } svg .step { stroke-width: 1.25; stroke-dasharray: 4 3 }
svg .muted { stroke: var(--soft); fill: var(--soft) } svg .ring { fill: none; stroke-width: 1.25; opacity: .75 }
""" + "".join(f"svg .s{i} {{ stroke: var(--s{i}) }} svg .dot.s{i} {{ fill: var(--s{i}) }}\n" for i in range(8))
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], strong: int | None = None) -> str:
    """A table of texts; columns of numbers stand right, rows after `strong` are grey."""
    right = [all(number(row[i]) for row in rows) for i in range(len(header))]
    lines = [f"<tr>{cells('th', header, right)}</tr>"] if any(header) else []
    for at, row in enumerate(rows):
        kind = ' class="base"' if strong is not None and at >= strong else ""
        lines.append(f"<tr{kind}>{cells('td', row, right)}</tr>")
    return wide(f"<table>{''.join(lines)}</table>")


def cells(tag: str, words: Sequence[str], right: Sequence[bool]) -> str:
    """The cells of a line."""
    kinds = [' class="n"' if stands else "" for stands in right]
    return "".join(f"<{tag}{kind}>{escape(text)}</{tag}>" for kind, text in zip(kinds, words, strict=True))


def number(words: str) -> bool:
    """Whether a cell is a number, a score, or empty."""
    return not words.strip("0123456789.,±+-−e% ")


def wide(inner: str) -> str:
    """Something that scrolls by itself where the screen is narrower."""
    return f'<div class="wide">{inner}</div>'


def as_json(value: Any) -> bytes:
    """Plain values as a file."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
