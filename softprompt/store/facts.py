"""What a store can be searched by: the card of a prompt, its metrics, and what it was made from."""

import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from softprompt.errors import ArtifactError, SoftpromptError
from softprompt.files import read_regular
from softprompt.store.blobs import LIMIT, digest

if TYPE_CHECKING:
    from softprompt.artifact import Artifact, Card

RELATIONS = ("warm-start", "transfer", "compression")  # what a prompt can be of its parent
LONG = ("canaries", "report")  # of a card: not searched; the metrics of the report have a table of their own


class Parent(NamedTuple):
    """What a prompt was made from."""

    relation: str
    label: str  # what it was called then
    sha256: str  # empty where only its name is known


class Score(NamedTuple):
    """A metric as the card reports it."""

    name: str
    value: float
    error: float | None
    n: int | None


@dataclass(frozen=True)
class Facts:
    """The rows of one content."""

    size: int
    card: "Card"
    scores: tuple[Score, ...]  # the deciding one first
    parents: tuple[Parent, ...]


def checked(path: Path) -> tuple[bytes, "Artifact"]:
    """The bytes of a prompt file and what they say; raises `ArtifactError` for anything but an intact artifact."""
    from softprompt.artifact import Artifact

    data = read_regular(path, LIMIT)
    artifact = Artifact.load(path)
    if read_regular(path, LIMIT) != data:  # then what was checked may be neither
        found, do = "a file that changed while it was read", "wait until its writer is done, then repeat"
        raise ArtifactError("SP-E308", found, "a file at rest", do, where=str(path))
    return data, artifact


def gather(artifact: "Artifact", size: int, parents: Sequence[Parent]) -> Facts:
    """What is remembered of an artifact of `size` bytes, with parents beyond those that its card names."""
    card = artifact.card
    known = {parent.label for parent in parents}
    named = tuple(Parent(RELATIONS[0], label, "") for label in card.parents if label not in known)
    return Facts(size, card, scores(card.report), tuple(dict.fromkeys([*parents, *named])))


def scores(report: dict[str, Any]) -> tuple[Score, ...]:
    """The metrics of a report; what is no metric is left out, since a card may come from anywhere."""
    listed = report.get("scores")
    found = [_score(one) for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    unique = {score.name: score for score in reversed([score for score in found if score])}
    return tuple(reversed(unique.values()))


def _score(one: dict[str, Any]) -> Score | None:
    name, value, error, n = (one.get(key) for key in ("name", "value", "error", "n"))
    if not (isinstance(name, str) and _finite(value)):
        return None
    return Score(name, float(value), float(error) if _finite(error) else None, n if type(n) is int else None)


def _finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def beside(path: Path, artifact: "Artifact") -> tuple[Parent, ...]:
    """The parents of a prompt in the folder of its run, which knows the files that the card only names.

    Of a start that was made for the run (a mean, or vectors that were chosen of a longer prompt) its own parents too.
    """
    from softprompt.recipe import load_recipe

    if not artifact.card.parents:
        return ()
    recipe = path.parent / "recipe.yaml"
    files = load_recipe(recipe).init.files if recipe.is_file() else ()
    return tuple(_named(path.parent, artifact.card.parents, [Path(file) for file in files], set()))


def _named(folder: Path, names: Sequence[str], known: Sequence[Path], seen: set[Path]) -> Iterator[Parent]:
    """What a card names: files `known` of that name, or one in `sources` of the folder, or in it. Paths are ignored."""
    from softprompt.artifact import Artifact

    for name in dict.fromkeys(one for one in names if Path(one).name == one):
        beside = [place for place in (folder / "sources" / name, folder / name) if place.is_file()]
        for source in [file for file in known if file.name == name] or beside[:1]:
            if source in seen:
                continue
            seen.add(source)
            try:
                found, card = digest(read_regular(source, LIMIT)), Artifact.load(source).card
            except SoftpromptError:  # it is no longer there, and the name on the card is all that is left
                continue
            yield Parent(RELATIONS[0], name, found)
            if not card.canaries:  # nobody trained it: it was made as a start
                yield from _named(source.parent, card.parents, (), seen)


def remember(index: sqlite3.Connection, sha256: str, facts: Facts) -> None:
    """Write the rows of a content, in a transaction of the caller; parents are added to those known."""
    card, first = facts.card, (facts.scores or (Score("", 0.0, None, None),))[0]
    row = (sha256, facts.size, card.method.name, card.task.kind, card.backbone.name)
    best = first[:4] if facts.scores else (None,) * 4
    index.execute("INSERT OR IGNORE INTO prompts VALUES (?,?,?,?,?,?,?,?,?)", (*row, *best))
    text = json.dumps(card.model_dump(mode="json", exclude=set(LONG)), ensure_ascii=False, separators=(",", ":"))
    index.execute("INSERT OR IGNORE INTO cards VALUES (?,?,?)", (sha256, text, words(card)))
    index.executemany("INSERT OR IGNORE INTO scores VALUES (?,?,?,?,?)", [(sha256, *s) for s in facts.scores])
    index.executemany("INSERT OR IGNORE INTO parents VALUES (?,?,?,?)", [(sha256, *p) for p in facts.parents])


def words(card: "Card") -> str:
    """The text that a search for words looks at, in lower case."""
    method, backbone, task = card.method, card.backbone, card.task
    parts = [method.name, method.trained_as, card.head.name, task.kind, *task.labels, card.template.text]
    return "\n".join([*parts, backbone.name, backbone.family]).lower()
