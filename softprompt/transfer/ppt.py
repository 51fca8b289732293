"""A prompt that is trained before there is a task, on exercises that a raw text sets by itself (`rawtext`).

Gu et al. 2022, arXiv:2109.04332. Deviations: the paper pretrains a prompt for each format, or one for all of them put
as multiple choice; here one prompt is trained on the formats that are named, as text in and a word out. The label of a
single sentence comes from a trained prompt over the same backbone, the paper's from a tuned classifier.
"""

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.choices import spoken
from softprompt.core import Example
from softprompt.errors import SoftpromptError
from softprompt.files import write_atomically
from softprompt.metrics import Difference, paired
from softprompt.plan import make_plan
from softprompt.prompt import Prompt
from softprompt.recipe import Recipe
from softprompt.run import Listener
from softprompt.sections import DataSection, TaskSection
from softprompt.stages import Left, stage
from softprompt.training import open_backbone, set_threads
from softprompt.transfer.paired import losses
from softprompt.transfer.rawtext import LETTERS, Exercise, Format, Labeller, exercises, read_documents
from softprompt.transfer.sources import Source
from softprompt.untrained import build

SHARES = (("dev", 0.1), ("test", 0.1))  # of the documents, two at least; the rest is for training
SURE = 0.8  # chance of a label from which on a single sentence is used


@dataclass(frozen=True)
class Pretrained:
    """A prompt from raw text, and how much less it loses on dev than it did untrained."""

    left: Left
    counts: dict[str, int]  # exercises by part
    answers: dict[str, int]  # of training, by answer
    loss: float
    untrained: float
    gain: Difference

    def as_dict(self) -> dict[str, Any]:
        """The outcome as plain values."""
        facts: dict[str, Any] = {"run": str(self.left.folder), "prompt": str(self.left.artifact)}
        facts |= {"exercises": self.counts, "answers": self.answers, "dev_loss": self.loss}
        return facts | {"untrained_dev_loss": self.untrained, "less_than_untrained": self.gain._asdict()}


def pretrain_on_text(
    recipe: Recipe,
    texts: Sequence[str | Path],
    folder: str | Path,
    *,
    formats: Sequence[Format] = ("pair", "choice"),
    count: int = 2000,
    options: int = 4,
    labeller: Source | None = None,
    sure: float = SURE,
    backbone: Backbone | None = None,
    listen: Listener = lambda event: None,
) -> Pretrained:
    """Train a prompt on up to `count` exercises of every format; method, start and budget are those of the recipe.

    Documents are divided before exercises are made, so none of dev is in train. `labeller` is a prompt for
    classes over this backbone; sentences that it is less than `sure` of are left out. The exercises are kept in
    `folder`; a stopped one goes on. Raises `SoftpromptError` SP-E714 for too little text, SP-E715 for formats that
    cannot be set.
    """
    place = Path(folder)
    backbone = backbone or open_backbone(recipe)
    set_threads(recipe)
    check(formats, options, labeller, backbone)
    told = None if labeller is None else labels_of(labeller.artifact.bind(backbone), sure)
    made = set_exercises(read_documents(texts), formats, count, recipe.data.seed, options, told)
    place.mkdir(parents=True, exist_ok=True)
    files = {name: str(written(place / f"{name}.jsonl", part)) for name, part in made.items()}
    task = TaskSection(kind="generation", max_tokens=recipe.task.max_tokens, truncate=recipe.task.truncate)
    data = DataSection(**files, text=("text",), label="label")
    given = recipe.model_copy(update={"data": data, "task": task})
    left = stage(given, place / "run", backbone=backbone, listen=listen)
    plan = make_plan(given, backbone)
    size = 2 * plan.recipe.train.batch_size
    before = losses(build(plan, backbone), plan.dev, size)
    after = losses(Artifact.load(left.artifact).bind(backbone), plan.dev, size)
    counts = {name: len(part) for name, part in made.items()}
    answers = dict(Counter(answer for _, answer in made["train"]))
    loss, untrained = (sum(values) / len(values) for values in (after, before))
    return Pretrained(left, counts, answers, loss, untrained, paired(before, after))


def set_exercises(
    documents: list[list[str]],
    formats: Sequence[Format],
    count: int,
    seed: int,
    options: int,
    told: Labeller | None,
) -> dict[str, list[Exercise]]:
    """The exercises of train, dev and test, no text in two; raises SP-E714 where a part has none."""
    made: dict[str, list[Exercise]] = {}
    for name, part in divided(documents, seed).items():
        most = count if name == "train" else max(30, count // 10)
        found = exercises(part, formats, most, seed, options=options, labeller=told)
        seen = {text for earlier in made.values() for text, _ in earlier}
        made[name] = [one for one in found if one[0] not in seen]  # a sentence that stands in two documents
    if not all(made.values()):
        empty = ", ".join(name for name, part in made.items() if not part)
        raise SoftpromptError("SP-E714", f"no exercise in {empty}", "some in each part", "give more text")
    return made


def check(formats: Sequence[Format], options: int, labeller: Source | None, backbone: Backbone) -> None:
    """Raise `SoftpromptError` SP-E715 for formats that cannot be set."""
    unknown = [name for name in formats if name not in ("pair", "choice", "single")]
    if unknown or not formats:
        found, expected = ", ".join(unknown) or "no format", "some of pair, choice, single"
        raise SoftpromptError("SP-E715", found, expected, "set --formats")
    if backbone.spec.kind not in ("causal", "seq2seq"):
        found, do = f"{backbone.name}, which writes no text", "choose another backbone"
        raise SoftpromptError("SP-E715", found, "a causal model or an encoder-decoder", do)
    if not 2 <= options <= len(LETTERS):
        raise SoftpromptError("SP-E715", f"{options} options", f"2 to {len(LETTERS)}", "set --options")
    if ("single" in formats) != (labeller is not None):
        found = "single sentences without a labeller" if labeller is None else "a labeller without single sentences"
        raise SoftpromptError("SP-E715", found, "both, or neither", "set --formats single with --labeller PROMPT")


def divided(documents: list[list[str]], seed: int) -> dict[str, list[list[str]]]:
    """Documents for train, dev and test, the same for the same seed."""
    order = list(documents)
    random.Random(seed).shuffle(order)
    made: dict[str, list[list[str]]] = {}
    for name, share in SHARES:
        size = max(2, int(share * len(documents)))
        made[name], order = order[:size], order[size:]
    return {"train": order} | made


def written(path: Path, part: Sequence[Exercise]) -> Path:
    """Exercises as lines of JSON."""
    lines = [json.dumps({"text": text, "label": answer}) + "\n" for text, answer in part]
    write_atomically(path, "".join(lines).encode())
    return path


def labels_of(prompt: Prompt, sure: float) -> Labeller:
    """What a prompt for classes calls a text, in words; None where it is less than `sure`.

    Raises `SoftpromptError` SP-E715 for a prompt that does not classify one text.
    """
    if prompt.task.kind != "classification" or len(prompt.template.fields) != 1:
        found = f"a labeller for {prompt.task.kind} of {', '.join(prompt.template.fields)}"
        raise SoftpromptError("SP-E715", found, "one that classifies one text", "choose another --labeller")
    (field,) = prompt.template.fields

    def told(texts: list[str]) -> list[str | None]:
        answers = prompt.predict([Example({field: text}) for text in texts])
        return [spoken(str(one.answer)) if one.scores[str(one.answer)] >= sure else None for one in answers]

    return told


__all__ = ["SURE", "Pretrained", "pretrain_on_text"]
