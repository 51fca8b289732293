"""What the writing model is told: all of it our own words, and every prompt that it is shown or writes between tags.

The tags are `<prompt>` for prompts that are shown and `<new>` for the one that is wanted.
"""

import re
from collections.abc import Sequence

from softprompt.example import Example
from softprompt.llm.endpoint import Messages
from softprompt.llm.task import Task

FORM = (
    "Write the prompt between <new> and </new>, and nothing else between them. Keep it short and general: it must work "
    "for inputs that you have not seen, so do not quote or describe single inputs."
)


def user(*parts: str) -> Messages:
    """Parts as one message of a user."""
    return [{"role": "user", "content": "\n\n".join(part for part in parts if part)}]


def shown(prompt: str) -> str:
    """A prompt between its tags."""
    return f"<prompt>{prompt}</prompt>"


def solved(task: Task, examples: Sequence[Example]) -> str:
    """Examples with their answers."""
    return "\n\n".join(f"Input: {task.shown(example)}\nAnswer: {task.wanted(example)}" for example in examples)


def asked(task: Task) -> str:
    """What the prompt is for."""
    classes = f" The answer is one of: {', '.join(task.words.values())}." if task.words else ""
    return f"A language model is given a prompt and an input, and has to answer.{classes}"


def scored(task: Task, rated: Sequence[tuple[str, int]], examples: Sequence[Example]) -> Messages:
    """OPRO: prompts with their scores, from the worst to the best, and some examples; a better prompt is wanted."""
    lines = [f"{shown(prompt)}\nscore: {score}" for prompt, score in rated]
    return user(
        asked(task),
        "These prompts were tried; the score is from 0 to 100, and the best prompt comes last.",
        "\n\n".join(lines),
        "Some inputs with the right answers:",
        solved(task, examples),
        "Write one prompt that none of these is, and that should score higher than all of them.",
        FORM,
    )


def guessed(task: Task, examples: Sequence[Example]) -> Messages:
    """APE: examples alone; the prompt that somebody may have followed is wanted."""
    return user(
        asked(task),
        "With one prompt, a model gave all these answers:",
        solved(task, examples),
        "What may the prompt have been?",
        FORM,
    )


def varied(task: Task, prompt: str) -> Messages:
    """Another wording of a prompt (resampling in APE, the first population in EvoPrompt)."""
    return user(asked(task), shown(prompt), "Say the same in other words, as a new prompt.", FORM)


def crossed(task: Task, first: str, second: str) -> Messages:
    """EvoPrompt, GA: crossover of two prompts, then a mutation."""
    return user(
        asked(task),
        "Two prompts for this, the parents:",
        f"{shown(first)}\n{shown(second)}",
        "Do two things, one after the other. 1. Combine the parents into a child that takes something from each. "
        "2. Change the child a little: replace, add or drop a thought. The changed child is the new prompt.",
        FORM,
    )


def differed(task: Task, first: str, second: str, best: str, present: str) -> Messages:
    """EvoPrompt, DE: what two prompts differ in, changed, put into the best, and that crossed with the present one."""
    return user(
        asked(task),
        f"Prompt A: {shown(first)}\nPrompt B: {shown(second)}",
        f"The best prompt so far: {shown(best)}",
        f"The present prompt: {shown(present)}",
        "Do four things, one after the other. 1. Name the parts in which A and B differ. 2. Change these parts into "
        "something new. 3. Put the changed parts into the best prompt, in place of what they correspond to. "
        "4. Combine what comes out with the present prompt, taking some parts from each. That is the new prompt.",
        FORM,
    )


def reflected(task: Task, prompt: str, cases: Sequence[tuple[str, str, str]]) -> Messages:
    """GEPA: a prompt and what came of it (input, answer, remark); a mended prompt is wanted."""
    lines = [f"Input: {text}\nThe model's answer: {answer}\nRemark: {remark}" for text, answer, remark in cases]
    return user(
        asked(task),
        "The model was given this prompt:",
        shown(prompt),
        "This is what it did:",
        "\n\n".join(lines),
        "Think about what it got wrong and which general rule would help, and mend the prompt.",
        FORM,
    )


def written(text: str) -> str | None:
    """The new prompt of an answer: what stands between the last pair of tags; None where there is no pair."""
    found = re.findall(r"<new>(.*?)</new>", text, re.DOTALL)
    return found[-1].strip() if found else None
