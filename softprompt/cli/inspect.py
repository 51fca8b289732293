"""`softprompt show`, `methods` and `recipe`: what there is to know without training anything."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.cli import summary
from softprompt.cli.options import AsJson, Model, PromptFile
from softprompt.cli.output import document, next_steps, note, say, size

if TYPE_CHECKING:
    from softprompt.artifact import Card

recipes = typer.Typer(help="Check and print recipes.")
RecipeFile = Annotated[str, typer.Argument(help="A recipe (.yaml).", metavar="RECIPE.yaml")]


def show(prompt: PromptFile, as_json: AsJson = False) -> None:
    """Print the card of a prompt; no model is loaded."""
    import hashlib

    from softprompt.cli.load import load

    artifact = load(prompt)
    data = Path(artifact.where).read_bytes()
    numbers = sum(tensor.numel() for tensor in artifact.tensors.values())
    facts = {"prompt": prompt, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "numbers": numbers}
    if as_json:
        document(facts | {"card": artifact.card.model_dump(mode="json")})
        return
    say(f"prompt    {prompt}: {size(len(data))}, {numbers:,} numbers")
    say(f"sha256    {facts['sha256']}")
    show_card(artifact.card)
    next_steps(f"softprompt predict {shlex.quote(prompt)} FILE --model M")


def show_card(card: "Card") -> None:
    """What a card says, for people."""
    import yaml

    method, backbone, task = card.method, card.backbone, card.task
    options = ", ".join(f"{name}={value}" for name, value in method.options.items() if value)
    trained = f" (trained as {method.trained_as})" if method.trained_as not in ("", method.name) else ""
    labels = f" of {len(task.labels)}: {', '.join(task.labels)}" if task.labels else ""
    say(f"task      {task.kind}{labels}")
    say(f"method    {method.name}{trained}, length {method.length}{', ' + options if options else ''}")
    say(f"head      {card.head.name}")
    say(f"template  {card.template.text!r}")
    say(f"backbone  {backbone.name}: {backbone.family}, {backbone.layers} layers, {backbone.hidden} wide")
    say(f"weights   {backbone.fingerprint}, {backbone.dtype}")
    say(f"made by   {', '.join(f'{name} {version}' for name, version in card.versions.items())}")
    if card.parents:
        say(f"parents   {', '.join(card.parents)}")
    if card.report.get("scores"):
        say()
        summary.scores(card.report, "test")
    if card.recipe:
        say(f"\nrecipe:\n{yaml.safe_dump(card.recipe, sort_keys=False, allow_unicode=True)}".rstrip())


def methods(
    model: Model = None,
    length: Annotated[int, typer.Option(min=1, help="Prompt vectors that numbers are counted for.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the methods; with --model, what works there."""
    from softprompt.cli.survey import survey

    found = survey(model, length)
    if as_json:
        document({"methods": found})
        return
    for one in found:
        show_method(one, length)
    next_steps("softprompt train DATA --model M --method NAME --set method.options.OPTION=VALUE")


def show_method(facts: dict[str, Any], length: int) -> None:
    """One method, for people."""
    say(facts["id"], style="bold")
    say(f"  {facts['summary']}")
    say(f"  {facts['paper']}")
    options = ", ".join(f"{name}={value!r}" for name, value in facts["options"].items())
    say(f"  options: {options or 'none'}")
    say(f"  enters by {', '.join(facts['enters'])}; for models of kind {', '.join(facts['kinds'])}")
    if "supported" in facts:
        count = f"{facts['parameters']:,} numbers at length {length}" if facts["supported"] else facts["reason"]
        say(f"  here: {'works' if facts['supported'] else 'does not work'}; {count}")


@recipes.command("check")
def check_recipe(file: RecipeFile, as_json: AsJson = False) -> None:
    """Say whether keys, values and method options are sound."""
    from softprompt.methods import check_options, find
    from softprompt.recipe import load_recipe

    recipe = load_recipe(file)
    check_options(find(recipe.method.name), recipe.method.options)
    if as_json:
        document({"recipe": file, "ok": True})
        return
    say(f"{file}: sound")
    next_steps(shlex.join(["softprompt", "train", file]))


@recipes.command("show")
def show_recipe(file: RecipeFile, as_json: AsJson = False) -> None:
    """Print a recipe with every default filled in."""
    from softprompt.recipe import load_recipe

    recipe = load_recipe(file)
    if as_json:
        document(recipe.complete())
        return
    say(recipe.to_yaml(full=True).rstrip())
    next_steps(shlex.join(["softprompt", "train", file]))


@recipes.command("schema")
def schema(as_json: AsJson = False) -> None:
    """Print the JSON schema of recipes, with and without --json."""
    from softprompt.recipe import Recipe

    document(Recipe.model_json_schema())
    if not as_json:
        note("next: put `# yaml-language-server: $schema=FILE` on top of a recipe to have keys completed")
