"""One HTML page about a prompt: tables and drawings, nothing fetched from anywhere, light and dark."""

from collections.abc import Sequence
from html import escape
from typing import Any

from softprompt.explain.drawing import bars, curve, shade

STYLE = """
:root { --ground: #fbfbf9; --panel: #fff; --ink: #1c1e21; --soft: #5b6169; --line: #dcdfe3; --mark: #0b6e5f;
  --heat: 11, 110, 95; --bad: #a3271c; color-scheme: light; font: 16px/1.5 system-ui, sans-serif; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171a; --panel: #1c2024; --ink: #e8eaed; --soft: #a3abb3;
  --line: #343a41; --mark: #5fd3bd; --heat: 95, 211, 189; --bad: #ff9a8d; color-scheme: dark; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); }
main { max-width: 72rem; margin: 0 auto; padding: 1.2rem; }
h1 { font-size: 1.35rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 0 0 .4rem; }
h3 { font-size: .95rem; margin: 1rem 0 .3rem; }
section { background: var(--panel); border: 1px solid var(--line); border-radius: 10px;
  padding: 1rem 1.2rem; margin: 1rem 0; }
p { margin: .3rem 0 .6rem; max-width: 60rem; }
p.note, caption, th, dt { color: var(--soft); font-size: .86rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1.2rem; margin: .6rem 0 0; }
dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
table.heat th, table.heat td { padding: .15rem .5rem; border: 0; text-align: center; }
code { font: .88em ui-monospace, Menlo, monospace; background: rgba(var(--heat), .1); border-radius: 3px;
  padding: 0 .2em; white-space: pre-wrap; overflow-wrap: anywhere; }
table code { white-space: pre; }
.row { display: flex; flex-wrap: wrap; gap: 1.5rem; }
svg { display: block; max-width: 100%; } svg text { fill: var(--soft); font-size: 11px; }
.bar { fill: var(--mark); } .axis { stroke: var(--line); } .path { fill: none; stroke: var(--mark); stroke-width: 2; }
.loss { stroke: var(--bad); stroke-dasharray: 4 3; }
"""


def page(report: dict[str, Any]) -> str:
    """The whole page of what `explain` found, with the facts of the prompt's card beside it."""
    parts = [head(report), vectors(report)]
    if "effects" in report:
        parts += [meaning(report), attention(report["shares"]), perturbed(report)]
    parts.append(depths(report["lens"]))
    title = escape(f"{report['prompt']}, explained")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def head(report: dict[str, Any]) -> str:
    """What the prompt is."""
    names = ("task", "method", "length", "template", "backbone", "data")
    facts = [(name, code(report[name])) for name in names if report.get(name)]
    if "effects" in report:
        effects = report["effects"]
        facts += [("with the prompt", worth(effects["whole"])), ("without it", worth(effects["bare"]))]
    rows = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts)
    return f"<h1>{escape(report['prompt'])}</h1><dl>{rows}</dl>"


def vectors(report: dict[str, Any]) -> str:
    """What every vector is near, and what it does."""
    norms, chance = report["table"]["norms"], report["table"]["chance"]
    tokens = report["effects"]["tokens"] if "effects" in report else []
    header = ["vector", "nearest rows of the table (cosine)", "norm"]
    header += ["importance", "without it: loss", "score"] if tokens else []
    most = max((token["importance"] for token in tokens), default=0.0)
    lines = []
    for i, near in enumerate(report["neighbours"]):
        cells = [str(near["vector"]), words(near["nearest"]), f"{near['norm']:.3g}"]
        if tokens:
            one = tokens[i]
            cells += [bars(one["importance"], most) + f"{one['importance']:.4f}", f"{one['loss_change']:+.4f}"]
            cells.append("" if one["score_change"] is None else f"{one['score_change']:+.3f}")
        lines.append(cells)
    text = (
        f"The table's rows have a median norm of {norms['median']:.3g}; 90 % lie within {norms['low']:.3g} and "
        f"{norms['high']:.3g}. A random direction has a cosine of {chance:.2f} to its nearest row: a cosine near that "
        "says nothing."
    )
    more = (
        f"Importance: the mean over {report['effects']['n']} examples of |dL/dm|, m a mask on the vector. Without it: "
        "the vector and its place are taken away, and the examples are answered again."
        if tokens
        else "With labelled data this page also says what each vector does."
    )
    return section("Vectors", f"{note(text)}{note(more)}{grid(header, lines, numbers=2)}")


