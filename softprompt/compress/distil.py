"""Shorter prompts trained to answer as the long one does, beside ones that learn alone (`transfer.distill`)."""

from collections.abc import Callable, Sequence
from pathlib import Path

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.prompt import Prompt
from softprompt.recipe import Recipe
from softprompt.run import Listener
from softprompt.transfer.distill import distill
from softprompt.transfer.sources import Source

Lessons = Callable[[int], Sequence[tuple[str, Prompt]]]


def lessons(
    teacher: Artifact,
    recipe: Recipe,
    folder: str | Path,
    *,
    backbone: Backbone,
    listen: Listener = lambda event: None,
) -> Lessons:
    """What makes prompts of a length from `teacher` on the data of a recipe: `distil`, and `alone` beside it.

    Each length has a folder of its own, so that what was stopped goes on. The call raises what `transfer.distill`
    raises: SP-E624 where nothing can be learnt from the teacher.
    """

    def made(length: int) -> list[tuple[str, Prompt]]:
        place = Path(folder) / f"vectors-{length}"
        source = Source(Path(teacher.where).stem, teacher)
        found = distill(recipe, source, place, length=length, backbone=backbone, listen=listen)
        entries = {"distil": found.student, "alone": found.control}
        return [(name, Artifact.load(entry.prompt).bind(backbone)) for name, entry in entries.items()]

    return made
