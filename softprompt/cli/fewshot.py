"""`softprompt fewshot`: an ensemble of patterns distilled into one prompt, and votes over sets of demonstrations."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.cli.onward import finished
from softprompt.cli.options import AsJson, Model
from softprompt.cli.output import document, next_steps, say, table
from softprompt.cli.summary import number
from softprompt.cli.train import read_recipe
from softprompt.cli.transfer import RunFolder, Settings, chosen, follow, tested

if TYPE_CHECKING:
    from softprompt.fewshot.pet import Distilled
    from softprompt.fewshot.protocol import Repeated
    from softprompt.recipe import Recipe
    from softprompt.run import Listener

app = typer.Typer(help="Prompts from a handful of examples.")


@app.command("pet")
def pet(
    data: Annotated[str, typer.Argument(help="Labelled data, or a recipe (.yaml).", metavar="DATA|RECIPE.yaml")],
    patterns: Annotated[
        list[str], typer.Option(help="A template with {mask}, or a YAML file of several; repeatable.", metavar="P")
    ],
    unlabelled: Annotated[str, typer.Option(help="Texts of the task; labels are not looked at.", metavar="FILE")],
    few_shot: Annotated[
        int | None, typer.Option("--few-shot", min=1, help="Examples a class for train, and as many for dev.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of the distilled prompt.  [default: the recipe's]")] = None,
    model: Model = None,
    settings: Settings = None,
    run: RunFolder = None,
    as_json: AsJson = False,
) -> None:
    """Train a prompt a pattern, label texts with all, and distil one prompt (PET)."""
    from softprompt.fewshot.patterns import patterns_of

    flags = {"backbone.name": model, "data.few_shot": few_shot}
    recipe = read_recipe(data, {key: value for key, value in flags.items() if value is not None}, settings or [])
    asked, folder = patterns_of(patterns), chosen(run, data, "pet")

    def start(listen: "Listener") -> "Distilled":
        from softprompt.fewshot.pet import pet as begin

        return begin(recipe, folder, patterns=asked, unlabelled=unlabelled, steps=steps, listen=listen)

    made = follow(start, folder, as_json)
    if as_json:
        document(made.as_dict())
        return
    weights = zip(made.members, made.weights, strict=True)
    rows = [[entry.name, *tested(entry), f"{weight:.2f}"] for entry, weight in weights]
    rows += [["their vote", "", number(made.ensemble.as_dict()), ""], [made.student.name, *tested(made.student), ""]]
    table(["prompt", "dev", "test", "counts"], rows)
    left = f"; {made.left_out} were dev or test examples and left out" if made.left_out else ""
    say(f"{made.texts} texts labelled, on {made.agreement:.0%} of them all patterns agree{left}")
    say(made.sentence)
    finished(made.student.prompt, [], None)


@app.command("vote")
def vote(
    run: Annotated[str, typer.Argument(help="Folder of a run with task.demonstrations=true.", metavar="RUN")],
    sets: Annotated[int, typer.Option(min=2, help="Sets of demonstrations, the prompt's own among them.")] = 4,
    as_json: AsJson = False,
) -> None:
    """Score a prompt behind several sets of demonstrations, which answer together."""
    from softprompt.artifact import Artifact
    from softprompt.evaluate import score
    from softprompt.fewshot.demonstrations import over_sets
    from softprompt.training import reopen

    plan, backbone = reopen(run)
    prompt = Artifact.load(Path(run) / "prompt.safetensors").bind(backbone)
    alone, joint = over_sets(prompt, plan, sets).answer(plan.test)
    metric = plan.recipe.task.metric
    found = [score(plan.kind, metric, [a.answer for a in own], plan.test).as_dict() for own in [joint, *alone]]
    if as_json:
        document({"run": run, "metric": metric, "vote": found[0], "sets": found[1:]})
        return
    names = [f"{sets} sets, by mean probability", "its own set", *(f"set {i + 2}" for i in range(sets - 1))]
    table(
        [f"test, {len(plan.test)} examples", metric],
        [[name, number(one)] for name, one in zip(names, found, strict=True)],
    )
    next_steps(shlex.join(["softprompt", "evaluate", str(Path(run) / "prompt.safetensors"), "DATA"]))


def several(recipe: "Recipe", count: int, folder: Path, as_json: bool) -> None:
    """`softprompt train --few-shot K --seeds N`: the run on the first N fixed samples."""
    from softprompt.fewshot.sample import SEEDS

    def start(listen: "Listener") -> "Repeated":
        from softprompt.fewshot.protocol import repeat

        return repeat(recipe, folder, seeds=SEEDS[:count], listen=listen)

    made = follow(start, folder, as_json)
    if as_json:
        document(made.as_dict() | {"run": str(folder)})
        return
    rows: list[list[object]] = [[entry.name, *tested(entry)] for entry in made.entries]
    table(["sample", "dev", "test"], rows)
    for entry in made.swept.entries:
        if entry.error:
            say(f"{entry.name} could not be trained, and is not in the mean: {entry.error['message']}")
    spread: dict[str, Any] = made.spread
    beside = [[name, number(score.as_dict())] for name, score in made.baselines.items()]
    table([f"mean of {len(rows)} samples", made.score.name], [["this prompt", number(made.score.as_dict())], *beside])
    low, high = spread["lowest"], spread["highest"]
    say(f"standard deviation {spread['deviation']:.3f}, from {low:.3f} to {high:.3f}; {folder}")
    next_steps(shlex.join(["softprompt", "show", str(made.entries[0].prompt)]))


__all__ = ["app", "several"]