def meaning(report: dict[str, Any]) -> str:
    """The prompt as text, and the control."""
    found = report["projection"]
    rows = [["the prompt", worth(found["whole"])], ["its nearest words as a prompt", worth(found["words"])]]
    text = f"<p>Nearest words: {code(found['text'])}</p>{grid(['', 'score'], rows, numbers=2)}"
    if "pez" in report:
        text += searched(report["pez"])
    if "control" in report:
        text += control(report["control"])
    return section("Do the words mean anything?", text)


def searched(found: dict[str, Any]) -> str:
    """The text that PEZ found from the prompt."""
    other = "" if found["reads_back"] else " Typed in, it is read as other tokens."
    told = f"{found['steps']} steps along the gradient at the nearest words, on {found['fitted_on']} of the examples; "
    told += f"scored on the {found['n']} others.{other}"
    names = {
        "prompt": "the prompt",
        "pez": "the text that PEZ found",
        "nearest": "its nearest words that can be written",
    }
    rows = [[title, worth(found["scores"][name])] for name, title in names.items()]
    return f"<h3>As readable text</h3>{note(told)}<p>{code(found['text'])}</p>{grid(['', 'score'], rows, numbers=2)}"


def control(found: dict[str, Any]) -> str:
    """The prompt that reads as an unrelated text."""
    scores = found["scores"]
    told = (
        f"Vectors whose nearest words are those of an unrelated text ({found['reads_as_text']:.0%} of them), trained "
        f"for {found['steps']} steps on {found['fitted_on']} of the examples and scored, as the other two, on the "
        f"{found['n']} others. If they score about as the prompt does, nearest words are no evidence of what it means."
    )
    rows = [
        ["the prompt", worth(scores["prompt"])],
        ["reads as the unrelated text, trained", worth(scores["control"])],
        ["the unrelated text itself", worth(scores["text"])],
    ]
    return f"<h3>The control</h3>{note(told)}<p>{code(found['text'])}</p>{grid(['', 'score'], rows, numbers=2)}"


def attention(found: dict[str, Any]) -> str:
    """Shares of attention by layer and vector."""
    if "missing" in found:
        return section("Attention", note(f"not available: {escape(found['missing'])}"))
    titles = {"text": "From the text", "answer": "From the place of the answer"}
    drawn = "".join(f"<div><h3>{titles[name]}</h3>{heat(layers)}</div>" for name, layers in found.items())
    text = "Share of a layer's attention that goes to each vector, in per cent: means over heads and examples."
    return section("Attention", f"{note(text)}{drawn}")


def heat(layers: Sequence[dict[str, Any]]) -> str:
    """A layer a line, a vector a column."""
    most = max((value for layer in layers for value in layer["vectors"]), default=1.0) or 1.0
    top = "".join(f"<th>{i}</th>" for i in range(len(layers[0]["vectors"])))
    lines = "".join(
        f"<tr><th>layer {layer['layer']}</th>"
        + "".join(f'<td style="{shade(value / most)}">{100 * value:.1f}</td>' for value in layer["vectors"])
        + f'<td class="n">{100 * layer["prompt"]:.0f} %</td></tr>'
        for layer in layers
    )
    table = f'<table class="heat"><tr><th></th>{top}<th>prompt</th></tr>{lines}</table>'
    return f'<div class="wide">{table}</div>'


