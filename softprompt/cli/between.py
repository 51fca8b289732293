"""`softprompt transfer pretrain`, `distill`, `matrix` and `tree`; here the commands of `starts` and `project` join."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.cli import project, starts
from softprompt.cli.onward import finished, given, parents
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
    follow,
    gathered,
    several,
    tested,
)

if TYPE_CHECKING:
    from softprompt.run import Listener
    from softprompt.transfer.teachers import Teacher

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
    starts.begun(made.artifact, *given(model))


@app.command("distill")
def distill(
    teacher: Annotated[
        str,
        typer.Argument(
            help="A prompt file, a run or NAME@ALIAS; a .txt with an instruction, demonstrations, {text} and {mask}; "
            "the folder of a LoRA or of a tuned model; or full or lora, to tune the model here first.",
            metavar="TEACHER",
        ),
    ],
    data: Annotated[str, typer.Option(help="Labelled data of its task, or a recipe.", metavar="DATA")],
    length: Annotated[int, typer.Option(min=1, help="Vectors of the short prompt.")] = 5,
    top: Annotated[int, typer.Option(min=1, help="Tokens of the teacher that are kept where it writes.")] = 20,
    store: Folder = None,
    model: Model = None,
    settings: Settings = None,
    run: RunFolder = None,
    as_json: AsJson = False,
) -> None:
    """Teach a short prompt what a long one, a text, a LoRA or a tuned model answers."""
    who = taught_by(teacher, store)
    recipe = aimed(data, model, settings, [who.source] if who.source else [])
    folder = chosen(run, data, "distill")

    def start(listen: "Listener") -> Any:
        from softprompt.transfer.distill import distill as begin

        return begin(recipe, who, folder, length=length, top=top, listen=listen)

    made = follow(start, folder, as_json)
    if as_json:
        document(made.as_dict())
        return
    short = made.lengths[1]
    rows = [
        [f"teacher, {made.title}", "", f"{made.teacher['name']} {number(made.teacher)}"],
        [f"distilled, {short} vectors", *tested(made.student)],
        [f"trained alone, {short} vectors", *tested(made.control)],
    ]
    table(["prompt", "dev", "test"], rows)
    behind = made.against_teacher
    say(f"distilled is {behind.difference:+.3f} ±{behind.error:.3f} (p = {behind.p:.2g}) from its teacher")
    say(made.sentence)
    finished(made.kept.prompt, parents([teacher], store) if made.kept is made.student else [], store)


def taught_by(text: str, store: str | None) -> "Teacher":
    """The teacher that a word on the command line names."""
    from softprompt.cli.load import open_model
    from softprompt.transfer import teachers

    path = Path(text)
    if text in ("full", "lora") and not path.exists():
        return teachers.tuned_here(text)  # type: ignore[arg-type]
    if path.suffix == ".txt":
        return teachers.of_text(path)
    if (path / "adapter_config.json").is_file():
        return teachers.of_adapter(path)
    if (path / "config.json").is_file():
        return teachers.of_model(path)
    (source,) = gathered([text], store)
    return teachers.of_prompt(source, home=lambda: open_model(source.artifact, None))


@app.command("matrix")
def matrix(
    data: Annotated[list[str], typer.Argument(help="Two or more data files or recipes.", metavar="DATA...")],
    plot: Annotated[
        str | None,
        typer.Option(help="Also draw it into this PNG; needs matplotlib."),
    ] = None,
    model: Model = None,
    settings: Settings = None,
    run: RunFolder = None,
    on: On = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Measure what every task gives to every other: a table, a page and a heat map."""
    if plot:
        from softprompt.transfer.matrix import check_plot

        check_plot()  # before anything is trained
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
        document({"run": str(folder), **files(folder), "cells": [cell.as_dict() for cell in cells]})
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
    say(", ".join(files(folder).values()))
    best = max(cells, key=lambda cell: (cell.source != cell.target, cell.test.verdict == "gain", cell.relative or 0.0))
    starts.begun(folder / "sources" / f"{best.source}.safetensors", *given(model))


def files(folder: Path) -> dict[str, str]:
    """What a matrix left: its table, its page and, where matplotlib is installed, its picture."""
    named = {kind: folder / f"matrix.{kind}" for kind in ("csv", "html", "png")}
    return {kind: str(path) for kind, path in named.items() if path.is_file()}


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
        next_steps(shlex.join(["softprompt", "store", "show", roots[0].entry.reference, *given(store=store)]))
    else:
        note(f"{place.folder}: no prompts yet")
        next_steps(shlex.join(["softprompt", "store", "publish", "RUN", "NAME", *given(store=store)]))


__all__ = ["app"]  # of `softprompt transfer`, with the commands above
