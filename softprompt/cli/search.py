"""`softprompt search`: a prompt that is text, found by gradient or by edits."""

import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.cli.options import AsJson, Model
from softprompt.cli.output import document, duration, next_steps, say, table
from softprompt.cli.progress import Event, Progress, resumable
from softprompt.cli.summary import number
from softprompt.cli.train import read_recipe

if TYPE_CHECKING:
    from softprompt.run import Listener
    from softprompt.search import Found


def search(
    data: Annotated[str, typer.Argument(help="Labelled data, or a recipe (.yaml).", metavar="DATA|RECIPE.yaml")],
    strategy: Annotated[
        str, typer.Option(help="autoprompt, gcg, grips (edits an instruction), pez, rlprompt or random.")
    ] = "gcg",
    budget: Annotated[
        int, typer.Option(min=1, help="Most passes over one text: forwards and backwards, dev included.")
    ] = 20_000,
    length: Annotated[int, typer.Option(min=1, max=1000, help="Tokens of the prompt.")] = 5,
    start: Annotated[
        str | None, typer.Option(help="A text to begin at, or a soft prompt's file: its nearest tokens.")
    ] = None,
    words: Annotated[bool, typer.Option("--words", help="Search the class words first, as AutoPrompt does.")] = False,
    model: Model = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any key of a recipe, as in --set data.shots=16.", metavar="KEY=V")
    ] = None,
    run: Annotated[str | None, typer.Option(help="Folder of the search.  [default: runs/DATA-STRATEGY-N]")] = None,
    dev: Annotated[str | None, typer.Option(help="Data to choose the best prompt by.")] = None,
    test: Annotated[str | None, typer.Option(help="Data to report numbers on.")] = None,
    candidates: Annotated[
        int | None, typer.Option(min=1, help="Prompts scored in a step.  [default: the strategy's]")
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="Training examples that they are scored on.")] = 16,
    dev_examples: Annotated[int, typer.Option(min=1, help="Most dev examples that choose the best.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the search.")] = 0,
    compare: Annotated[bool, typer.Option(help="Run random search too, at equal cost.")] = True,
    as_json: AsJson = False,
) -> None:
    """Search a prompt that is plain text."""
    flags = {"backbone.name": model, "data.dev": dev, "data.test": test}
    recipe = read_recipe(data, {key: value for key, value in flags.items() if value is not None}, settings or [])
    folder = Path(run) if run else own_folder(recipe.data.train, strategy)
    asked: dict[str, Any] = {"seed": seed, "examples": examples, "dev": dev_examples} | (
        {"count": candidates} if candidates else {}
    )

    def start_it(listen: "Listener") -> "Found":
        from softprompt.search import search as begin

        return begin(
            recipe,
            folder,
            strategy=strategy,
            budget=budget,
            length=length,
            start=start,
            find_words=words,
            compare=compare,
            listen=listen,
            **asked,
        )

    follow(start_it, folder, as_json)


def go_on(folder: Path, as_json: bool) -> None:
    """`softprompt resume` of the folder of a search."""
    from softprompt.search import resume

    follow(lambda listen: resume(folder, listen=listen), folder, as_json)


def follow(begin: "Callable[[Listener], Found]", folder: Path, as_json: bool) -> None:
    """Search to the end and print what came of it; a search that is told to stop says how to go on."""
    began = time.monotonic()
    with Hunt(f"search: {folder}", brief=as_json) as progress:
        again = shlex.join(["softprompt", "resume", str(folder)])
        with resumable(folder, "the state is saved", again, as_json=as_json):
            found = begin(progress)
    show(found, time.monotonic() - began, found.prompt.backbone.name, as_json)


def show(found: "Found", seconds: float, model: str, as_json: bool) -> None:
    """What came of a search."""
    report = found.report
    path = None if found.artifact is None else str(found.artifact)
    if as_json:
        document(report | {"run": str(found.folder), "prompt": path, "seconds": round(seconds, 1)})
        return
    first = report["scores"][0]
    rows: list[list[object]] = [["this prompt", number(first), "", ""]]
    for name, score in report["baselines"].items():
        gain = report["compared"][name]
        rows.append([name, number(score), f"{gain['difference']:+.3f} ±{gain['error']:.3f}", f"{gain['p']:.3g}"])
    table([f"test, {first['n']} examples", first["name"], "gain", "p"], rows)
    say(report["verdict"])
    say(f"prompt: {report['text']!r}")
    passes = report["passes"]
    say(
        f"{report['steps']} steps, {passes['forwards']:,} forwards and {passes['backwards']:,} backwards of one text "
        f"(budget {passes['limit']:,}) in {duration(seconds)}; {path or found.folder / 'prompt.txt'}"
    )
    soft = shlex.join(["softprompt", "train", str(found.folder / "recipe.yaml"), "--run", str(found.folder / "soft")])
    use = [] if path is None else [f"softprompt predict {shlex.quote(path)} FILE --model {shlex.quote(model)}"]
    next_steps(*use, f"{soft}  (a soft prompt that starts from this text)")


class Hunt(Progress):
    """How a search goes: what is spent, and the best prompt so far."""

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if event["event"] == "search":
            self.on_search(event)
        else:
            super().__call__(event)

    def on_plan(self, event: Event) -> None:
        """What was read, and where the search is kept."""
        self.plan = event["plan"]
        for text in () if self.brief else (self.heading, *self.plan.notes):
            self.print(text)

    def on_search(self, event: Event) -> None:
        """One step."""
        best = f"best on dev {event['key'][0]:.3f} {event['best']!r}"
        text = f"{event['spent']:,}/{event['budget']:,} passes, step {event['step']}: {best}"
        if self.line is not None:
            if not self.line.tasks:
                self.line.add_task("", total=event["budget"], text=text)
            self.line.update(self.line.task_ids[0], completed=event["spent"], text=text)
        elif event.get("dev") and not self.brief:
            self.print(text)


def own_folder(data: str, strategy: str) -> Path:
    """`runs/DATA-STRATEGY-N` with the first N that is free."""
    stem = Path(data.partition("@")[0].replace(":", "/")).stem or "run"
    number = 1
    while (path := Path("runs") / f"{stem}-{strategy}-{number}").exists():
        number += 1
    return path


__all__ = ["search"]
