"""`softprompt transfer pretrain`, `distill`, `matrix` and `tree`; here the commands of `starts` and `project` join."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.cli import project, starts
from softprompt.cli.options import Address, AsJson, Model, On, workers
from softprompt.cli.output import document, next_steps, note, say, table
from softprompt.cli.store import Folder, opened
from softprompt.cli.summary import number
from softprompt.cli.transfer import (
    Cap,
    RunFolder,
    Settings,
    aimed,
    app,
    chosen,
    finished,
    follow,
    gathered,
    several,
    tested,
)

if TYPE_CHECKING:
    from softprompt.run import Listener

for name, command in (
    ("project", project.project),
    ("meta", starts.meta),
    ("ppt", starts.ppt),
    ("multitask", starts.multitask),
    ("transprompt", starts.transprompt),
    ("ctpt", starts.ctpt),
):
    app.command(name)(command)


@app.command("pretrain")
def pretrain(
    data: Annotated[list[str], typer.Argument(help="Data or recipes of source tasks.", metavar="DATA...")],
    cap: Cap = 2**19,
    model: Model = None,
    settings: Settings = None,
    run: RunFolder = None,
    as_json: AsJson = False,
) -> None:
    """Train one prompt on a mixture of tasks, to start others from."""
    recipes = several(data, model, settings)
    folder = chosen(run, data[0], "mixture")

    def start(listen: "Listener") -> Any:
        from softprompt.transfer.mixture import pretrain as begin

        return begin(recipes, folder, like=next(iter(recipes.values())), cap=cap, listen=listen)

    made = follow(start, folder, as_json)
    if as_json:
        document({"run": str(made.folder), "prompt": str(made.artifact), "tasks": list(recipes), "dev": made.dev})
        return
    say(f"one prompt for {', '.join(recipes)}: dev loss {made.dev['loss']:.3f} per token; {made.artifact}")
    next_steps(shlex.join(["softprompt", "transfer", "run", "TARGET", "--from", str(made.artifact)]))


@app.command("distill")
def distill(
    teacher: Annotated[str, typer.Argument(help="A prompt file, a run or NAME@ALIAS.", metavar="TEACHER")],
    data: Annotated[str, typer.Option(help="Labelled data of its task, or a recipe.", metavar="DATA")],
    length: Annotated[int, typer.Option(min=1, help="Vectors of the short prompt.")] = 5,
    top: Annotated[int, typer.Option(min=1, help="Tokens of the teacher that are kept at a label.")] = 20,
    store: Folder = None,
    model: Model = None,
    settings: Settings = None,
    run: RunFolder = None,
    as_json: AsJson = False,
) -> None:
    """Teach a short prompt what a long one answers."""
    source = gathered([teacher], store)
    recipe = aimed(data, model, settings, source)
    folder = chosen(run, data, "distill")

    def start(listen: "Listener") -> Any:
        from softprompt.transfer.distill import distill as begin

        return begin(recipe, source[0], folder, length=length, top=top, listen=listen)

    made = follow(start, folder, as_json)
    if as_json:
        document(made.as_dict())
        return
    long, short = made.lengths
    rows = [
        [f"teacher, {long} vectors", "", f"{made.teacher['name']} {number(made.teacher)}"],
        [f"distilled, {short} vectors", *tested(made.student)],
        [f"trained alone, {short} vectors", *tested(made.control)],
    ]
    table(["prompt", "dev", "test"], rows)
    behind = made.against_teacher
    say(f"distilled is {behind.difference:+.3f} ±{behind.error:.3f} (p = {behind.p:.2g}) from its teacher")
    say(made.sentence)
    finished(made.kept.prompt)


@app.command("matrix")
def matrix(
    data: Annotated[list[str], typer.Argument(help="Two or more data files or recipes.", metavar="DATA...")],
    plot: Annotated[str | None, typer.Option(help="Also draw it into this PNG; needs matplotlib.")] = None,
    model: Model = None,
    settings: Settings = None,
    run: RunFolder = None,
    on: On = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Measure what every task gives to every other."""
    recipes = several(data, model, settings)
    folder = chosen(run, data[0], "matrix")

    def start(listen: "Listener") -> Any:
        from softprompt.transfer.matrix import matrix as begin

        return begin(recipes, folder, listen=listen)

    with workers(on, address):
        cells = follow(start, folder, as_json)
    if plot:
        from softprompt.transfer.matrix import plot as draw

        draw(cells, Path(plot))
    if as_json:
        document({"run": str(folder), "cells": [cell.as_dict() for cell in cells]})
        return
    rows = [
        [
            c.source,
            c.target,
            f"{c.metric} {c.scratch:.3f}",
            f"{c.transferred:.3f}",
            percent(c.relative),
            starts.gap(c.test),
        ]
        for c in cells
    ]
    table(["source", "target", "scratch", "from source", "error taken away", "paired test"], rows)
    say("a task from its own prompt is what longer training alone is worth; others are transfer only beyond that")
    say(f"{folder / 'matrix.csv'}")
    next_steps(f"softprompt transfer run TARGET --from {shlex.quote(str(folder / 'sources'))}/NAME.safetensors")


def percent(share: float | None) -> str:
    """A share with its sign."""
    return "-" if share is None else f"{share:+.0%}"


@app.command("tree")
def tree(store: Folder = None, as_json: AsJson = False) -> None:
    """Draw which prompt of the store was made from which."""
    from softprompt.transfer.lineage import drawn, lineage

    place = opened(store)
    roots = lineage(place)
    if as_json:
        document({"store": str(place.folder), "roots": [root.as_dict() for root in roots]})
        return
    for line in drawn(roots):
        say(line)
    if roots:
        next_steps(f"softprompt store show {roots[0].entry.reference}")
    else:
        note(f"{place.folder}: no prompts yet")
        next_steps("softprompt store publish RUN NAME")


__all__ = ["app"]  # of `softprompt transfer`, with the commands above
