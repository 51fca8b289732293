"""Twenty-one faults, injected for real: into recipes, data, runs, files and prompts in memory.

Only the spread over seeds is written into report files by hand: nine runs would be needed.
"""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import families
import torch

from doctor.ward import Ward
from softprompt.artifact import Artifact
from softprompt.backbones import wrap
from softprompt.core import Injection
from softprompt.doctor import Finding, before, of_error
from softprompt.doctor.after import examine_prompt, examine_seeds
from softprompt.errors import SoftpromptError
from softprompt.recipe import Recipe

BASES = ("nano", "llama", "bert")


class Fault(NamedTuple):
    """What is injected, which rules have to see it, and which of them may come first."""

    inject: Callable[[Ward, int], list[Finding]]
    rules: set[str]
    first: set[str]
    times: int = 3


def slow(ward: Ward, k: int) -> list[Finding]:
    """A rate a thousandth of the right one; the third run is so short that it is trained nevertheless."""
    if k < 2:
        return ward.look(ward.recipe(BASES[k], "optim.lr=0.0003", "train.steps=60"))
    return ward.run(ward.recipe("llama", "optim.lr=0.0003", "train.steps=40"))


def fast(ward: Ward, k: int) -> list[Finding]:
    """A hundred times the rate."""
    return ward.run(ward.recipe(BASES[k], "optim.lr=30"))


def infinite(ward: Ward, k: int) -> list[Finding]:
    """A rate that ends in NaN."""
    return ward.run(ward.recipe(("nano", "llama", "llama")[k], "optim.lr=1e38"))


def shuffled(ward: Ward, k: int) -> list[Finding]:
    """Labels that have nothing to do with the texts: train, dev and test."""
    made = ward.recipe(BASES[k])
    for path in (made.data.train, made.data.dev, made.data.test):
        rows = [line.rpartition(",") for line in Path(path).read_text().splitlines()]
        labels = [label for _, _, label in rows[1:]]
        random.Random(ward.spawn + k).shuffle(labels)
        lines = ["text,label", *(f"{text},{label}" for (text, _, _), label in zip(rows[1:], labels, strict=True))]
        Path(path).write_text("\n".join(lines) + "\n")
    return ward.run(made)


def one_class(ward: Ward, k: int) -> list[Finding]:
    """Only "no" to learn from."""
    made = ward.recipe(BASES[k], 'task.labels=["yes", "no"]', "train.steps=60")
    path = Path(made.data.train)
    path.write_text(path.read_text().replace(",yes", ",no"))
    return ward.look(made)


def same_words(ward: Ward, k: int) -> list[Finding]:
    """Class words that begin with the same token."""
    words = [{"yes": "good one", "no": "good two"}, {"yes": "w5 w7", "no": "w5 w8"}, {"yes": "w9 w7", "no": "w9 w8"}][k]
    made = ward.recipe("nano" if k == 0 else "llama")
    return ward.look(made.model_copy(update={"task": made.task.model_copy(update={"words": words})}))


def misspelt(ward: Ward, k: int) -> list[Finding]:
    """A label of dev that train does not have."""
    made = ward.recipe(("nano", "bert")[k])
    path = Path(str(made.data.dev))
    path.write_text(path.read_text().replace(",yes", ",yess", 2))
    return ward.look(made)


def cut(ward: Ward, k: int) -> list[Finding]:
    """The words that tell the classes apart stand where texts are cut."""
    return ward.look(ward.recipe(BASES[k], "task.max_tokens=20", behind=30))


