"""What a prompt is worth on dev before it is trained, beside controls that know nothing of its task."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from softprompt.baselines import majority
from softprompt.errors import SoftpromptError
from softprompt.evaluate import score
from softprompt.metrics import Difference, Score, paired
from softprompt.plan import Plan
from softprompt.prompt import Prompt, without_prompt
from softprompt.transfer.paired import losses, readable
from softprompt.untrained import build


@dataclass(frozen=True)
class Measured:
    """The loss of a prompt on dev, how much less it is than that of every control, and, of classes, the scores."""

    loss: float
    gains: dict[str, Difference]  # by control
    beside: dict[str, float]  # the loss of every control
    scores: dict[str, Score]  # of the prompt ("prompt"), the controls and the majority; empty for other answers

    @property
    def helps(self) -> bool:
        """Whether it loses less than every control, beyond the ± of each, and answers better than the majority."""
        ahead = all(gain.difference > gain.error for gain in self.gains.values())
        return ahead and (not self.scores or self.scores["prompt"].value > self.scores["majority"].value)

    def as_dict(self) -> dict[str, Any]:
        """The numbers as plain values."""
        gains = {name: gain._asdict() for name, gain in self.gains.items()}
        scores = {name: one.as_dict() for name, one in self.scores.items()}
        return {"dev_loss": self.loss, "controls": self.beside, "less_than": gains, "dev_scores": scores}


def measured(prompt: Prompt, plan: Plan, others: Mapping[str, Prompt]) -> Measured:
    """A prompt on the dev examples of a plan, beside the untrained prompt, the bare model and `others`.

    Raises `SoftpromptError` SP-E711 for a head that has to be trained first. No test example is looked at.
    """
    if not readable(prompt):
        found, do = f"a {prompt.head.name} head, which is still to be trained", "set task.head=verbalizer"
        raise SoftpromptError("SP-E711", found, "a head that reads words", do)
    untrained = build(plan, prompt.backbone)
    controls = {"untrained prompt": untrained, "bare model": without_prompt(untrained), **others}
    size = 2 * plan.recipe.train.batch_size
    own = losses(prompt, plan.dev, size)
    beside = {name: losses(one, plan.dev, size) for name, one in controls.items()}
    gains = {name: paired(values, own) for name, values in beside.items()}
    scores: dict[str, Score] = {}
    if plan.kind == "classification":
        answers = {
            name: [p.answer for p in one.predict(plan.dev)] for name, one in {"prompt": prompt, **controls}.items()
        }
        answers["majority"] = majority(plan, plan.dev)
        scores = {name: score(plan.kind, plan.recipe.task.metric, given, plan.dev) for name, given in answers.items()}
    return Measured(mean(own), gains, {name: mean(values) for name, values in beside.items()}, scores)


def mean(values: list[float]) -> float:
    """The mean of some numbers."""
    return sum(values) / len(values)


__all__ = ["Measured", "measured"]
