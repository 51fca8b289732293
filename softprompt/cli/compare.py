"""`softprompt compare`: methods x tasks x seeds x sizes under one protocol, and a report of one file."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.cli.options import Address, AsJson, Model, On, workers
from softprompt.cli.output import document, duration, next_steps, say, table
from softprompt.cli.progress import resumable
from softprompt.cli.summary import number
from softprompt.cli.sweep import Together
from softprompt.cli.train import read_recipe
from softprompt.errors import RecipeError

if TYPE_CHECKING:
    from softprompt.lab import Compared, Protocol


def compare(
    data: Annotated[
        list[str], typer.Argument(help="A recipe (.yaml) or labelled data; several: a task each.", metavar="RECIPE...")
    ],
    methods: Annotated[
        str, typer.Option(help="See `softprompt methods`; with what it fixes: NAME+KEY=V.", metavar="NAME,...")
    ] = "prompt_tuning,prefix",
    seeds: Annotated[int, typer.Option(min=1, help="Reported runs of every method.")] = 5,
    trials: Annotated[int, typer.Option(min=1, help="Settings tried for every method; the first is the recipe's.")] = 4,
    sizes: Annotated[str, typer.Option(help="Numbers of training examples.", metavar="N,all")] = "all",
    over: Annotated[
        list[str] | None,
        typer.Option(help="What trials draw from, as in length=5|10|20.  [default: lr=0.005..0.3]", metavar="KEY=A..B"),
    ] = None,
    selection: Annotated[float, typer.Option(help="Share of the training examples to choose settings on.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Seed of the split and the draws, and the first of the seeds.")] = 0,
    model: Model = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any key of a recipe, for all tasks.", metavar="KEY=V")
    ] = None,
    run: Annotated[str | None, typer.Option(help="Folder of the comparison.  [default: runs/DATA-compare]")] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Most prompts in one pass; fewer need less memory.")] = 8,
    on: On = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Compare methods under one protocol; write a report."""
    from softprompt.lab import Protocol
    from softprompt.lab.protocol import OVER
    from softprompt.sweep.grid import free, slug

    tasks: dict[str, Any] = {}
    for path in data:
        recipe = read_recipe(path, {"backbone.name": model} if model else {}, settings or [])
        tasks[free(slug("data.train", path), tasks)] = recipe
    protocol = Protocol(
        tasks=tasks,
        methods=tuple(parts(methods)),
        seeds=seeds,
        trials=trials,
        sizes=tuple(map(amount, parts(sizes))),
        seed=seed,
        selection=selection,
        over=tuple(over or OVER),
        at_once=at_once,
    )
    place = Path(run) if run else Path("runs") / f"{'-'.join(tasks)[:60]}-compare"
    options = {"methods": methods, "seeds": seeds, "trials": trials, "sizes": sizes, "selection": selection}
    options |= {"seed": seed, "model": model, "at-once": at_once}
    options |= {"on": on and on.value, "address": address}
    given = [("--over", text) for text in protocol.over] + [("--set", text) for text in settings or []]
    given += [(f"--{name}", str(value)) for name, value in options.items() if value is not None]
    command = ["softprompt", "compare", *data, *(part for pair in given for part in pair)]
    with workers(on, address):
        follow(protocol, place, command, as_json)


def parts(text: str) -> list[str]:
    """The names between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def amount(text: str) -> int | None:
    """A number of examples; None for `all`. Raises `RecipeError` for anything else."""
    if text != "all" and not text.isdecimal():
        found = f"--sizes {text[:40]!r}"
        raise RecipeError("SP-E280", found, "numbers of training examples, or all", "write it as --sizes 100,all")
    return None if text == "all" else int(text)


class Lines(Together):
    """How a comparison goes: a line for every group of runs, and one that moves for the pass at hand."""

    def __call__(self, event: dict[str, Any]) -> None:
        """Show passes and lines of the comparison; of single runs only what went wrong."""
        if event["event"] == "pass":
            if event["step"] < self.step:  # another group begins
                self.done = 0
            self.on_step(event)
        elif event["event"] == "note" and ("member" not in event or "left the batch" in event["text"]):
            self.print(f"{event.get('member', '')}: {event['text']}".removeprefix(": "))


def follow(protocol: "Protocol", folder: Path, command: Sequence[str], as_json: bool) -> None:
    """Run to the end, write the report and print its table; what was stopped says how to go on."""
    from softprompt.lab import compare as begin
    from softprompt.lab import write
    from softprompt.lab.protocol import folder_of

    began = time.monotonic()
    again = shlex.join([*command, "--run", str(folder)])
    saved = "the states are saved, and what is done is not run again"
    with Lines(f"comparison: {folder}") as progress, resumable(folder, saved, again, as_json=as_json):
        found = begin(protocol, folder, listen=progress)
        page = write(found, shlex.join(command), progress)
    if as_json:
        facts = {"run": str(folder), "report": str(page), "seconds": found.seconds, "environment": found.environment}
        document(found.numbers | facts)
        return
    show(found)
    say(f"{page} in {duration(time.monotonic() - began)}; numbers, CSV and LaTeX stand beside it")
    first = found.numbers["questions"][0]
    method = folder_of(first["methods"][0]["method"])
    cell = folder / "runs" / first["task"] / first["size"] / method / f"seed-{protocol.seed}"
    next_steps(
        f"python -m webbrowser {shlex.quote(str(page))}", f"softprompt show {shlex.quote(str(cell))}/prompt.safetensors"
    )


def show(found: "Compared") -> None:
    """A table of the means, and what the tests say."""
    from softprompt.lab.page import sentences

    rows = [
        [question["task"], question["size"], method["method"], *cells(method)]
        for question in found.numbers["questions"]
        for method in question["methods"]
    ]
    table(["task", "size", "method", "metric", "test, ± over seeds", "numbers", "operations"], rows)
    for line in sentences(found.numbers):
        say(line)


def cells(method: dict[str, Any]) -> list[str]:
    """The metric, the mean on test, and what it costs."""
    test = method["test"]
    return [test["name"], number(test), f"{method['parameters']:,}", f"{method['operations']:.3g}"]
