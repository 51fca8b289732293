"""GrIPS: edits of an instruction in words. Prasad et al. 2023, arXiv:2203.07281, section 3.

Needs no gradient, and leaves text that people can read.
"""

import re
from collections.abc import Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from softprompt.core import Example
from softprompt.search.candidates import Ids
from softprompt.search.operator import Operator
from softprompt.search.score import Judged, Scorer

LONGEST = 3  # words of a phrase
SPREAD = 10.0  # what the entropy of the answers counts, the paper's
TRIES = 4  # drafts for a candidate, before a step makes do with fewer


class Grips(Operator):
    """Delete a phrase, swap two, or put back one that was deleted.

    Deviations: phrases are runs of one to three words, not constituents of a parser; there is no paraphrase by another
    model; the search goes on until its budget is spent; the smallest loss decides between equal scores.
    """

    name = "grips"
    paper = 'Prasad et al. 2023, "GrIPS: Gradient-free, Edit-based Instruction Search", 2203.07281'
    summary = "phrases of an instruction deleted, swapped, put back"
    count = 5
    instruction = True

    def __init__(self, scorer: Scorer, at: Ids) -> None:
        super().__init__(scorer, at)
        self.gone: list[str] = []  # phrases that were deleted from the instruction

    @override
    def propose(self, at: Ids, examples: Sequence[Example], count: int, rng: Random) -> list[Ids]:
        text, made = self.candidates.text(at), dict[Ids, None]()
        for _ in range(TRIES * count):
            if len(made) == count:
                break
            ids = self.candidates.read(self.edited(text, rng))
            if ids and ids != at:
                made[ids] = None
        return list(made)

    def edited(self, text: str, rng: Random) -> str:
        """The text after one edit."""
        words = re.findall(r"\s*\S+", text)  # each with the space before it, so that an edit leaves the rest as it is
        absent = [gone for gone in self.gone if gone not in text]
        edits = ["delete", "swap"] * (len(words) > 1) + ["add"] * bool(absent)
        edit = rng.choice(edits or ["none"])
        begin, end = phrase(len(words), rng)
        if edit == "delete":
            end = min(end, begin + len(words) - 1)  # a word stays
            self.gone = list(dict.fromkeys([*self.gone, "".join(words[begin:end]).strip()]))
            words = words[:begin] + words[end:]
        elif edit == "swap":
            other = rng.randrange(len(words))
            words[begin], words[other] = words[other], words[begin]
        elif edit == "add":
            words.insert(rng.randrange(len(words) + 1), rng.choice(absent))
        return " ".join(word.strip() for word in words)

    @override
    def value(self, judged: Judged) -> float:
        """100 times the balanced accuracy and 10 times the entropy of the answers, which holds off a single answer."""
        if judged.logs is None or judged.target is None:
            return super().value(judged)
        answers, classes = judged.logs.argmax(1), judged.logs.shape[1]
        right = (answers == judged.target).double()
        present = [c for c in range(classes) if bool((judged.target == c).any())]
        balanced = torch.stack([right[judged.target == c].mean() for c in present]).mean().item()
        share = torch.bincount(answers, minlength=classes).double() / len(answers)
        entropy = -(share * share.clamp(min=1e-12).log()).sum().item()
        return 100 * balanced + SPREAD * entropy - 1e-3 * judged.mean

    @override
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {}, {"gone": self.gone}

    @override
    def load(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self.gone = list(facts["gone"])


def phrase(words: int, rng: Random) -> tuple[int, int]:
    """From and up to which word a random phrase of a text of `words` words goes."""
    begin = rng.randrange(words)
    return begin, min(words, begin + rng.randint(1, LONGEST))
