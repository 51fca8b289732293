"""Many wordings of one task: questions times layouts, about a third of them in the package's own form."""

import random
import re
from dataclasses import dataclass

OWN = (
    "{x}\nanswer:",
    "{x}\n{q}\nanswer:",
    "{x}\n{q}\nanswer:",
    "{q}\n{x}\nanswer:",
    "{q}\n\n{x}\n\nanswer:",
    "{q}: {x}\nanswer:",
    "question: {q}\ntext: {x}\nanswer:",
    "{x} {q}\nanswer:",
    "text: {x}\nquestion: {q}\nanswer:",
)
LAYOUTS = (
    "{q} {x}\n",
    "{x}\n{q}\n",
    "{x} {q}",
    "{q}\n{x}\n\n",
    "Q: {q} {x}\nA:",
    "{x}\nQ: {q}\nA:",
    "Text: {x}\nQuestion: {q}\nAnswer:",
    "Read this: {x}\n{q}\n",
    "Input: {x}\n{q}\nOutput:",
    "Task: {q}\nInput: {x}\nOutput:",
    '"{x}"\n{q}\n',
    "{q}\n- {x}\n-",
    "{x}\n{k}:",
    "{x}\n{k}:",
    "{k} of this text: {x}\n{k}:",
    "{x} {k} =",
    "{q}\n{x}\n{k}:",
    "{x} ->",
)


@dataclass(frozen=True)
class Wording:
    """The wordings of one task: questions, names of the answer, and forms of its own (with `{x}`)."""

    questions: tuple[str, ...]
    keys: tuple[str, ...]
    forms: tuple[str, ...] = ()

    def count(self) -> int:
        """Count the distinct templates."""
        plain = len({layout for layout in OWN + LAYOUTS if "{q}" in layout}) * len(self.questions)
        return plain + len([layout for layout in LAYOUTS if "{k}" in layout]) * len(self.keys) + len(self.forms)

    def prompt(self, rng: random.Random, text: str) -> str:
        """Word the task for a text in a way drawn at random."""
        draw = rng.random()
        if draw < 0.34:
            layout = rng.choice(OWN)
        elif self.forms and draw < 0.55:
            return rng.choice(self.forms).replace("{x}", text)
        else:
            layout = rng.choice(LAYOUTS)
        question = rng.choice(self.questions)
        if rng.random() < 0.15:
            question = question.lower()
        filled = layout.replace("{q}", question).replace("{k}", rng.choice(self.keys))
        return filled.replace(":: ", ": ").replace("?: ", "? ").replace(".: ", ". ").replace("{x}", text)


def after(prompt: str, answer: str) -> str:
    """Give the answer its leading space, unless the prompt ended its line."""
    return answer if prompt.endswith("\n") else " " + answer


def roughen(rng: random.Random, text: str) -> str:
    """Rewrite some texts in lower case and some with treebank spacing, as many corpora are."""
    draw = rng.random()
    if draw < 0.55:
        return text
    if draw < 0.72:
        return text.lower()
    spaced = re.sub(r"([,.;:!?()\"])(?!\d)", r" \1 ", text)
    spaced = re.sub(r"n't\b", " n't", spaced)
    spaced = re.sub(r"(?<=\w)('s|'re|'ve|'ll|'d|'m)\b", r" \1", spaced)
    spaced = re.sub(r" +", " ", spaced).strip()
    return spaced.lower() if draw < 0.9 else spaced