def lost_tags(ward: Ward, k: int) -> list[Finding]:
    """Sentences to tag that end in a word so long that no word is left whole."""
    made = ward.recipe("nano")
    rows = dict.fromkeys(("train", "dev", "test"), 30 + 10 * k)
    for part, count in rows.items():
        path = Path(getattr(made.data, part)).with_suffix(".jsonl")
        long = "anti" * 30
        lines = [{"text": ["see", f"the{i}{part}", long], "label": ["O", "B-X", "O"]} for i in range(count)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        made = made.model_copy(update={"data": made.data.model_copy(update={part: str(path)})})
    task = made.task.model_copy(update={"kind": "tagging", "max_tokens": 20, "truncate": "head"})
    return ward.look(made.model_copy(update={"task": task}))


def leak(ward: Ward, k: int) -> list[Finding]:
    """Training examples among dev or test; the third recipe allows it."""
    made = ward.recipe(BASES[k], f"data.allow_leakage={str(k == 2).lower()}")
    path = Path(str((made.data.dev, made.data.test, made.data.dev)[k]))
    extra = Path(made.data.train).read_text().splitlines()[1:11]
    path.write_text(path.read_text() + "\n".join(extra) + "\n")
    return ward.look(made)


def overfit(ward: Ward, k: int) -> list[Finding]:
    """Few examples, a third of them wrong, learnt by heart."""
    settings = ("task.head=classifier", "train.epochs=50", "train.batch_size=8", "method.length=8")
    return ward.run(ward.recipe(BASES[k], *settings, sizes=(24, 60, 160), noise=0.6))


def too_few(ward: Ward, k: int) -> list[Finding]:
    """Twelve examples to choose by."""
    return ward.look(ward.recipe(BASES[k], sizes=(160, 12, 40)))


def exploded_start(ward: Ward, k: int) -> list[Finding]:
    """Warm start from a prompt that had run off."""
    base = ("nano", "llama", "nano")[k]
    place = ward.train(ward.recipe(base, "optim.lr=30", "train.steps=30", sizes=(60, 30, 30)))
    return ward.look(ward.recipe(base, f"init.source={place / 'prompt.safetensors'}", "optim.lr=0.1"))


def trained(ward: Ward, base: str) -> Path:
    """The file of a prompt of a few steps."""
    return ward.train(ward.recipe(base, "train.steps=30", sizes=(60, 30, 150))) / "prompt.safetensors"


def wrong_base(ward: Ward, k: int) -> list[Finding]:
    """A prompt on a model of the same shapes with other weights."""
    base = ("llama", "bert", "llama")[k]
    artifact, model = Artifact.load(trained(ward, base)), families.model(base)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1 + 0.01 * (k + 1))
    return examine_prompt(artifact, wrap(model, ward.backbones[base].tokenizer, base))


def other_tensors(ward: Ward, k: int) -> list[Finding]:
    """A card whose tensors were initialised anew."""
    artifact = Artifact.load(trained(ward, BASES[k]))
    torch.manual_seed(ward.spawn + k)
    fresh = {name: torch.randn_like(tensor) for name, tensor in artifact.tensors.items()}
    return examine_prompt(replace(artifact, tensors=fresh), ward.backbones[BASES[k]])


