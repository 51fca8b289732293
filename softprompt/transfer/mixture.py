"""One prompt trained on several tasks: the generic start of SPoT.

Vu et al. 2022, arXiv:2110.07904, section 3.1; the proportions are those of Raffel et al. 2020, arXiv:1910.10683,
section 3.5.2: a task counts by its examples, up to a cap. Tasks share a prompt only where they share a head, so all are
put as text to text: the question in, the word of the class or the answer out.

Deviation: the papers draw from all examples at the capped rate; here a task of more than `cap` examples gives a sample
of `cap`, the same in every epoch.
"""

import json
import random
from collections.abc import Mapping
from pathlib import Path

from softprompt.backbones import Backbone
from softprompt.choices import spoken
from softprompt.core import Example
from softprompt.errors import SoftpromptError
from softprompt.files import write_atomically
from softprompt.plan import Plan, make_plan
from softprompt.recipe import Recipe
from softprompt.run import Listener
from softprompt.sections import DataSection, TaskSection
from softprompt.stages import Left, stage
from softprompt.training import open_backbone, set_threads
from softprompt.transfer.sources import MIXTURE, flat

CAP = 2**19  # the paper's


def pretrain(
    recipes: Mapping[str, Recipe],
    folder: str | Path,
    *,
    like: Recipe,
    cap: int = CAP,
    backbone: Backbone | None = None,
    listen: Listener = lambda event: None,
) -> Left:
    """Train one prompt on the tasks of `recipes` with the method, start and budget of `like`; judged on dev alone.

    The mixture is kept in `folder`: train.jsonl, dev.jsonl and test.jsonl. A stopped one goes on. Raises
    `SoftpromptError` SP-E623 for tasks that cannot be put as text to text, and `DataError` where dev or test of one
    task is in train of another.
    """
    place = Path(folder)
    backbone = backbone or open_backbone(like)
    set_threads(like)
    if backbone.spec.kind not in ("causal", "seq2seq"):
        found, do = f"{backbone.name}, which writes no text", "pretrain on one task at a time"
        raise SoftpromptError("SP-E623", found, "a causal model or an encoder-decoder", do)
    plans = {name: make_plan(recipe, backbone) for name, recipe in recipes.items()}
    for name, plan in plans.items():
        check(name, plan, recipes[name])
    place.mkdir(parents=True, exist_ok=True)
    for part in ("train", "dev", "test"):  # of a stage, test is not scored, but it has to be kept apart from train
        rows = [line for name, plan in plans.items() for line in lines(name, plan, part, cap)]
        write_atomically(place / f"{part}.jsonl", "".join(rows).encode())
    told = {"data": {name: plan.sha256 for name, plan in plans.items()}, "cap": cap}
    write_atomically(place / MIXTURE, json.dumps(told, indent=1).encode())
    files = {part: str(place / f"{part}.jsonl") for part in ("train", "dev", "test")}
    data = DataSection(**files, text=("text",), label="label")
    task = TaskSection(kind="generation", max_tokens=like.task.max_tokens, truncate=like.task.truncate)
    mixed = like.model_copy(update={"data": data, "task": task})
    return stage(mixed, place / "run", backbone=backbone, listen=listen)


def check(name: str, plan: Plan, recipe: Recipe) -> None:
    """Raise `SoftpromptError` SP-E623 for a task that has no place in a text-to-text mixture."""
    if plan.kind not in ("classification", "generation"):
        found = f"{plan.kind} in {name}, which needs a trained head of its own"
        expected, do = "classification or generation", "leave that task out"
        raise SoftpromptError("SP-E623", found, expected, do)
    own = recipe.task.template
    if own not in ("auto", *usual(plan)):
        found = f"a template of its own in {name}"
        raise SoftpromptError("SP-E623", found, "task.template=auto", "leave the template, or that task, out")


def usual(plan: Plan) -> list[str]:
    """The templates that runs choose where the recipe leaves them open: with slots or not, with words or not."""
    texts = plan.recipe.data.text
    body = "{" + texts[0] + "}" if len(texts) == 1 else " ".join(f"{name}: {{{name}}}" for name in texts)
    return [f"{soft}{body}{ask}" for soft in ("", "{soft}") for ask in ("", "\nanswer: {mask}")]


def lines(name: str, plan: Plan, part: str, cap: int) -> list[str]:
    """A part of a task as lines of JSON: at most `cap` examples, sampled with the plan's own seed."""
    examples: list[Example] = getattr(plan, part)
    if len(examples) > cap:
        rng = random.Random(plan.recipe.data.seed)
        examples = [examples[i] for i in sorted(rng.sample(range(len(examples)), cap))]
    return [
        json.dumps({"task": name, "text": flat(e, plan.recipe.data.text), "label": said(e, plan)}) + "\n"
        for e in examples
    ]


def said(example: Example, plan: Plan) -> str:
    """The answer to an example as text: the word of its class, or the text itself."""
    label = str(example.label)
    return label if plan.kind == "generation" else plan.recipe.task.words.get(label, spoken(label))


__all__ = ["CAP", "pretrain"]
