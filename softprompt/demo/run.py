"""Several small tasks on one frozen backbone: a prompt each; a batch for all that name things, and one that writes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.backbones.embedded import TINY
from softprompt.core import Batch, Example, Injection, Output, Prefix
from softprompt.evaluate import Report
from softprompt.heads import Classifier, Tagger
from softprompt.prompt import Prediction, Prompt
from softprompt.recipe import Recipe, make_recipe, override
from softprompt.run import Listener
from softprompt.training import train

MODEL = TINY  # comes with this package: nothing is downloaded
DATA = Path(__file__).parent / "data"
TASKS = ("questions", "intents", "orders", "reviews", "places")
ENDINGS = {"orders": "conll"}
# One thread: the operations of so small a model are shorter than the waits of two threads for each other.
SETTINGS = ("method.name=prefix", "method.length=10", "train.epochs=8", "train.threads=1")
OWN = {  # chosen on dev: the mean of the states says more than the last, and twelve classes take longer
    "questions": ("task.pool=mean",),
    "intents": ("task.pool=mean", "train.epochs=15"),
    "reviews": ("task.pool=mean",),
}
MIXED = {
    "questions": ("Who painted the ceiling of the old library?", "How do you get wax out of a carpet?"),
    "intents": ("i think i lost my card on the bus", "you took the money from my account twice"),
    "orders": ("two large lemonades for the garden table please", "could i have three tomato soups at noon"),
    "reviews": ("A lovely kettle, quiet and quick.", "It broke after a week and nobody answered my mails."),
}

WRITTEN = {
    "places": (
        "name[The Quiet Fox], eatType[pub], food[Indian], area[riverside], familyFriendly[yes]",
        "name[The Paper Boat], food[French], customer rating[5 out of 5], near[The Old Pump]",
    )
}


@dataclass(frozen=True)
class Trained:
    """What one task of the demo left behind."""

    task: str
    path: Path
    report: Report
    bytes: int
    seconds: float  # training, evaluation and baselines


def recipe(task: str, model: str, settings: Sequence[str] = ()) -> Recipe:
    """The recipe of one task of the demo; `settings` are `section.key=value` and come last."""
    files = {part: str(DATA / task / f"{part}.{ENDINGS.get(task, 'csv')}") for part in ("train", "dev", "test")}
    values = {"backbone": {"name": model}, "data": files}
    return make_recipe(override(values, [*SETTINGS, *OWN.get(task, ()), *settings]))


def train_task(task: str, backbone: Backbone, folder: Path, listen: Listener, settings: Sequence[str] = ()) -> Trained:
    """Train and score the prompt of one task in a folder of its own."""
    began = time.monotonic()
    made = train(recipe(task, backbone.name, settings), folder / task, backbone=backbone, listen=listen)
    return Trained(task, made.artifact, made.report, made.artifact.stat().st_size, time.monotonic() - began)


def load_all(trained: Sequence[Trained], backbone: Backbone) -> dict[str, Prompt]:
    """The prompts of all tasks, read back from their files and bound to the one backbone."""
    return {one.task: Artifact.load(one.path).bind(backbone) for one in trained}


@torch.inference_mode()
def answer_together(prompts: dict[str, Prompt], asked: Sequence[tuple[str, str]]) -> list[Prediction]:
    """Answers to (task, text) pairs of different tasks, computed in one forward of the backbone.

    Every row gets the keys and values of its own task; all prompts have the same length, as those of the demo do.
    """
    users = [prompts[task] for task, _ in asked]
    rows = [user.row(example(user, text), labelled=False) for user, (_, text) in zip(users, asked, strict=True)]
    batch = users[0].batch(rows)
    injected = {task: prompt.inject(batch).prefix for task, prompt in prompts.items()}
    output = users[0].backbone(batch, Injection(prefix=row_by_row([injected[task] for task, _ in asked])))
    answers = []
    for i, (user, row) in enumerate(zip(users, rows, strict=True)):
        own = Output(hidden=output.hidden[i : i + 1])
        alone = Batch(batch.input_ids[i : i + 1], batch.mask[i : i + 1], batch.slots[i : i + 1])
        if isinstance(user.head, Tagger):
            answers.append(user.tagged(user.head.scores(own, alone).argmax(-1)[0], row))
        else:
            assert isinstance(user.head, Classifier)
            answers += user.named(user.head.scores(own, alone))
    return answers


def write(prompts: dict[str, Prompt]) -> list[tuple[str, str, Prediction]]:
    """What the prompts that write make of a few inputs: (task, input, answer)."""
    made = []
    for task in prompts.keys() & WRITTEN.keys():
        asked = [example(prompts[task], text) for text in WRITTEN[task]]
        made += [(task, *pair) for pair in zip(WRITTEN[task], prompts[task].predict(asked), strict=True)]
    return made


def example(prompt: Prompt, text: str) -> Example:
    """A text as an example of the prompt's task; for tagging, split at white space."""
    value = tuple(text.split()) if prompt.task.kind == "tagging" else text
    return Example(dict.fromkeys(prompt.template.fields, value))


def row_by_row(prefixes: Sequence[Prefix | None]) -> Prefix:
    """One prefix of B rows from B prefixes of one row, layer by layer."""

    def stacked(layer: int, side: int) -> Tensor:
        return torch.cat([prefix[layer][side] for prefix in prefixes])  # type: ignore[index]

    first = prefixes[0]
    assert first is not None
    return tuple(None if pair is None else (stacked(i, 0), stacked(i, 1)) for i, pair in enumerate(first))
