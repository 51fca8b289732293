"""Task embeddings as SPoT has them: every source's task, trained for as many steps as the target, from the same start.

Vu et al. 2022, arXiv:2110.07904, section 4.1, keep a state of every source at one early step. A prompt that comes from
elsewhere has no such state, but the folder of its run knows its task: that is trained anew, for as short a while.
"""

from collections.abc import Sequence
from pathlib import Path

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.errors import DataError, RecipeError
from softprompt.plan import Plan
from softprompt.recipe import Recipe, load_recipe
from softprompt.run import Listener
from softprompt.stages import stage
from softprompt.transfer.sources import Source


def briefly(recipe: Recipe, steps: int) -> Recipe:
    """The recipe for a short training that keeps its last state: the best on dev is a worse embedding (section 4.2)."""
    update = {"steps": steps, "evaluate_every": steps, "patience": None, "compare": ()}
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=update)})


def embedded(
    plan: Plan, sources: Sequence[Source], steps: int, folder: Path, backbone: Backbone, listen: Listener
) -> tuple[dict[str, Artifact], dict[str, str]]:
    """The early states of the sources' tasks by name, and why others have none; each is trained in `folder/NAME`.

    Method, start, rates and seed are those of the target's plan; data, template and words those of the source. No test
    example is looked at.
    """
    made: dict[str, Artifact] = {}
    refused: dict[str, str] = {}
    for source in sources:
        known = source.path.parent / "recipe.yaml"
        if not known.is_file():
            refused[source.name] = "only its file is here"
            continue
        try:
            recipe = alike(load_recipe(known), plan.recipe)
            left = stage(briefly(recipe, steps), folder / source.name, backbone=backbone, listen=listen)
        except (DataError, RecipeError) as error:
            refused[source.name] = str(error)
        else:
            made[source.name] = Artifact.load(left.artifact)
    return made, refused


def alike(recipe: Recipe, target: Recipe) -> Recipe:
    """The recipe of a source's task with everything of the target's but the task."""
    return target.model_copy(update={"data": recipe.data, "task": recipe.task})


__all__ = ["briefly", "embedded"]
