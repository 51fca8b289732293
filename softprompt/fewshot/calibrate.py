"""What class words score where nothing speaks for a class: the prior that a verbalizer takes off its scores.

A model likes some words whatever the text says. `content_free` asks about no text: Zhao et al. 2021, "Calibrate Before
Use", arXiv:2102.09690, section 5, with its three inputs; the scores are divided by the mean answer. `domain` asks about
the training texts, without their labels: the contextualised prior of Hu et al. 2022, arXiv:2108.02035, section 3.3.
"""

import math
from collections.abc import Sequence
from typing import Literal

from softprompt.core import Example
from softprompt.heads import Verbalizer
from softprompt.prompt import Prompt, without_prompt

Calibrate = Literal["none", "content_free", "domain"]
NOTHING = ("N/A", "[MASK]", "")  # the content-free inputs of Zhao et al.
MOST = 128  # training texts that a domain's prior is the mean of
LEAST = 1e-6  # the least chance of a class, which is divided by


def calibrated(prompt: Prompt, kind: Calibrate, examples: Sequence[Example]) -> Prompt:
    """The prompt with the prior of its classes, measured on the bare model, which is what training leaves alone.

    Measured before training, in the words of the template, and fixed: the zero-shot baseline is then calibrated as in
    the papers, and training begins at scores that favour no class.
    """
    if kind == "none" or not isinstance(prompt.head, Verbalizer):
        return prompt
    bare = without_prompt(prompt)
    asked = [content_free(prompt, text) for text in NOTHING] if kind == "content_free" else list(examples[:MOST])
    head = Verbalizer(**(prompt.head.options() | {"prior": prior(bare, asked)}))
    return Prompt(prompt.backbone, prompt.method, head, prompt.template, prompt.task)


def content_free(prompt: Prompt, text: str) -> Example:
    """An example that says `text` in every column."""
    return Example(dict.fromkeys(prompt.template.fields, text), where="<a content-free input>")


def prior(bare: Prompt, examples: Sequence[Example]) -> list[float]:
    """The logarithm of the mean chance of every class [C]."""
    answers = bare.predict(examples)
    means = [math.fsum(answer.scores[label] for answer in answers) / len(answers) for label in bare.task.labels]
    return [math.log(max(mean, LEAST)) for mean in means]


__all__ = ["Calibrate", "calibrated", "prior"]
