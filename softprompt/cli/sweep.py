"""`softprompt sweep`: many prompts of one backbone, trained in one pass."""

import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.cli.options import Address, AsJson, Model, On, workers
from softprompt.cli.output import document, duration, next_steps, say, table
from softprompt.cli.progress import Event, Progress, resumable
from softprompt.cli.summary import number
from softprompt.cli.train import read_recipe, refuse_absent

if TYPE_CHECKING:
    from softprompt.recipe import Recipe
    from softprompt.run import Listener
    from softprompt.sweep.results import Entry, Swept


def sweep(
    data: Annotated[
        list[str], typer.Argument(help="A recipe (.yaml) or labelled data; several: a task each.", metavar="RECIPE...")
    ],
    over: Annotated[
        list[str] | None,
        typer.Option(help="What varies, as in lr=0.1,0.3,seed=0,1: a prompt for every combination.", metavar="KEY=V,V"),
    ] = None,
    model: Model = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any key of a recipe, for all prompts.", metavar="KEY=V")
    ] = None,
    run: Annotated[str | None, typer.Option(help="Folder of the sweep.  [default: runs/DATA-sweep-N]")] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Most prompts in one pass; fewer need less memory.")] = 8,
    on: On = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Train many prompts in one pass."""
    from softprompt.sweep import train_all
    from softprompt.sweep.grid import expand, free, parse

    varied = parse(over or [])
    flags = {"backbone.name": model} if model else {}
    bases: dict[str, dict[str, Any]] = {}
    for path in data:
        recipe = read_recipe(path, flags, settings or [])
        bases[free(Path(path).stem or "data", bases)] = recipe.model_dump(mode="json", exclude_unset=True)
    recipes = expand(bases, varied)
    for recipe in recipes.values():
        for file in (recipe.data.train, recipe.data.dev, recipe.data.test):
            refuse_absent(file)
    folder = Path(run) if run else own_folder(recipes, at_once)
    with workers(on, address):
        follow(lambda listen: train_all(recipes, folder, at_once=at_once, listen=listen), folder, as_json)


def go_on(folder: Path, as_json: bool) -> None:
    """`softprompt resume` of the folder of a sweep."""
    from softprompt.sweep import resume_all

    follow(lambda listen: resume_all(folder, listen=listen), folder, as_json)


def own_folder(recipes: "dict[str, Recipe]", at_once: int) -> Path:
    """`runs/DATA-sweep-N` of these very members, or with the first N that is free."""
    from softprompt.sweep import manifest, plain

    first = next(iter(recipes.values()))
    stem = Path(first.data.train.partition("@")[0].replace(":", "/")).stem or "run"
    wanted, count = plain(recipes), 1
    while (path := Path("runs") / f"{stem}-sweep-{count}").exists():
        known = manifest(path)
        if known is not None and (known["members"], known["at_once"]) == (wanted, at_once):
            break
        count += 1
    return path


class Together(Progress):
    """How a sweep goes: a line for the pass, and dev scores by member."""

    def __call__(self, event: Event) -> None:
        """Show one event; lines of a member begin with its name."""
        name, event = event.get("member", ""), {key: value for key, value in event.items() if key != "member"}
        if event["event"] == "pass":
            self.on_step(event)
        elif event["event"] == "plan" and self.plan is not None:
            self.print(f"{name}: {event['plan'].steps:,} steps at most")
        elif event["event"] == "dev":
            self.on_dev(event | {"step": f"{event['step']}: {name}"})
        elif event["event"] == "note" and name:
            self.print(f"{name}: {event['text']}")
        elif event["event"] == "done":
            self.print(f"{name}: {event['report'].scores[0]} on test")
        elif event["event"] in ("plan", "note"):
            super().__call__(event)

    def moving(self, event: Event) -> str:
        """What a pass did."""
        return f"{event['prompts']} prompts  mean loss {event['loss']:.3f}"


def follow(start: "Callable[[Listener], Swept]", folder: Path, as_json: bool) -> None:
    """Run to the end and print the table; a sweep that is told to stop says how to go on."""
    began = time.monotonic()
    with Together(f"sweep: {folder}") as progress:
        again = shlex.join(["softprompt", "resume", str(folder)])
        with resumable(folder, "the states are saved", again, as_json=as_json, progress=progress):
            swept = start(progress)
    seconds = time.monotonic() - began
    if as_json:
        document(swept.as_dict() | {"seconds": round(seconds, 1)})
        return
    show(swept)
    say(f"{len(swept.entries)} prompts in {duration(seconds)}; {folder}")
    prompt = shlex.quote(str(swept.best[0].prompt))
    next_steps(f"softprompt predict {prompt} FILE", f"softprompt evaluate {prompt} DATA", f"softprompt show {prompt}")


def show(swept: "Swept") -> None:
    """A table of the members, and who is best on dev."""
    best = {entry.name for entry in swept.best}
    rows = [[entry.name, *cells(entry), "best on dev" if entry.name in best else ""] for entry in swept.entries]
    table(["prompt", "dev", "test", "numbers", ""], rows)
    for entry in swept.entries:
        if entry.error:
            say(f"{entry.name} left the batch: {entry.error['message']}")
    for names, score in swept.over_seeds:
        say(f"{', '.join(names)}: {score.name} {number(score.as_dict())} on test, ± over {score.seeds} seeds")
    if len(best) == 1:
        say(f"best on dev: {swept.best[0].name}; test had no part in the choice, so its test score is fair")
    else:
        say("best on dev is marked for each task: members with other dev examples or another metric are not compared")


def cells(entry: "Entry") -> list[str]:
    """Scores on dev and test with ±, and how many numbers were trained."""
    if entry.report is None:
        return ["-", "-", "-"]
    dev = number(entry.dev) if "error" in entry.dev else f"{entry.dev['name']} {entry.dev['value']:.3f}"
    test = entry.report["scores"][0]
    return [dev, f"{test['name']} {number(test)}", f"{entry.report['parameters']:,}"]
