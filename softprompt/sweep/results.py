"""What a sweep left, read from the folders of its members, and which of them is best: on dev, never on test."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompt.errors import TrainingError
from softprompt.metrics import Score, over_seeds
from softprompt.recipe import Recipe, load_recipe
from softprompt.stages import left


@dataclass(frozen=True)
class Entry:
    """One member: its report, or the error that ended it."""

    name: str
    folder: Path
    report: dict[str, Any] | None
    error: dict[str, Any] | None
    dev: dict[str, Any]  # the metric on dev as a score with ±, or the loss where writing would have to be judged
    key: tuple[float, ...]  # what decides on dev: larger is better
    question: str  # members with the same dev examples and metric can be compared
    family: str = ""  # members of one family differ in the seed only

    @property
    def prompt(self) -> Path:
        """The file of the prompt."""
        return self.folder / "prompt.safetensors"

    def as_dict(self) -> dict[str, Any]:
        """The entry as plain values."""
        test = self.report and self.report["scores"][0]
        facts = {"name": self.name, "folder": str(self.folder), "dev": self.dev, "test": test}
        return facts | ({"prompt": str(self.prompt), "report": self.report} if self.report else {"error": self.error})


@dataclass(frozen=True)
class Swept:
    """The members of a sweep in their order."""

    folder: Path
    entries: list[Entry]

    @property
    def best(self) -> list[Entry]:
        """The best member on dev, the first of equals; one for every question, where members were asked several."""
        found: dict[str, Entry] = {}
        for entry in self.entries:
            if entry.report is not None and (entry.question not in found or entry.key > found[entry.question].key):
                found[entry.question] = entry
        return list(found.values())

    @property
    def over_seeds(self) -> list[tuple[list[str], Score]]:
        """The test score over members that differ in the seed only, with their names, where there are several."""
        families: dict[str, list[Entry]] = {}
        for entry in self.entries:
            if entry.report is not None:
                families.setdefault(entry.family, []).append(entry)
        return [([one.name for one in family], average(family)) for family in families.values() if len(family) > 1]

    def as_dict(self) -> dict[str, Any]:
        """The sweep as plain values."""
        members = [entry.as_dict() for entry in self.entries]
        seeds = [{"members": names, "test": score.as_dict()} for names, score in self.over_seeds]
        best = [entry.name for entry in self.best]
        return {"run": str(self.folder), "members": members, "best_on_dev": best, "over_seeds": seeds}


def average(family: list[Entry]) -> Score:
    """The mean of the members' test scores, with ± over seeds."""
    given = [entry.report["scores"][0] for entry in family if entry.report is not None]
    return over_seeds([Score(one["name"], one["value"], one["error"], one["n"]) for one in given])


def ended(folder: Path) -> bool:
    """Whether a member has nothing left to do."""
    return (folder / "report.json").exists() or (folder / "failed.json").exists()


def results(place: Path, names: list[str]) -> Swept:
    """Read what members left; raises the error of the first one where none could be trained."""
    entries = [entry(place / name, name) for name in names]
    if all(one.report is None for one in entries):
        error = entries[0].error or {}
        raise TrainingError(error["code"], error["found"], error["expected"], error["do"], where=str(place / names[0]))
    return Swept(place, entries)


def entry(folder: Path, name: str) -> Entry:
    """Read one member."""
    report = parsed(folder / "report.json")
    if report is None:
        return Entry(name, folder, None, (parsed(folder / "failed.json") or {}).get("error"), {}, (), "")
    best = left(folder).best
    dev = parsed(folder / "dev.json") or {"name": "loss", "value": best["loss"]}
    recipe = load_recipe(folder / "recipe.yaml")
    family = json.dumps(recipe.model_dump(mode="json", exclude={"train": {"seed"}}), sort_keys=True)
    return Entry(name, folder, report, None, dev, tuple(best["key"]), question(folder, recipe), family)


def question(folder: Path, recipe: Recipe) -> str:
    """What a member was asked on dev: the data, how they were divided, and the metric."""
    section = recipe.data.model_dump(
        mode="json", include={"split", "shots", "few_shot", "seed", "text", "label", "image"}
    )
    data = json.loads((folder / "run.json").read_text(encoding="utf-8"))["data"]
    return json.dumps([data, section, recipe.task.metric], sort_keys=True)


def parsed(path: Path) -> Any:
    """The values of a JSON file; None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
