"""The second phase of TransPrompt: a task goes on from the meta-learner, beside one that begins anew.

Wang et al. 2021, EMNLP 2021: here the entropy H of answers is lowered, CE + l H, where the meta-learner raised it. Both
train in one pass on one budget, and a paired test says whether the meta-learner helped.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from typing_extensions import override

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.core import Batch, Injection, Output
from softprompt.errors import TrainingError
from softprompt.heads import Verbalizer
from softprompt.methods import Method
from softprompt.plan import Plan
from softprompt.prompt import Prompt
from softprompt.run import Listener
from softprompt.stages import claim
from softprompt.sweep.lockstep import Member, go_together
from softprompt.sweep.results import Entry, ended, results
from softprompt.transfer.paired import Compared, compare

SCRATCH, ADAPTED = "scratch", "adapted"


@dataclass(frozen=True)
class Adapted:
    """A task that went on from the meta-learner, beside one that began anew, on the same test examples."""

    adapted: Entry
    scratch: Entry
    test: Compared

    @property
    def kept(self) -> Entry:
        """The prompt to use: the adapted one only where its lead is more than chance."""
        return self.adapted if self.test.verdict == "gain" else self.scratch

    def as_dict(self) -> dict[str, Any]:
        """The outcome as plain values."""
        facts = {"adapted": self.adapted.as_dict(), "scratch": self.scratch.as_dict()}
        return facts | {"paired_test": self.test.as_dict(), "prompt": str(self.kept.prompt)}


def around(prompt: Prompt) -> tuple[Any, Any, Any]:
    """Head, template and task of a prompt."""
    return prompt.head, prompt.template, prompt.task


def parts(prompt: Prompt, output: Output, seen: Batch) -> tuple[Tensor, Tensor]:
    """Cross-entropy [B] and entropy [B] of the answers to a batch."""
    assert isinstance(prompt.head, Verbalizer)
    assert seen.target is not None
    scores = prompt.head.scores(output, seen)
    return -scores.gather(1, seen.target.long()[:, None])[:, 0], -(scores.exp() * scores).sum(1)


class Sharpened(Prompt):
    """A prompt whose loss counts how unsure it is: CE + l H, as the sum over rows."""

    entropy: float

    @override
    def weigh(self, batch: Batch, injection: Injection, output: Output, seen: Batch) -> Tensor:
        return super().weigh(batch, injection, output, seen) + self.entropy * parts(self, output, seen)[1].sum()


class Adapting(Member):
    """A member of a pass that goes on from what the meta-learner knows of its task."""

    learned: Method
    entropy: float

    @override
    def build(self, backbone: Backbone) -> None:
        super().build(backbone)
        given = self.prompt
        self.prompt = Sharpened(backbone, copy.deepcopy(self.learned), *around(given))
        self.prompt.fewest, self.prompt.entropy = given.fewest, self.entropy


def adapt(plan: Plan, method: Method, place: Path, entropy: float, backbone: Backbone, listen: Listener) -> Adapted:
    """One task from the meta-learner and anew, in one pass; raises `TrainingError` where one of them broke off."""
    names = (SCRATCH, ADAPTED)
    for name in names:
        claim(plan, backbone, place / name)
    if not all(ended(place / name) for name in names):
        going = Adapting(ADAPTED, plan, place / ADAPTED, listen)
        going.learned, going.entropy = method, entropy
        go_together([Member(SCRATCH, plan, place / SCRATCH, listen), going], backbone, listen)
    scratch, adapted = results(place, list(names)).entries
    for entry in (scratch, adapted):
        if entry.report is None:
            error = entry.error or {}
            raise TrainingError(error["code"], error["found"], error["expected"], error["do"], where=str(entry.folder))
    first, second = (Artifact.load(entry.prompt).bind(backbone) for entry in (adapted, scratch))
    return Adapted(adapted, scratch, compare(first, second, plan))


__all__ = ["Adapted", "adapt", "around", "parts"]
