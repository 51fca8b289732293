"""`softprompt train` and `softprompt resume`."""

import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.cli import summary
from softprompt.cli.options import AsJson, Model
from softprompt.cli.output import document, duration, next_steps, say, size
from softprompt.cli.progress import Progress, resumable
from softprompt.errors import DataError, RecipeError

if TYPE_CHECKING:
    from softprompt.recipe import Recipe
    from softprompt.run import Listener
    from softprompt.training import Result

RECIPES = (".yaml", ".yml")


def train(
    data: Annotated[str, typer.Argument(help="Labelled data, or a recipe (.yaml).", metavar="DATA|RECIPE.yaml")],
    model: Model = None,
    method: Annotated[str | None, typer.Option(help="See `softprompt methods`.", show_default=False)] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any key of a recipe, as in --set optim.lr=0.1.", metavar="KEY=V")
    ] = None,
    run: Annotated[str | None, typer.Option(help="Folder of the run.  [default: runs/DATA-METHOD-N]")] = None,
    dev: Annotated[str | None, typer.Option(help="Data to choose the best state by.")] = None,
    test: Annotated[str | None, typer.Option(help="Data to report numbers on.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the run.")] = None,
    few_shot: Annotated[
        int | None, typer.Option(min=1, help="Examples a class for train, and as many others for dev.", metavar="K")
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, max=5, help="Fixed samples of --few-shot: mean and spread over them.")
    ] = 1,
    compare: Annotated[
        str | None, typer.Option(help="Train these too, on the same plan: full, lora, head.", metavar="KIND,...")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what the run will cost, and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a prompt and compare it with what it has to beat."""
    flags = {
        "backbone.name": model,
        "method.name": method,
        "data.dev": dev,
        "data.test": test,
        "train.epochs": epochs,
        "train.seed": seed,
        "data.few_shot": few_shot,
        "train.compare": compare and [kind.strip() for kind in compare.split(",")],
    }
    recipe = read_recipe(data, {key: value for key, value in flags.items() if value is not None}, settings or [])
    if dry_run:
        price(recipe, as_json)
        return
    folder = Path(run) if run else new_folder(recipe)
    if seeds > 1:
        from softprompt.cli.fewshot import several  # which reads recipes as this command does

        if seed is not None:
            raise RecipeError("SP-E754", "--seed beside --seeds", "fixed samples, or one seed", "leave one of them out")
        several(recipe, seeds, folder, as_json)
        return

    def start(listen: "Listener") -> "Result":
        from softprompt.training import train as begin

        return begin(recipe, folder, listen=listen)

    follow(start, folder, as_json)


def resume(
    run: Annotated[str, typer.Argument(help="Folder of a run that stopped.", metavar="RUN")], as_json: AsJson = False
) -> None:
    """Go on with a run or a sweep that stopped, to the same bits."""
    if (Path(run) / "search.json").exists():
        from softprompt.cli.search import go_on as go_on_searching

        go_on_searching(Path(run), as_json)
        return
    if (Path(run) / "write.json").exists():
        from softprompt.cli.write import go_on as go_on_writing

        go_on_writing(Path(run), as_json)
        return
    if (Path(run) / "sweep.json").exists():
        from softprompt.cli.sweep import go_on as go_on_with_all

        go_on_with_all(Path(run), as_json)
        return

    def start(listen: "Listener") -> "Result":
        from softprompt.training import resume as go_on

        return go_on(run, listen=listen)

    follow(start, Path(run), as_json)


def price(recipe: "Recipe", as_json: bool) -> None:
    """What a run will cost, on standard output; nothing is trained and nothing is written."""
    from softprompt.cost import rehearse

    with Progress("nothing is trained or written (--dry-run)", brief=as_json) as progress:
        rehearse(recipe, progress)
    if as_json:
        document({"cost": progress.cost, "recipe": progress.plan.recipe.model_dump(mode="json")})


def read_recipe(data: str, flags: dict[str, Any], settings: list[str]) -> "Recipe":
    """The recipe of a command line: a file's or none, then flags, then `--set`. Raises `RecipeError`."""
    from softprompt.recipe import load_recipe, make_recipe, override

    if data.lower().endswith(RECIPES):
        values = load_recipe(data).model_dump(mode="json", exclude_unset=True)
    else:
        values = {"data": {"train": data}}
    for key, value in flags.items():
        section, _, name = key.partition(".")
        values[section] = values.get(section, {}) | {name: value}
    recipe = make_recipe(override(values, [whole(setting) for setting in settings]), where="recipe")
    for path in (recipe.data.train, recipe.data.dev, recipe.data.test):
        refuse_absent(path)
    return recipe


def whole(setting: str) -> str:
    """A `--set` as it is; raises `RecipeError` for one that lacks its section, such as `lr=0.1`."""
    from softprompt.recipe import meant

    key = setting.partition("=")[0].strip()
    if "." in key:
        return setting
    hint, do = meant(key), "write it as --set optim.lr=0.1"
    raise RecipeError("SP-E205", f"--set {setting!r}{hint}", "section.key=value", do)


def refuse_absent(path: str | None) -> None:
    """Raise `DataError` for a file that is not there, before seconds go into loading a model."""
    if path and path != "-" and not path.startswith("hub:") and not Path(path).exists():
        raise DataError("SP-E101", "no such file or directory", "a file that can be read", "check the path", where=path)


def new_folder(recipe: "Recipe") -> Path:
    """`runs/DATA-METHOD-N` with the first N that is free."""
    stem = Path(recipe.data.train.partition("@")[0].replace(":", "/")).stem or "run"
    number = 1
    while (path := Path("runs") / f"{stem}-{recipe.method.name}-{number}").exists():
        number += 1
    return path


def follow(start: "Callable[[Listener], Result]", folder: Path, as_json: bool) -> None:
    """Run to the end and print what came of it; a run that is told to stop says how to go on."""
    from softprompt.recipe import ADAPTER

    began = time.monotonic()
    with Progress(f"run: {folder}") as progress:
        again = shlex.join(["softprompt", "resume", str(folder)])
        with resumable(folder, "the state is saved", again, as_json=as_json, progress=progress):
            result = start(progress)
    report, seconds = result.report.as_dict(), time.monotonic() - began
    recipe = progress.plan.recipe
    path, count = str(result.artifact), result.artifact.stat().st_size
    if as_json:
        facts = {"run": str(folder), "prompt": path, "bytes": count, "seconds": round(seconds, 1)}
        facts["cost"] = progress.cost
        facts |= {"adapter": str(folder / ADAPTER)} if recipe.lora.rank else {}
        document(report | facts | {"recipe": recipe.model_dump(mode="json")})
        return
    summary.scores(report, f"test, {len(progress.plan.test)} examples")
    say(f"trained {report['parameters']:,} numbers in {duration(seconds)}; {path}, {size(count)}")
    if recipe.lora.rank:
        say(f"{folder / ADAPTER}: the LoRA, as an adapter of PEFT; the prompt is bound to it, so keep both")
    for name, made in report.get("comparators", {}).items():
        took = duration(report["seconds_of_comparators"][name])
        say(f"{name}: {made['parameters']:,} numbers in {took}, rate {made['lr']:g} chosen on dev")
    prompt, model = shlex.quote(path), shlex.quote(recipe.backbone.name)
    next_steps(
        f"softprompt predict {prompt} FILE --model {model}",
        f"softprompt evaluate {prompt} DATA --model {model}",
        f"softprompt show {prompt}",
        f"softprompt store publish {shlex.quote(str(folder))} NAME",
    )
