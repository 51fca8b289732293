"""`softprompt write`: a prompt that is text, written by a language model behind an endpoint."""

import shlex
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from softprompt.cli.options import AsJson
from softprompt.cli.output import document, duration, next_steps, note, say, table
from softprompt.cli.progress import Event, Progress
from softprompt.cli.search import own_folder
from softprompt.cli.summary import number
from softprompt.cli.train import read_recipe
from softprompt.errors import RecipeError
from softprompt.files import read_regular

if TYPE_CHECKING:
    from softprompt.llm import Endpoint, Written
    from softprompt.llm.estimate import Estimate

LONGEST = 100_000  # bytes of a seed prompt's file


def write(
    data: Annotated[str, typer.Argument(help="Labelled data, or a recipe (.yaml).", metavar="DATA|RECIPE.yaml")],
    task_url: Annotated[str, typer.Option(help="Where the model that answers is served, as in http://host:8000/v1.")],
    task_model: Annotated[str, typer.Option(help="Its name there.")],
    calls: Annotated[int, typer.Option(min=1, help="Most requests to both endpoints; never exceeded.")],
    strategy: Annotated[str, typer.Option(help="opro, ape, evoprompt-ga, evoprompt-de, exemplars or gepa.")] = "opro",
    optimizer_url: Annotated[str | None, typer.Option(help="Where the model that writes prompts is served.")] = None,
    optimizer_model: Annotated[str | None, typer.Option(help="Its name there.")] = None,
    task_key: Annotated[
        str | None, typer.Option(help="Environment variable that holds the key of the task's endpoint.", metavar="NAME")
    ] = None,
    optimizer_key: Annotated[
        str | None, typer.Option(help="The same for the optimizer's endpoint.", metavar="NAME")
    ] = None,
    task_price: Annotated[
        str | None, typer.Option(help="Price of a million tokens in and out, as in 0.15,0.60.", metavar="IN,OUT")
    ] = None,
    optimizer_price: Annotated[str | None, typer.Option(help="The same for the optimizer.", metavar="IN,OUT")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens, in and out, of both.")] = None,
    cost: Annotated[float | None, typer.Option(help="Most money, in the unit of the prices.")] = None,
    task_set: Annotated[
        list[str] | None, typer.Option(help="Any term of the task's endpoint, as in max_tokens=64.", metavar="KEY=V")
    ] = None,
    optimizer_set: Annotated[
        list[str] | None, typer.Option(help="The same for the optimizer's.", metavar="KEY=V")
    ] = None,
    start: Annotated[str | None, typer.Option(help="The seed prompt: a text, or a file (.txt).")] = None,
    candidates: Annotated[int | None, typer.Option(min=1, help="Prompts of a step.  [default: the strategy's]")] = None,
    system: Annotated[bool, typer.Option("--system", help="Send the prompt as the system's message.")] = False,
    dev: Annotated[str | None, typer.Option(help="Data to choose the best prompt by.")] = None,
    test: Annotated[str | None, typer.Option(help="Data to report numbers on.")] = None,
    dev_examples: Annotated[int, typer.Option(min=3, help="Most dev examples.")] = 100,
    test_examples: Annotated[int | None, typer.Option(min=1, help="Most test examples.  [default: all]")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any key of a recipe, as in --set data.shots=16.", metavar="KEY=V")
    ] = None,
    run: Annotated[str | None, typer.Option(help="Folder of the run.  [default: runs/DATA-STRATEGY-N]")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what the run will take, ask nothing, stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Let a language model write a prompt."""
    paths = {"data.dev": dev, "data.test": test}
    recipe = read_recipe(data, {key: value for key, value in paths.items() if value is not None}, settings or [])
    asked = endpoint("task", task_url, task_model, task_key, task_price, task_set or [])
    writer = None
    if optimizer_url is not None and optimizer_model is not None:
        given = (optimizer_key, optimizer_price, optimizer_set or [])
        writer = endpoint("optimizer", optimizer_url, optimizer_model, *given)
    elif optimizer_url or optimizer_model:
        do = "give --optimizer-url and --optimizer-model"
        raise RecipeError("SP-E732", "half an endpoint that writes prompts", "its address and its model", do)
    begun = seed_prompt(Path(start)) if start and start.endswith(".txt") else start
    chosen: dict[str, Any] = {"strategy": strategy, "asked": asked, "writer": writer, "calls": calls, "cost": cost}
    chosen |= {"tokens": tokens, "start": begun, "count": candidates, "dev": dev_examples, "test": test_examples}
    chosen |= {"place": "system" if system else "user", "seed": seed}
    from softprompt.llm import priced
    from softprompt.llm import write as begin

    made = priced(recipe, **chosen)
    if dry_run:
        document(asdict(made)) if as_json else say(worded(made))
        return
    if not as_json:
        note(worded(made))
    folder = Path(run) if run else own_folder(recipe.data.train, strategy)
    follow(lambda listen: begin(recipe, folder, listen=listen, **chosen), folder, as_json)


def seed_prompt(path: Path) -> str:
    """The text of a file; raises `RecipeError` SP-E741 where it is no UTF-8."""
    try:
        return read_regular(path, LONGEST).decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise RecipeError("SP-E741", f"no UTF-8 ({error})", "a text", "save it as UTF-8", where=str(path)) from error


def endpoint(who: str, url: str, model: str, key: str | None, price: str | None, terms: list[str]) -> "Endpoint":
    """An endpoint of the command line; raises `RecipeError` SP-E732 for a term that is wrong or unknown."""
    from softprompt.llm import Endpoint

    values: dict[str, Any] = {"base_url": url, "model": model, "key": key}
    if price is not None:
        values["price_in"], _, values["price_out"] = price.partition(",")
    for term in terms:
        name, _, value = term.partition("=")
        values[name] = value == "true" if value in ("true", "false") else value
    try:
        return Endpoint.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where, expected = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        found = f"{where} = {first['input']!r}"[:200]
        do = f"mend --{who}-url, --{who}-price or --{who}-set"
        raise RecipeError("SP-E732", found, expected, do) from error


def go_on(folder: Path, as_json: bool) -> None:
    """`softprompt resume` of the folder of such a run."""
    from softprompt.llm import resume

    follow(lambda listen: resume(folder, listen=listen), folder, as_json)


def follow(begin: "Callable[[Callable[[Event], None]], Written]", folder: Path, as_json: bool) -> None:
    """Write to the end and print what came of it; what stops a run, an error too, leaves it to be gone on with."""
    began = time.monotonic()
    with Pen(f"write: {folder}", brief=as_json) as progress:
        try:
            found = begin(progress)
        except KeyboardInterrupt:
            note("stopped; every answer so far is kept")
            next_steps(shlex.join(["softprompt", "resume", str(folder)]))
            raise
    show(found, time.monotonic() - began, as_json)


def show(found: "Written", seconds: float, as_json: bool) -> None:
    """What came of a run."""
    report = found.report
    if as_json:
        document(report | {"run": str(found.folder), "seconds": round(seconds, 1)})
        return
    first = report["scores"][0]
    rows: list[list[object]] = [["the best prompt found", number(first), "", ""]]
    for name, score in report["baselines"].items():
        gain = report["compared"][name]
        rows.append([name, number(score), f"{gain['difference']:+.3f} ±{gain['error']:.3f}", f"{gain['p']:.3g}"])
    table([f"test, {first['n']} examples", first["name"], "gain", "p"], rows)
    say(report["verdict"])
    say(f"prompt: {found.text!r}")
    shared = [f"{part} ({run!r})" for part, run in report["overlap"].items() if run]
    if shared:
        say(f"the best prompt found shares words with {', '.join(shared)}")
    spent = report["budget"]
    money = f", cost {spent['cost']:.4f}" if spent["cost"] else ""
    say(
        f"{report['steps']} steps, ended by {report['ended']}; {spent['calls']:,} of {spent['limit']:,} calls, "
        f"{spent['tokens']:,} tokens{money} in {duration(seconds)}; {found.folder / 'prompt.txt'}"
    )
    soft = ["softprompt", "train", str(found.folder / "recipe.yaml"), "--run", str(found.folder / "soft")]
    next_steps(f"{shlex.join(soft)}  (a soft prompt that starts from this text)")


def worded(made: "Estimate") -> str:
    """An estimate as one line."""
    money = "cost unknown (no prices)" if made.cost is None else f"cost about {made.cost:.4f}"
    return (
        f"at most {made.calls:,} calls, {made.closing:,} of them for the finalists and the test, about "
        f"{made.writing:,} to write prompts; about {made.tokens:,} tokens; {money}"
    )


class Pen(Progress):
    """How a run goes: what is spent, and the best prompt so far."""

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if event["event"] == "write":
            self.on_write(event)
        else:
            super().__call__(event)

    def on_write(self, event: Event) -> None:
        """Prompts that were rated."""
        best = f"best on dev {event['key'][0]:.3f} {event['best']!r}"
        text = f"{event['spent']:,}/{event['budget']:,} calls, step {event['step']}: {best}"
        if self.line is not None:
            if not self.line.tasks:
                self.line.add_task("", total=event["budget"], text=text)
            self.line.update(self.line.task_ids[0], completed=event["spent"], text=text)
        elif not self.brief:
            self.print(text)


__all__ = ["write"]
