"""One worked example a class in front of every text, written as the template writes the text itself.

Gao, Fisch, Chen 2021, LM-BFF, arXiv:2012.15723, section 6. Deviations: LM-BFF draws new demonstrations for every row of
every step; here a prompt has one set of its own, so that its file holds all that it says, and a causal model runs them
once a batch. As there, answers may be averaged over several sets (`over_sets`).
"""

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from softprompt.core import Example
from softprompt.data.checks import by_class
from softprompt.ensemble import Ensemble
from softprompt.errors import RecipeError
from softprompt.pieces import Piece, parse
from softprompt.prompt import Prompt
from softprompt.template import Template

if TYPE_CHECKING:
    from softprompt.plan import Plan

GAP = "\n\n"  # between demonstrations, and between them and the text


def set_apart(examples: Sequence[Example], seed: int) -> tuple[list[Example], list[Example]]:
    """One example of each class to show, and the others: a text that shows its own answer would teach nothing.

    Raises `RecipeError` SP-E752 for labels that are no classes, and where a class has one example alone.
    """
    if not all(isinstance(example.label, str) for example in examples):
        raise RecipeError("SP-E752", "demonstrations for labels that are no classes", "classes", "leave them out")
    classes = by_class(examples)
    alone = [name for name, members in classes.items() if len(members) < 2]
    if alone:
        found = f"1 example of class {alone[0][:30]!r}, which would be its own demonstration"
        raise RecipeError("SP-E752", found, "2 or more of each", "add examples, or leave the demonstrations out")
    rng = random.Random(seed)
    shown = [rng.choice(members) for members in classes.values()]
    taken = {id(example) for example in shown}
    return shown, [example for example in examples if id(example) not in taken]


def demonstrated(template: str, length: int, shown: Sequence[Example], words: Mapping[str, str]) -> str:
    """The template with examples behind its first vectors, each as the template writes it, with its class's word."""
    pieces = parse(template, length)
    at = next((i for i, piece in enumerate(pieces) if piece.kind not in ("soft", "bos")), len(pieces))
    told = "".join("".join(map(plain, worded(pieces, example, words))) + GAP for example in shown)
    return "".join(map(source, pieces[:at])) + told + "".join(map(source, pieces[at:]))


def worded(pieces: Sequence[Piece], example: Example, words: Mapping[str, str]) -> list[Piece]:
    """The pieces of a template filled with an example and its answer; vectors are left out."""
    made = []
    for piece in pieces:
        if piece.kind == "field":
            value = example.fields[piece.value]
            made.append(Piece("text", value if isinstance(value, str) else " ".join(value)))
        elif piece.kind == "mask":
            made.append(Piece("text", words.get(str(example.label), str(example.label))))
        elif piece.kind in ("text", "sep"):
            made.append(piece)
    return made


def plain(piece: Piece) -> str:
    """A filled piece as part of a template; the separator stays one."""
    return "{sep}" if piece.kind == "sep" else source(piece)


def source(piece: Piece) -> str:
    """A piece as it is written in a template."""
    if piece.kind == "text":
        return piece.value.replace("{", "{{").replace("}", "}}")
    return f"{{soft:{piece.count}}}" if piece.kind == "soft" else f"{{{piece.value or piece.kind}}}"


def over_sets(prompt: Prompt, plan: "Plan", sets: int) -> Ensemble:
    """The same trained prompt behind several sets of demonstrations, answering together by mean probability.

    The first set is its own. Raises `RecipeError` SP-E752 for a plan without demonstrations, or fewer than 2 sets.
    """
    if not plan.shown or sets < 2:
        found = f"{sets} sets" if plan.shown else "a prompt without demonstrations"
        do = "train with --set task.demonstrations=true, and ask for --sets 2 or more"
        raise RecipeError("SP-E752", found, "a prompt with demonstrations, and 2 sets or more", do)
    recipe, template = plan.recipe, prompt.template
    pool = [*plan.shown, *plan.train]
    drawn = [plan.shown, *(set_apart(pool, recipe.data.seed + i)[0] for i in range(1, sets))]
    prompts = []
    for shown in drawn:
        text = demonstrated(recipe.task.template, recipe.method.length, shown, recipe.task.words)
        prefix = 0 if template.vectors else recipe.method.length
        made = Template(
            text, prompt.backbone, length=recipe.method.length, prefix=prefix, limit=template.limit, cut=template.cut
        )
        prompts.append(Prompt(prompt.backbone, prompt.method, prompt.head, made, prompt.task))
    return Ensemble(prompts, vote="mean")


__all__ = ["demonstrated", "over_sets", "set_apart"]