def damaged(ward: Ward, k: int) -> list[Finding]:
    """A flipped bit, half a file, a pickle."""
    path = trained(ward, "llama")
    data = bytearray(path.read_bytes())
    data[-9] ^= 4
    path.write_bytes((bytes(data), bytes(data[: len(data) // 2]), b"\x80\x04\x95" + bytes(200))[k])
    try:
        return examine_prompt(Artifact.load(path), ward.backbones["llama"])
    except SoftpromptError as error:
        return [of_error(error)]


def thawed(ward: Ward, k: int) -> list[Finding]:
    """A backbone that would be trained."""
    prompt, plan = ward.prompt(ward.recipe(("llama", "bert")[k]))
    prompt.backbone.model.requires_grad_(True)
    try:
        return before.examine(prompt, plan)
    finally:
        prompt.backbone.model.requires_grad_(False)


def deaf(ward: Ward, k: int) -> list[Finding]:
    """A method whose vectors no gradient reaches."""
    prompt, plan = ward.prompt(ward.recipe(("nano", "llama")[k]))
    inject = prompt.method.forward

    def cut_off(batch: object, text: torch.Tensor) -> Injection:
        made = inject(batch, text)
        return replace(made, embeds=made.embeds.detach())

    prompt.method.forward = cut_off  # type: ignore[method-assign]
    return before.examine(prompt, plan)


def spread(ward: Ward, k: int) -> list[Finding]:
    """Runs that differ in the seed and by 10 points and more."""
    made, folders = ward.recipe(BASES[k]), []
    for seed, value in enumerate([(0.91, 0.70, 0.85), (0.55, 0.9, 0.93, 0.92), (0.8, 0.6, 0.5)][k]):
        ward.count += 1
        place = ward.folder / f"seed-{ward.count}"
        place.mkdir()
        one: Recipe = made.model_copy(update={"train": made.train.model_copy(update={"seed": seed})})
        (place / "recipe.yaml").write_text(one.to_yaml(full=True))
        score = {"name": "accuracy", "value": value, "error": 0.05, "n": 300, "seeds": 1}
        (place / "report.json").write_text(json.dumps({"scores": [score], "baselines": {}}))
        folders.append(place)
    return examine_seeds(folders)


def beaten(ward: Ward, k: int) -> list[Finding]:
    """Too short a run: a linear probe does better."""
    return ward.run(ward.recipe("llama", f"train.steps={6 + k}", "optim.lr=0.3"))


def constant(ward: Ward, k: int) -> list[Finding]:
    """A label that was filled in where none was known: nearly all of train is "no"."""
    made = ward.recipe(BASES[k])
    path = Path(made.data.train)
    lines = path.read_text().splitlines()
    lines[9:] = [line.replace(",yes", ",no") for line in lines[9:]]  # some of the first eight rows keep theirs
    path.write_text("\n".join(lines) + "\n")
    return ward.run(made)


FAULTS = {
    "rate / 1000": Fault(slow, {"cannot-move"}, {"cannot-move"}),
    "rate x 100": Fault(fast, {"will-explode"}, {"will-explode"}),
    "NaN": Fault(infinite, {"not-finite"}, {"not-finite", "will-explode"}),
    "labels shuffled": Fault(shuffled, {"no-signal"}, {"no-signal"}),
    "one class": Fault(one_class, {"labels"}, {"labels"}),
    "class words begin alike": Fault(same_words, {"labels"}, {"labels"}),
    "label misspelt": Fault(misspelt, {"labels"}, {"labels"}, 2),
    "answer's words cut": Fault(cut, {"overflow"}, {"overflow"}),
    "tags cut": Fault(lost_tags, {"no-answer", "overflow"}, {"no-answer", "overflow"}),
    "leak": Fault(leak, {"leak"}, {"leak"}),
    "overfit": Fault(overfit, {"gap", "few-examples"}, {"gap", "few-examples"}),
    "dev too small": Fault(too_few, {"small-eval"}, {"small-eval"}),
    "start from a prompt that ran off": Fault(exploded_start, {"init-scale"}, {"init-scale"}),
    "wrong backbone": Fault(wrong_base, {"wrong-base"}, {"wrong-base"}),
    "tensors initialised anew": Fault(other_tensors, {"no-effect"}, {"no-effect"}),
    "file damaged": Fault(damaged, {"damaged"}, {"damaged"}),
    "backbone not frozen": Fault(thawed, {"frozen"}, {"frozen"}, 2),
    "no gradient": Fault(deaf, {"frozen"}, {"frozen"}, 2),
    "spread over seeds": Fault(spread, {"seeds"}, {"seeds"}),
    "a probe is better": Fault(beaten, {"baseline-wins"}, {"cannot-move", "baseline-wins", "not-converging"}),
    "always the same answer": Fault(constant, {"majority", "shift"}, {"majority", "no-signal", "shift"}),
}
