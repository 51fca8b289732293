"""A sequence of recipes, each starting from what the last one left: a stage is trained, gone on with, or read.

A stage is a run in a folder of its own, with the one training loop, but it is judged on dev alone: whoever chooses
between stages must not have seen the test examples. `conclude` scores the chosen one on them, once.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from softprompt import checkpoint
from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.errors import TrainingError
from softprompt.evaluate import evaluate
from softprompt.files import sweep, write_atomically
from softprompt.plan import Plan, make_plan
from softprompt.prompt import Prompt
from softprompt.recipe import Recipe, load_recipe
from softprompt.run import Listener, restore, snapshot
from softprompt.track import tracker
from softprompt.training import Result, fit, parents_of, reopen, run_in
from softprompt.untrained import build


@dataclass(frozen=True)
class Left:
    """What a stage left in its folder."""

    folder: Path
    history: tuple[dict[str, Any], ...]  # every evaluation on dev

    @property
    def artifact(self) -> Path:
        """The file of the prompt that was best on dev."""
        return self.folder / "prompt.safetensors"

    @property
    def best(self) -> dict[str, Any]:
        """The evaluation on dev that the prompt was kept for."""
        return max(self.history, key=lambda event: tuple(event["key"]))  # the first of equals, as in training

    @property
    def dev(self) -> dict[str, float]:
        """The metric and the loss of `best`."""
        return {name: value for name, value in self.best.items() if name not in ("event", "step", "key")}


def left(folder: str | Path) -> Left:
    """What the run or stage in `folder` left; raises `TrainingError` where it has not ended."""
    place = run_in(folder)
    if not (place / "prompt.safetensors").exists():
        do = f"`softprompt resume {place}`"
        raise TrainingError("SP-E513", "a run that has not ended", "its prompt", do, where=str(place))
    events = [json.loads(line) for line in (place / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return Left(place, tuple(event for event in events if event["event"] == "dev"))


def stage(recipe: Recipe, folder: str | Path, *, backbone: Backbone, listen: Listener = lambda event: None) -> Left:
    """Train a recipe in `folder`; go on where it was stopped, to the same bits, or read it where it is done.

    No test example is predicted. Raises `TrainingError` where the folder holds another stage than this one.
    """
    plan, place = make_plan(recipe, backbone), Path(folder)
    claim(plan, backbone, place)
    if not (place / "prompt.safetensors").exists():
        train_stage(plan, backbone, place, tracker(plan.recipe, place, listen))
    return left(place)


def train_stage(plan: Plan, backbone: Backbone, place: Path, listen: Listener) -> None:
    """From the newest state (or from nothing) to the prompt that is best on dev."""
    sweep(place)
    sweep(place / "states")
    state, notes = checkpoint.newest(place / "states")
    for note in notes:
        listen({"event": "note", "text": note})
    prompt = build(plan, backbone)
    listen({"event": "plan", "plan": plan, "prompt": prompt})
    kept, history = fit(prompt, plan, place, state, listen)
    restore(prompt, kept)
    dev = [{name: value for name, value in event.items() if name not in ("event", "key")} for event in history]
    facts = {"metric": plan.recipe.task.metric, "dev": dev}
    Artifact.of(prompt, plan.recipe.shared(), facts, parents_of(plan.recipe)).save(place / "prompt.safetensors")


def claim(plan: Plan, backbone: Backbone, place: Path) -> None:
    """Say in `place` what is trained there; raises `TrainingError` where that says something else already."""
    start = " ".join(fingerprint(Artifact.load(source)) for source in plan.recipe.init.files)
    identity = {"backbone": backbone.fingerprint, "data": plan.sha256, "start": start}
    if not (place / "recipe.yaml").exists():
        place.mkdir(parents=True, exist_ok=True)
        facts = identity | {"threads": torch.get_num_threads()}
        write_atomically(place / "run.json", json.dumps(facts, indent=1).encode())
        write_atomically(place / "recipe.yaml", plan.recipe.rooted().to_yaml(full=True).encode())
        return
    before = json.loads((place / "run.json").read_text())
    other = [name for name, value in identity.items() if before.get(name) != value]
    if load_recipe(place / "recipe.yaml").shared() != plan.recipe.shared():
        other.append("recipe")
    if other:
        found, do = f"a run of another {' and '.join(other)}", "remove it, or choose another folder"
        raise TrainingError("SP-E514", found, "an empty folder, or this stage", do, where=str(place))


def fingerprint(artifact: Artifact) -> str:
    """SHA-256 over the tensors of a prompt; the card may differ, in versions for example."""
    digest = hashlib.sha256()
    for name, tensor in sorted(artifact.tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def conclude(chosen: Left, folder: str | Path, *, backbone: Backbone, listen: Listener = lambda event: None) -> Result:
    """Score the chosen stage and its baselines on the test examples; its prompt, with the report, goes to `folder`."""
    plan, backbone = reopen(chosen.folder, backbone)
    artifact = Artifact.load(chosen.artifact)
    prompt = artifact.bind(backbone)
    before = build(plan, backbone)
    start = Prompt(backbone, before.method.fold(), before.head, before.template, before.task)
    report = evaluate(prompt, plan, untrained=snapshot(start), history=list(chosen.history), listen=listen)
    facts = {name: value for name, value in report.as_dict().items() if "seconds" not in name}  # the same bits
    path = Path(folder) / "prompt.safetensors"
    replace(artifact, card=artifact.card.model_copy(update={"report": facts})).save(path)
    return Result(prompt, path, report)


__all__ = ["Left", "conclude", "left", "stage"]
