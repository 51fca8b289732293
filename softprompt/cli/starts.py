"""`softprompt transfer meta`, `ppt`, `multitask` and `transprompt`: prompts that are made to start others from."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.cli.onward import given
from softprompt.cli.options import AsJson, Model
from softprompt.cli.output import document, next_steps, say, table
from softprompt.cli.store import Folder
from softprompt.cli.transfer import (
    RunFolder,
    Settings,
    Target,
    aimed,
    chosen,
    follow,
    gathered,
    one_of,
    several,
    tested,
)

if TYPE_CHECKING:
    from softprompt.run import Listener
    from softprompt.transfer.paired import Compared

Tasks = Annotated[list[str], typer.Argument(help="Data or recipes of source tasks.", metavar="DATA...")]
RULES = ("reptile", "fomaml")


def meta(
    data: Tasks,
    rule: Annotated[str, typer.Option(help="reptile, or fomaml: first-order MAML.")] = "reptile",
    rounds: Annotated[int, typer.Option(min=1, help="How often the start is moved.")] = 100,
    steps: Annotated[int, typer.Option(min=1, help="Of a task, in a round.")] = 5,
    tasks: Annotated[int, typer.Option(min=1, help="Drawn anew for every round.")] = 4,
    rate: Annotated[float, typer.Option(min=0, help="Of Reptile: e; of MAML: times optim.lr.")] = 1.0,
    model: Model = None,
    settings: Settings = None,
    run: RunFolder = None,
    as_json: AsJson = False,
) -> None:
    """Learn a start from which tasks are learned in few steps."""
    one_of("--rule", rule, RULES)
    recipes = several(data, model, settings)
    folder = chosen(run, data[0], "meta")

    def start(listen: "Listener") -> Any:
        from softprompt.transfer.metainit import meta as begin

        course = {"rounds": rounds, "steps": steps, "tasks": tasks, "rate": rate}
        return begin(recipes, folder, rule=rule, **course, listen=listen)  # type: ignore[arg-type]

    made = follow(start, folder, as_json)
    if as_json:
        document(made.as_dict() | {"run": str(folder)})
        return
    rows = [[name, f"{first:.3f}", f"{learned:.3f}"] for name, (learned, first) in made.losses.items()]
    table(["task", f"dev loss after {made.steps} steps from the usual start", "from the learned one"], rows)
    say(f"less in {made.better} of {len(made.losses)}, which are the tasks that it was learned on; a new one will tell")
    begun(made.path, *given(model))


def ppt(
    texts: Annotated[list[str], typer.Argument(help="Plain text, documents parted by empty lines.", metavar="TEXT...")],
    formats: Annotated[str, typer.Option(help="Of the exercises: pair, choice, single.")] = "pair,choice",
    count: Annotated[int, typer.Option(min=1, help="Most exercises of a format.")] = 2000,
    options: Annotated[int, typer.Option(min=2, help="Sentences of a choice.")] = 4,
    labeller: Annotated[str | None, typer.Option(help="For single: a prompt for classes.", metavar="PROMPT")] = None,
    sure: Annotated[float, typer.Option(min=0, max=1, help="Least chance of a label that is used.")] = 0.8,
    store: Folder = None,
    model: Model = None,
    settings: Settings = None,
    run: RunFolder = None,
    as_json: AsJson = False,
) -> None:
    """Train a prompt on exercises made of raw text, to start others from."""
    told = gathered([labeller], store)[0] if labeller else None
    recipe = aimed(texts[0], model, settings, [told] if told else [])
    folder = chosen(run, texts[0], "ppt")

    def start(listen: "Listener") -> Any:
        from softprompt.transfer.ppt import pretrain_on_text as begin

        kinds: Any = [part.strip() for part in formats.split(",") if part.strip()]
        given: dict[str, Any] = {"count": count, "options": options, "labeller": told, "sure": sure}
        return begin(recipe, texts, folder, formats=kinds, **given, listen=listen)

    made = follow(start, folder, as_json)
    if as_json:
        document(made.as_dict())
        return
    say(", ".join(f"{size} {name}" for name, size in made.counts.items()) + " exercises")
    gain = f"{made.gain.difference:+.3f} ±{made.gain.error:.3f}"
    say(f"dev loss {made.loss:.3f} per token, untrained {made.untrained:.3f}: less by {gain}")
    begun(made.left.artifact, *given(model))


def multitask(
    data: Tasks,
    steps: Annotated[int | None, typer.Option(min=1, help="Of the shared prompt.  [default: a teacher's]")] = None,
    weight: Annotated[float, typer.Option(min=0, help="Of what the teachers say.")] = 0.9,
    hidden: Annotated[bool, typer.Option(help="Learn from the teachers' hidden states too.")] = True,
    model: Model = None,
    settings: Settings = None,
    run: RunFolder = None,
    as_json: AsJson = False,
) -> None:
    """Train one prompt for many tasks with a teacher each, for mpt to start from."""
    recipes = several(data, model, settings)
    folder = chosen(run, data[0], "multitask")

    def start(listen: "Listener") -> Any:
        from softprompt.transfer.multitask import source_train as begin

        return begin(recipes, folder, steps=steps, weight=weight, hidden=hidden, listen=listen)

    made = follow(start, folder, as_json)
    if as_json:
        document(made.as_dict() | {"run": str(folder)})
        return
    rows = [[name, *(f"{loss:.3f}" for loss in losses.values())] for name, losses in made.losses.items()]
    table(["dev loss of", "its teacher", "its own factors", "the mean factors"], rows)
    length = str(next(iter(recipes.values())).method.length)
    begun(made.path, *given(model, ["method.name=mpt", f"method.length={length}"]))


def transprompt(
    data: Tasks,
    others: Annotated[
        list[str] | None, typer.Option("--unseen", help="Data of a task that takes no part.", metavar="DATA")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of the meta-learner.  [default: a task's own]")] = None,
    entropy: Annotated[float, typer.Option(min=0, help="Weight of the entropy of answers.")] = 0.01,
    share: Annotated[float, typer.Option(min=0, max=1, help="Of a task's own prototypes.")] = 0.5,
    model: Model = None,
    settings: Settings = None,
    run: RunFolder = None,
    as_json: AsJson = False,
) -> None:
    """Learn similar tasks together, then adapt to each, and to tasks that took no part."""
    whole = several([*data, *(others or [])], model, settings)
    names = list(whole)[: len(data)]
    recipes = {name: recipe for name, recipe in whole.items() if name in names}
    apart = {name: recipe for name, recipe in whole.items() if name not in names}
    folder = chosen(run, data[0], "transprompt")

    def start(listen: "Listener") -> Any:
        from softprompt.transfer.universal import learn_transferable as begin

        return begin(recipes, folder, others=apart, steps=steps, entropy=entropy, share=share, listen=listen)

    made = follow(start, folder, as_json)
    if as_json:
        document(made.as_dict() | {"run": str(folder)})
        return
    rows = [[name, tested(one.scratch)[1], tested(one.adapted)[1], gap(one.test)] for name, one in made.adapted.items()]
    table(["task", "anew, on test", "adapted", "paired test"], rows)
    for name, found in made.zero.items():
        best = min(found.beside, key=lambda control: found.beside[control])
        say(
            f"{name}, which took no part: dev loss {found.loss:.3f}, {best} {found.beside[best]:.3f}; "
            f"{'helps' if found.helps else 'does not help'}"
        )
    begun(made.path, *given(model))


def ctpt(
    target: Target,
    sources: Annotated[
        list[str], typer.Option("--from", help="Prompt file, run or NAME@ALIAS; repeatable.", metavar="PROMPT")
    ],
    generations: Annotated[int, typer.Option(min=1, help="Of the search.")] = 100,
    population: Annotated[int, typer.Option(min=2, help="Prompts of a generation, asked in one pass.")] = 20,
    spread: Annotated[float, typer.Option(min=0, help="First step size.")] = 0.3,
    store: Folder = None,
    model: Model = None,
    settings: Settings = None,
    run: RunFolder = None,
    as_json: AsJson = False,
) -> None:
    """Search a prompt that attends to others, without gradients."""
    known = gathered(sources, store)
    recipe = aimed(target, model, settings, known)
    folder = chosen(run, target, "ctpt")

    def start(listen: "Listener") -> Any:
        from softprompt.transfer.blackbox import evolve as begin

        course = {"generations": generations, "population": population, "spread": spread}
        return begin(recipe, known, folder, **course, listen=listen)  # type: ignore[arg-type]

    made = follow(start, folder, as_json)
    if as_json:
        document(made.as_dict() | {"run": str(folder)})
        return
    found = made.measured
    rows = [
        [name, f"{found.beside[name]:.3f}", f"{g.difference:+.3f} ±{g.error:.3f}"] for name, g in found.gains.items()
    ]
    table(["on dev", "loss", "found prompt loses less by"], [["found prompt", f"{found.loss:.3f}", ""], *rows])
    for name in ("prompt", "majority"):
        if name in found.scores:
            say(f"{'found prompt' if name == 'prompt' else name}: {found.scores[name]} on dev")
    say(f"{made.asked:,} rows went through the backbone, forwards only; dev chose the state, so its loss is flattered")
    say(made.sentence)
    named = given(model)
    evaluate = shlex.join(["softprompt", "evaluate", str(made.path), "TEST", *named])
    next_steps(evaluate, begun_line(made.path, *named))


def gap(test: "Compared") -> str:
    """A paired test in a cell."""
    return f"{test.verdict}: {test.difference:+.3f} ±{test.error:.3f} (p = {test.p:.2g})"


def begun(prompt: Path, *settings: str) -> None:
    """How to use a prompt as a start, with the control that says whether it helped."""
    next_steps(begun_line(prompt, *settings))


def begun_line(prompt: Path, *settings: str) -> str:
    """The command that starts from a prompt, beside a control."""
    return shlex.join(["softprompt", "transfer", "run", "TARGET", "--from", str(prompt), *settings])
