"""`softprompt doctor`: what is wrong with a recipe, a run or a prompt, and the command that mends it."""

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from softprompt.cli.options import AsJson, Model
from softprompt.cli.output import document, next_steps, note, say, table
from softprompt.cli.train import RECIPES, read_recipe

if TYPE_CHECKING:
    from softprompt.doctor import Finding


def doctor(
    target: Annotated[str, typer.Argument(help="Run folder, recipe (.yaml) or prompt.", metavar="RUN|RECIPE|PROMPT")],
    model: Model = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any key of a recipe, for RECIPE.", metavar="KEY=V")
    ] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Try the remedies and keep what wins on dev.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what is wrong, each with what mends it."""
    from softprompt.doctor import alarming

    began = time.monotonic()
    found, recipe = examined(target, model, settings or [])
    if as_json and not fix:
        facts = [finding.as_dict(recipe) for finding in found]
        document({"target": target, "healthy": not alarming(found), "findings": facts})
    elif not as_json:
        show(found, recipe, time.monotonic() - began)
    if fix:
        mend(target, recipe, found, settings or [], as_json)
    elif not as_json:
        next_steps(*after(target, recipe, found))
    if alarming(found):
        raise typer.Exit(1)


def examined(target: str, model: str | None, settings: list[str]) -> "tuple[list[Finding], str]":
    """The findings of a target, and the recipe that its commands are about."""
    place = Path(target)
    if place.is_dir():
        from softprompt.doctor.after import examine_run, examine_seeds

        if (place / "recipe.yaml").exists():
            return examine_run(place), str(place / "recipe.yaml")
        runs = sorted(path.parent for path in place.glob("*/recipe.yaml"))
        if runs:
            return examine_seeds(runs), str(runs[0] / "recipe.yaml")
    if target.lower().endswith(RECIPES):
        return examine_recipe(target, model, settings), target
    from softprompt.cli.load import load, open_model
    from softprompt.doctor import of_error
    from softprompt.doctor.after import examine_prompt
    from softprompt.errors import ArtifactError

    try:
        artifact = load(target)
    except ArtifactError as error:
        if error.code == "SP-E308":  # there is nothing to look at
            raise
        return [of_error(error)], "RECIPE"
    return examine_prompt(artifact, open_model(artifact, model)), "RECIPE"


def examine_recipe(file: str, model: str | None, settings: list[str]) -> "list[Finding]":
    """What shows before the first step; a recipe that is refused is a finding too."""
    from softprompt.doctor import of_error
    from softprompt.doctor.recipe import examine
    from softprompt.errors import SoftpromptError

    try:
        recipe = read_recipe(file, {"backbone.name": model} if model else {}, settings)
    except SoftpromptError as error:
        return [of_error(error)]
    return examine(recipe)


def show(found: "list[Finding]", recipe: str, seconds: float) -> None:
    """Findings for people."""
    if found:
        rows = [(f.severity, f.rule, f.seen, f.threshold, f.command(recipe)) for f in found]
        table(["", "rule", "seen", "threshold", "command"], rows)
    bad = sum(finding.severity != "info" for finding in found)
    say(f"{bad} found" if bad else "healthy")
    note(f"looked for {seconds:.1f} s")


def after(target: str, recipe: str, found: "list[Finding]") -> list[str]:
    """What to do now."""
    from softprompt.doctor import alarming

    bad = alarming(found)
    if bad:
        return [bad[0].command(recipe)]
    healthy = shlex.join(["softprompt", "train", recipe])
    return [healthy if target == recipe else shlex.join(["softprompt", "show", target])]


def mend(target: str, recipe: str, found: "list[Finding]", settings: list[str], as_json: bool) -> None:
    """Try the remedies of what was found, and write the recipe that won."""
    from softprompt.doctor.fix import fix
    from softprompt.errors import RecipeError
    from softprompt.recipe import load_recipe

    if recipe == "RECIPE":
        raise RecipeError("SP-E252", "--fix for a prompt file", "a run or a recipe", "softprompt doctor RUN --fix")
    start = read_recipe(recipe, {}, settings) if settings else load_recipe(recipe)
    place = Path(target) if Path(target).is_dir() else Path(recipe).with_suffix(".doctor")
    done = fix(start, found, place / "doctor", lambda event: note(event["text"]) if event["event"] == "note" else None)
    if as_json:
        document(done.as_dict() | {"findings": [finding.as_dict(recipe) for finding in found]})
        return
    if done.arms:
        table(["settings", "dev", "against", "p", ""], [arm.row() for arm in done.arms])
    say(f"{done.path}: {' '.join(done.settings)}" if done.settings else "no remedy wins on dev; nothing is changed")
    next_steps(shlex.join(["softprompt", "train", str(done.path)] if done.settings else ["softprompt", "show", target]))
