"""Remedies put to the test: each is trained for a tenth of the run and stays only if it wins on dev.

The test is paired, over the same dev examples (`metrics.paired`: McNemar's exact test for right and wrong). Test
examples are never looked at.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.core import Example
from softprompt.doctor.findings import Finding
from softprompt.doctor.recipe import examine
from softprompt.errors import SoftpromptError, TrainingError
from softprompt.evaluate import mean_loss
from softprompt.files import write_atomically
from softprompt.metrics import paired
from softprompt.plan import make_plan
from softprompt.prompt import Prompt
from softprompt.recipe import Recipe, make_recipe, override
from softprompt.stages import stage
from softprompt.training import open_backbone, set_threads

BUDGET = 0.1  # of the steps of the run, for each arm
CERTAIN = 0.1  # p below which a remedy is kept
Listener = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Arm:
    """A remedy that was tried."""

    settings: tuple[str, ...]
    dev: float  # mean over the dev examples: share right, or minus the error or the loss
    against: float  # of what it was tried against
    p: float
    kept: bool
    refused: str = ""  # why it could not be tried

    def row(self) -> list[object]:
        """The arm in a table."""
        if self.refused:
            return [" ".join(self.settings), "-", "-", "-", self.refused]
        verdict = "kept" if self.kept else ""
        return [" ".join(self.settings), f"{self.dev:.3f}", f"{self.against:.3f}", f"{self.p:.3g}", verdict]


@dataclass(frozen=True)
class Fixed:
    """What came of it: the settings that won, and the recipe with them."""

    path: Path
    settings: tuple[str, ...]
    arms: list[Arm]

    def as_dict(self) -> dict[str, Any]:
        """The outcome as plain values."""
        arms = [vars(arm) | {"settings": list(arm.settings)} for arm in self.arms]
        return {"recipe": str(self.path) if self.settings else None, "settings": list(self.settings), "arms": arms}


def fix(
    recipe: Recipe,
    findings: list[Finding],
    folder: str | Path,
    listen: Listener = lambda event: None,
    *,
    backbone: Backbone | None = None,
) -> Fixed:
    """Try the settings of every finding in their order; write `folder/recipe.yaml` where some win.

    Where the recipe is stopped before its first step, the first remedy that is not stopped wins. Raises what reading
    its data raises.
    """
    place = Path(folder)
    won: tuple[str, ...] = ()
    tried = dict.fromkeys(arm for finding in findings for arm in finding.arms())
    if not tried:
        return Fixed(place / "recipe.yaml", (), [])
    backbone = backbone or open_backbone(recipe)
    set_threads(recipe)
    steps = max(1, int(BUDGET * make_plan(recipe, backbone).steps))
    arms: list[Arm] = []
    best: list[float] | None = None
    with suppress(TrainingError):
        best = None if stopped(recipe, backbone) else answers(recipe, steps, place / "as-it-is", backbone)
    for number, settings in enumerate(tried, 1):
        listen({"event": "note", "text": f"trying {' '.join(settings)} for {steps} steps"})
        try:
            made = comparable(recipe, (*won, *settings), backbone, begins=best is not None)
            found = answers(made, steps, place / f"arm-{number}", backbone)
        except SoftpromptError as error:
            arms.append(Arm(settings, 0.0, 0.0, 1.0, kept=False, refused=f"{error.code}: {error.found}"))
            continue
        arms.append(compared(settings, found, best))
        if arms[-1].kept:
            won, best = (*won, *settings), found
    path = place / "recipe.yaml"
    if won:
        write_atomically(path, changed(recipe, won).rooted().to_yaml().encode())
    return Fixed(path, won, arms)


def comparable(recipe: Recipe, settings: tuple[str, ...], backbone: Backbone, *, begins: bool) -> Recipe:
    """The recipe with settings that can be put to the test.

    Raises `TrainingError` for other dev examples, which a paired test cannot compare, and, where the recipe without
    them does not `begin`, for one that would be stopped as well.
    """
    if any(one.startswith("data.") for one in settings):
        raise TrainingError("SP-E530", "other dev examples, not compared", "the same dev examples", "try it by hand")
    made = changed(recipe, settings)
    if not begins and stopped(made, backbone):
        raise TrainingError("SP-E530", "stopped before its first step too", "a run that begins", "go on")
    return made


def stopped(recipe: Recipe, backbone: Backbone) -> bool:
    """Whether training would refuse to begin, at the recipe's own length: a tenth of it is a try, which begins."""
    return any(finding.severity == "error" for finding in examine(recipe, backbone))


def compared(settings: tuple[str, ...], found: list[float], best: list[float] | None) -> Arm:
    """An arm beside what was best so far; None: nothing could be trained yet."""
    if best is None:
        return Arm(settings, sum(found) / len(found), 0.0, 0.0, kept=True)
    test = paired(found, best)
    kept = test.difference > 0 and test.p < CERTAIN
    return Arm(settings, sum(found) / len(found), sum(best) / len(best), test.p, kept)


def changed(recipe: Recipe, settings: tuple[str, ...]) -> Recipe:
    """The recipe with settings; raises `RecipeError` for settings that it cannot have."""
    return make_recipe(override(recipe.model_dump(mode="json", exclude_unset=True), list(settings)))


def answers(recipe: Recipe, steps: int, folder: Path, backbone: Backbone) -> list[float]:
    """Train for `steps` in `folder`, or read what is there; how good every dev answer is."""
    short = changed(recipe, (f"train.steps={steps}", f"train.evaluate_every={max(1, steps // 2)}"))
    made = stage(short, folder, backbone=backbone)
    plan = make_plan(short, backbone)
    prompt = Artifact.load(made.artifact).bind(backbone)
    return judged(prompt, plan.kind, plan.dev)


def judged(prompt: Prompt, kind: str, examples: list[Example]) -> list[float]:
    """How good every answer is: right or wrong, the share of right tags, minus an error or the loss of a text."""
    if kind == "generation":  # writing takes long, and texts are hard to compare
        return [-mean_loss(prompt, [example], 1) for example in examples]
    found = [prediction.answer for prediction in prompt.predict(examples)]
    pairs = list(zip(found, [example.label for example in examples], strict=True))
    if kind == "regression":
        return [-abs(float(str(a)) - float(str(b))) for a, b in pairs]
    if kind == "tagging":
        return [sum(x == y for x, y in zip(a, b or "", strict=True)) / max(1, len(b or "")) for a, b in pairs]  # type: ignore[arg-type]
    return [float(str(a) == str(b)) for a, b in pairs]
