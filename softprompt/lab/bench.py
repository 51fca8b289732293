"""Who trains the groups of a comparison: this process, one after the other, or a cluster, all that can run at once."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from softprompt.backbones import Backbone
from softprompt.lab.parts import Parts
from softprompt.lab.protocol import Protocol, Question, folder_of
from softprompt.lab.trials import Group, Tried, group, seeds, trials, units
from softprompt.run import Event, Listener
from softprompt.sweep import Swept, Unit, elsewhere
from softprompt.training import open_backbone


@dataclass
class Bench:
    """The one backbone and the folder of a comparison, and what was trained or read so far."""

    protocol: Protocol
    folder: Path
    listen: Listener
    backbone: Backbone | None
    parts: Mapping[str, Parts]
    swept: dict[Path, Swept] = field(default_factory=dict)
    told: set[Path] = field(default_factory=set)

    def open(self) -> Backbone:
        """The backbone, loaded when the first run needs it."""
        if self.backbone is None:
            self.backbone = open_backbone(next(iter(self.protocol.tasks.values())))
        return self.backbone

    def search(self, question: Question, method: str) -> Group:
        """The trials of a method on a question."""
        made = trials(self.protocol, question, method, self.parts[question.task])
        return Group(made, self.folder / "trials" / home(question, method))

    def tried(self, question: Question, method: str) -> Tried:
        """The trials, trained or read."""
        entries = self.train(self.search(question, method)).entries
        return Tried(entries, [self.protocol.draws(i) for i in range(self.protocol.trials)])

    def repeat(self, question: Question, method: str) -> Group:
        """The setting that the trials chose, at every seed."""
        tried = self.tried(question, method)
        setting = tried.settings[tried.chosen]
        made = seeds(self.protocol, question, method, setting, self.parts[question.task])
        return Group(made, self.folder / "runs" / home(question, method))

    def train(self, made: Group) -> Swept:
        """Train a group, or read it."""
        if made.place not in self.swept:
            self.tell(made)
            self.swept[made.place] = group(made.recipes, made.place, self.open, self.protocol.at_once, self.listen)
        return self.swept[made.place]

    def units(self, made: Group) -> list[Unit]:
        """What of a group is still to be trained, laid out for others to train it."""
        left = units(made.recipes, made.place, self.open, self.protocol.at_once)
        if left:
            self.tell(made)
        return left

    def tell(self, made: Group) -> None:
        """Say once that a group is at hand."""
        if made.place not in self.told:
            self.told.add(made.place)
            what = "trials" if made.place.is_relative_to(self.folder / "trials") else "seeds"
            text = f"{made.place.relative_to(self.folder)}: {len(made.recipes)} {what}"
            self.listen({"event": "note", "text": text})

    def ahead(self) -> None:
        """Train all that is left on the workers of a cluster, where there is one; a method's seeds after its trials."""
        away = elsewhere.get()
        if away is None:
            return
        sides = [(question, method) for question in self.protocol.questions for method in self.protocol.methods]
        searches: dict[Path, tuple[Question, str]] = {}
        left: Counter[Path] = Counter()
        first: list[Unit] = []
        for side in sides:
            search = self.search(*side)
            made = self.units(search)
            searches[search.place], left[search.place] = side, len(made)
            first += made or self.units(self.repeat(*side))

        def then(unit: Unit) -> list[Unit]:
            left[unit.place] -= 1
            ready = unit.place in searches and not left[unit.place]
            return self.units(self.repeat(*searches[unit.place])) if ready else []

        if first:
            away(first, self.hear, then)

    def hear(self, event: Event) -> None:
        """Pass on what a worker says, with members by their folders: every group has a `seed-0`."""
        if "member" in event:
            name = Path(event["unit"]).with_name(event["member"]).relative_to(self.folder.resolve())
            event = event | {"member": str(name)}
        self.listen(event)


def home(question: Question, method: str) -> str:
    """The folder of a method's group, inside `trials` and `runs`."""
    return f"{question.task}/{question.amount}/{folder_of(method)}"
