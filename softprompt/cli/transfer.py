"""`softprompt transfer`: which prompt to start from, whether it helped, and a long prompt into a short one."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from softprompt.cli.onward import finished, given, parents
from softprompt.cli.options import AsJson, Model
from softprompt.cli.output import document, next_steps, say, table
from softprompt.cli.progress import Event, Progress, resumable
from softprompt.cli.store import Folder, opened
from softprompt.cli.sweep import Together
from softprompt.cli.train import read_recipe
from softprompt.errors import RecipeError

if TYPE_CHECKING:
    from softprompt.recipe import Recipe
    from softprompt.run import Listener
    from softprompt.transfer.sources import Source
    from softprompt.transfer.suggest import Suggestion

app = typer.Typer(help="Start a prompt from another one, and see whether that helps.")
Outcome = TypeVar("Outcome")
COMBINE = ("best", "average", "mixture")
ORDERS = ("loss", "similarity")

Settings = Annotated[list[str] | None, typer.Option("--set", help="Any key of a recipe.", metavar="KEY=V")]
RunFolder = Annotated[str | None, typer.Option("--run", help="Folder for what is trained; the same one goes on.")]
Target = Annotated[str, typer.Argument(help="Labelled data of the new task, or a recipe (.yaml).", metavar="DATA")]
Early = Annotated[bool, typer.Option("--early", help="Train the sources' tasks as briefly: similarity as in SPoT.")]
By = Annotated[str, typer.Option(help="What ranks the sources: their loss on dev as they stand, or similarity.")]
Cap = Annotated[int, typer.Option(min=1, help="Most examples of a task in a mixture.")]


class Watch(Together):
    """How several runs go: a short training by itself, then members of a pass."""

    def __call__(self, event: Event) -> None:
        """Show one event; what belongs to no member is a training by itself."""
        if "member" in event or event["event"] == "pass":
            super().__call__(event)
        else:
            Progress.__call__(self, event)

    def moving(self, event: Event) -> str:
        """What a step or a pass did."""
        return super().moving(event) if "prompts" in event else Progress.moving(self, event)


@app.command("suggest")
def suggest(
    data: Target,
    prompts: Annotated[
        list[str] | None,
        typer.Argument(help="Prompt files, runs, or NAME@ALIAS; all of the store if none.", metavar="[PROMPT]..."),
    ] = None,
    store: Folder = None,
    model: Model = None,
    settings: Settings = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of the short training on DATA.  [default: 100]")] = None,
    early: Early = False,
    by: By = "loss",
    run: RunFolder = None,
    as_json: AsJson = False,
) -> None:
    """Rank prompts by what a new task would gain from each."""
    one_of("--by", by, ORDERS)
    sources = gathered(prompts or [], store)
    recipe = aimed(data, model, settings, sources)
    folder = chosen(run, data, "suggest")

    def start(listen: "Listener") -> "Suggestion":
        from softprompt.transfer.suggest import suggest as begin

        return begin(recipe, sources, folder, steps=steps, early=early, by=by, listen=listen)  # type: ignore[arg-type]

    made = follow(start, folder, as_json)
    if as_json:
        document(made.as_dict() | {"data": data, "run": str(folder)})
        return
    show_ranks(made)
    best = made.best or (None if made.references else made.ranks[0])
    if best is None:
        next_steps(shlex.join(["softprompt", "train", data, *given(recipe.backbone.name, settings)]))
        return
    known = best.source.name if best.source.name in (prompts or []) or not prompts else best.source.artifact.where
    same = given(model, settings, store)
    next_steps(shlex.join(["softprompt", "transfer", "run", data, "--from", known, *same]))


def show_ranks(made: "Suggestion") -> None:
    """The sources, the best first, and what to make of them."""
    names = list(made.references)
    header = ["source", "cosine of means", "cosine of pairs", "steps", f"dev loss (n={made.examples})"]
    rows = []
    for rank in made.ranks:
        steps = "?" if rank.source.steps is None else f"{rank.source.steps:,}"
        near = [f"{rank.similar.averaged:+.3f}", f"{rank.similar.per_token:+.3f}"]
        gains = [f"{rank.gains[name].difference:+.3f} ±{rank.gains[name].error:.3f}" for name in names]
        loss = "-" if rank.loss is None else f"{rank.loss:.3f}"
        rows.append([rank.source.name, *near, steps, loss, *gains, "helps" if rank.helps else ""])
    table([*header, *(f"less than {name} ({made.references[name]:.3f})" for name in names), ""], rows)
    left_out(made.refused)
    for text in made.notes:
        say(text)
    say(made.sentence)


def one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    """Raise `RecipeError` SP-E252 for a word that an option does not know."""
    if value not in known:
        raise RecipeError("SP-E252", f"{option} {value}", f"one of {', '.join(known)}", "choose one")


def left_out(refused: dict[str, str]) -> None:
    """Sources that the target cannot start from, and why."""
    for name, why in refused.items():
        say(f"left out: {name}: {why}")


@app.command("run")
def run_(
    target: Target,
    sources: Annotated[
        list[str] | None, typer.Option("--from", help="Prompt file, run or NAME@ALIAS; repeatable.", metavar="PROMPT")
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Rank the prompts first, and take so many.")] = None,
    early: Early = False,
    by: By = "loss",
    combine: Annotated[
        str, typer.Option(help="best: each alone, dev chooses; average: of vectors; mixture: of tasks.")
    ] = "best",
    cap: Cap = 2**19,
    store: Folder = None,
    model: Model = None,
    settings: Settings = None,
    run: RunFolder = None,
    as_json: AsJson = False,
) -> None:
    """Train from prompts and from scratch, and test the difference."""
    one_of("--combine", combine, COMBINE)
    one_of("--by", by, ORDERS)
    known = gathered(sources or [], store)
    recipe = aimed(target, model, settings, known)
    folder = chosen(run, target, "transfer")

    def start(listen: "Listener") -> Any:
        from softprompt.transfer.run import transfer

        how: dict[str, Any] = {"top_k": top_k, "early": early, "by": by, "combine": combine, "cap": cap}
        return transfer(recipe, known, folder, **how, listen=listen)

    made = follow(start, folder, as_json)
    if as_json:
        document(made.as_dict())
        return
    if made.suggestion:
        show_ranks(made.suggestion)
    best = made.chosen.name
    rows = [[one.name, *tested(one), "best on dev" if one.name == best else ""] for one in made.members]
    table(["prompt", "dev", "test", ""], [*rows, [made.scratch.name, *tested(made.scratch), "the control"]])
    before = ", ".join(f"{name} {steps if steps else 'an unknown number'}" for name, steps in made.steps.items())
    left_out(made.refused)
    say(f"steps that sources had before, which scratch had not: {before}")
    for text in made.notes:
        say(text)
    say(made.sentence)
    own = [name for name in made.steps if best == f"from-{name}"] or list(made.steps)  # several make an average
    finished(made.kept.prompt, parents(own, store) if made.kept is not made.scratch else [], store)


def gathered(given: list[str], store: str | None) -> "list[Source]":
    """Prompts by path or reference, as sources; where none is given, all newest versions of the store, each once."""
    from softprompt.store import is_reference
    from softprompt.sweep.grid import free
    from softprompt.transfer.sources import Source, named

    place = opened(store)
    found: dict[str, Source] = {}
    newest = {} if given else {entry.sha256: entry.reference for entry in reversed(place.list())}
    for text in given or [*newest.values()][::-1]:
        stored = not given or (is_reference(text) and not Path(text).exists())
        made = Source(text.removeprefix("store:"), place.load(text)) if stored else named([text])[0]
        name = free(made.name, found)
        found[name] = Source(name, made.artifact)
    return list(found.values())


def aimed(data: str, model: str | None, settings: list[str] | None, sources: "list[Source]") -> "Recipe":
    """The recipe of the target; its backbone is that of the first source, where neither recipe nor `--model` says."""
    from softprompt.cli.load import named, ran

    recipe = read_recipe(data, {"backbone.name": model} if model else {}, settings or [])
    if "backbone" in recipe.model_fields_set or not sources:
        return recipe
    first = sources[0].artifact
    section = ran(first) or recipe.backbone.model_copy(update={"name": named(first)})
    return recipe.model_copy(update={"backbone": section})


def several(data: list[str], model: str | None, settings: list[str] | None) -> "dict[str, Recipe]":
    """The recipes of several tasks, by names of their own; raises `RecipeError` SP-E852 for one that is named twice."""
    from softprompt.sweep.grid import free

    recipes: dict[str, Recipe] = {}
    places = [Path(path).resolve() for path in data]
    twice = next((path for path, place in zip(data, places, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise RecipeError("SP-E852", f"{twice} twice", "different tasks", "leave one out")
    stems = [place.stem for place in places]
    for path, place in zip(data, places, strict=True):
        name = place.stem if stems.count(place.stem) == 1 else place.parent.name  # of a/train.csv and b/train.csv
        recipes[free(name or "data", recipes)] = aimed(path, model, settings, [])
    return recipes


def chosen(run: str | None, data: str, kind: str) -> Path:
    """The folder given, or `runs/DATA-KIND-N` with the first N that is free."""
    if run:
        return Path(run)
    stem, count = Path(data).stem or "run", 1
    while (path := Path("runs") / f"{stem}-{kind}-{count}").exists():
        count += 1
    return path


def follow(start: "Callable[[Listener], Outcome]", folder: Path, as_json: bool) -> Outcome:
    """Run to the end; one that is told to stop says how to go on."""
    with Watch(brief=True) as progress:
        saved = f"the states are saved, and the same command with --run {folder} goes on"
        with resumable(folder, saved, as_json=as_json, progress=progress):
            return start(progress)


def tested(entry: Any) -> list[str]:
    """Scores of a member on dev and test."""
    from softprompt.cli.sweep import cells

    return cells(entry)[:2]