def perturbed(report: dict[str, Any]) -> str:
    """Curves, and the swaps with another prompt."""
    titles = {
        "noise": "noise, in units of each vector's rms",
        "scale": "all vectors times a factor",
        "towards": "on the way to the nearest words",
    }
    drawn = "".join(f"<div><h3>{titles[name]}</h3>{curve(points)}</div>" for name, points in report["curves"].items())
    what = "solid: score; dashed: loss" if report["effects"]["whole"]["score"] else "dashed: loss"
    text = f'{note(what)}<div class="row">{drawn}</div>'
    if "swap" in report:
        text += swapped(report["swap"], str(report["swapped_with"]))
    return section("When the vectors are moved", text)


def swapped(points: list[dict[str, Any]], other: str) -> str:
    """One vector at a time from another task's prompt."""
    lines = [["all" if one["at"] < 0 else str(one["at"]), f"{one['loss']:.4f}", points_of(one)] for one in points]
    table = grid(["vector", "loss", "score"], lines, numbers=1)
    return f"<h3>With vectors of {escape(other)} in their place</h3>{table}"


def points_of(one: dict[str, Any]) -> str:
    """The score at a point; nothing for prompts that are judged by their loss."""
    return "" if one["score"] is None else f"{one['score']:.3f}"


def depths(found: dict[str, Any]) -> str:
    """What the model's head reads in the vectors, layer by layer."""
    if "missing" in found:
        return section("States through the layers", note(f"not available: {escape(found['missing'])}"))
    top = "".join(f"<th>{i}</th>" for i in range(len(found["layers"][0])))
    lines = "".join(
        f"<tr><th>{'input' if depth == 0 else f'after {depth}'}</th>"
        + "".join(
            f'<td style="{shade(one[0]["probability"])}" title="{escape(titled(one))}">{code(one[0]["word"])}</td>'
            for one in layer
        )
        + "</tr>"
        for depth, layer in enumerate(found["layers"])
    )
    fixed = "the same whatever the text is" if found["fixed"] else "read beside one example; other texts change them"
    text = f"The likeliest token in each vector's state, read by the model's own head ({fixed}). Stronger: surer."
    table = f'<table class="heat"><tr><th></th>{top}</tr>{lines}</table>'
    return section("States through the layers", f'{note(text)}<div class="wide">{table}</div>')


def titled(one: list[dict[str, Any]]) -> str:
    """The likeliest tokens with their probabilities, as one line."""
    return ", ".join(f"{item['word']!r} {item['probability']:.2f}" for item in one)


def section(title: str, content: str) -> str:
    """A panel of the page."""
    return f"<section><h2>{title}</h2>{content}</section>"


def note(text: str) -> str:
    """A paragraph about what stands below it."""
    return f'<p class="note">{text}</p>'


def code(text: object) -> str:
    """A piece of text as it is."""
    return f"<code>{escape(str(text))}</code>"


def words(nearest: Sequence[dict[str, Any]]) -> str:
    """Rows of the table with their cosines."""
    return " ".join(f"{code(one['word'])}&nbsp;{one['cosine']:.2f}" for one in nearest)


def worth(found: dict[str, Any]) -> str:
    """A measurement: the score with its interval where there is one, and the loss."""
    loss, score = f"loss {found['loss']:.4f}", found["score"]
    if score is None:
        return loss
    return f"{escape(score['name'])} {score['value']:.3f} ±{score['error']:.3f} (n={score['n']}), {loss}"


def grid(header: Sequence[str], lines: Sequence[Sequence[str]], *, numbers: int) -> str:
    """A table; columns from `numbers` on are numbers."""
    kind = ['class="n"' if i >= numbers else "" for i in range(len(header))]
    top = "".join(f"<th {kind[i]}>{name}</th>" for i, name in enumerate(header))
    rows = "".join("<tr>" + "".join(f"<td {kind[i]}>{c}</td>" for i, c in enumerate(line)) + "</tr>" for line in lines)
    return f'<div class="wide"><table><tr>{top}</tr>{rows}</table></div>'
