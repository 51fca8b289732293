"""Prompts in 8 bits: a byte a coordinate and one scale a vector (method `rounded`)."""

from softprompt.core import Start
from softprompt.methods import find
from softprompt.prompt import Prompt
from softprompt.vectors import vectors_of


def int8(prompt: Prompt) -> Prompt:
    """The prompt with its vectors rounded to 255 levels each."""
    method = find("rounded")(prompt.backbone.spec, Start(vectors_of(prompt)))
    return Prompt(prompt.backbone, method, prompt.head, prompt.template, prompt.task).eval()
