"""`softprompt explain`: what a trained prompt is and does, as tables and as one page."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from softprompt.cli.options import AsJson, Model, PromptFile
from softprompt.cli.output import document, next_steps, note, say, table
from softprompt.cli.summary import number


def explain(
    prompt: PromptFile,
    data: Annotated[
        str | None, typer.Argument(help="Labelled data; without, less can be said.", metavar="DATA")
    ] = None,
    swap: Annotated[str | None, typer.Option(help="Another task's prompt, to swap vectors with.")] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", help="The page.  [default: PROMPT.html]")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Most examples that are measured on.")] = 128,
    steps: Annotated[
        int, typer.Option("--control-steps", min=0, help="Steps of PEZ and of the control; 0: neither.")
    ] = 60,
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """Say what the vectors of a prompt are near and do."""
    from softprompt.cli.load import bound, labelled, load
    from softprompt.cli.use import deciding, remark
    from softprompt.explain import explain as ask
    from softprompt.explain.page import page
    from softprompt.files import write_atomically
    from softprompt.vectors import vectors_of

    artifact = load(prompt)
    read = labelled(artifact, data) if data else None
    ready = bound(artifact, model)
    if read:
        remark(ready, read.examples, read.notes)
    examples = read.examples if read else []
    metric = deciding(artifact, examples) if examples else ""
    other = vectors_of(load(swap).bind(ready.backbone)) if swap else None
    found = ask(ready, examples, metric, other=other, rows=rows, steps=steps)
    card = artifact.card
    about: dict[str, Any] = {"prompt": prompt, "data": data, "swapped_with": swap}
    about |= {"task": card.task.kind, "method": card.method.name}
    about |= {"template": card.template.text, "backbone": card.backbone.name, "length": card.method.length}
    report = about | found
    path = Path(out) if out else Path(f"{Path(artifact.where).stem}.html")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page(report).encode())
    if as_json:
        document(report | {"page": str(path)})
        return
    show(report)
    say(f"page: {path}")
    options = ["--model", model] if model else []
    next_steps(shlex.join(["softprompt", "compress", prompt, data or "DEV", *options]))


def show(report: dict[str, Any]) -> None:
    """The vectors as a table, then what the projection and the control say."""
    norms = report["table"]["norms"]
    tokens = report["effects"]["tokens"] if "effects" in report else [None] * len(report["neighbours"])
    lines = [row(near, token) for near, token in zip(report["neighbours"], tokens, strict=True)]
    head = ["vector", "nearest", "cosine", "norm"]
    table([*head, "importance", "loss without", "score"] if tokens[0] else head, lines)
    low, high = norms["low"], norms["high"]
    say(f"norms of the table: median {norms['median']:.3g}, 90 % within {low:.3g} to {high:.3g}")
    say(f"cosine of a random direction to its nearest row: {report['table']['chance']:.2f}")
    if "projection" in report:
        projected(report["projection"])
    if "pez" in report:
        searched(report["pez"])
    if "control" in report:
        controlled(report["control"])
    if "effects" not in report:
        note("with labelled DATA: what each vector does, attention, curves, and whether the words mean anything")


def row(near: dict[str, Any], token: dict[str, Any] | None) -> list[object]:
    """One vector as a row of the table."""
    first = near["nearest"][0]
    cells: list[object] = [near["vector"], repr(first["word"]), f"{first['cosine']:.2f}", f"{near['norm']:.3g}"]
    if token is None:
        return cells
    score = "" if token["score_change"] is None else f"{token['score_change']:+.3f}"
    return [*cells, f"{token['importance']:.4f}", f"{token['loss_change']:+.4f}", score]


def worth(found: dict[str, Any]) -> str:
    """A measurement as text: the score with its interval, or the loss."""
    return f"loss {found['loss']:.4f}" if found["score"] is None else number(found["score"])


def projected(found: dict[str, Any]) -> None:
    """What the prompt scores as text."""
    say(f"as text: {found['text']!r}: {worth(found['words'])}, the prompt itself {worth(found['whole'])}")


def searched(found: dict[str, Any]) -> None:
    """What PEZ makes of the prompt."""
    scores = found["scores"]
    say(f"as text that PEZ found: {found['text']!r}: {worth(scores['pez'])}, the prompt {worth(scores['prompt'])}")
    if not found["reads_back"]:
        note("that text is read as other tokens when it is typed in")


def controlled(found: dict[str, Any]) -> None:
    """What the control shows."""
    scores = found["scores"]
    say(f"control: vectors that read as {found['text']!r} ({found['reads_as_text']:.0%} of them),")
    say(f"  trained on {found['fitted_on']} of these examples: {worth(scores['control'])}, the prompt")
    say(f"  itself {worth(scores['prompt'])}, that text untrained {worth(scores['text'])}")
    say("  where the first two are alike, nearest words are no evidence of what a prompt means")
