"""What a tuning run leaves: the prompts to be used, and a manifest that tells where they come from."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from softprompt import __version__
from softprompt.errors import ArtifactError, SoftpromptError
from softprompt.files import read_regular, write_atomically
from softprompt.graphrag.corpus import Chunk
from softprompt.graphrag.examples import Examples
from softprompt.graphrag.forms import Draft, Prompts, as_files, render
from softprompt.graphrag.improve import Round
from softprompt.graphrag.measure import Measured, Verdict
from softprompt.graphrag.plan import MANIFEST, Plan
from softprompt.graphrag.targets import TARGETS
from softprompt.graphrag.validate import check

LIMIT = 64 << 20  # bytes of a manifest, and of a file that may be of an earlier run


@dataclass(frozen=True)
class Against:
    """What tuned prompts have to beat."""

    prompts: Prompts
    types: tuple[str, ...] | None
    name: str  # "yours" or "ours"
    path: Path | None = None  # of the prompt that is in use


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    plan: Plan
    draft: Draft
    domain: str
    examples: Examples
    against: Against
    scores: dict[str, Measured]
    rounds: list[Round]
    verdict: Verdict
    kept: str  # "tuned", "ours" (our default) or "yours" (what is in use)
    files: dict[str, str] = field(default_factory=dict)  # SHA-256 by name
    removed: tuple[str, ...] = ()  # what an earlier run wrote, and this one does not stand for
    left: dict[str, str | None] = field(default_factory=dict)  # SHA-256 where it is in use, None where it is not ours
    asked: dict[str, int] = field(default_factory=dict)


def write(made: Outcome, facts: dict[str, Any]) -> Outcome:
    """Write what is to be used: every file whole or absent, the manifest last.

    What an earlier run wrote and this one does not is removed, unless it is in use or was changed since.
    """
    plan = made.plan
    files: dict[str, bytes] = {}
    if made.kept != "yours":
        draft = made.draft if made.kept == "tuned" else Draft(types=plan.settings.types)
        prompts = render(draft, plan.target)
        wrong = [one for one in check(prompts, plan.target).findings if one.level == "error"]
        if wrong:
            found = f"a prompt that {plan.target.title} could not use ({wrong[0].where}: {wrong[0].problem})"
            raise SoftpromptError("SP-E798", found, "a good one", "choose another --seed, and report this")
        files = as_files(prompts, plan.target)
    make_folder(plan.out)
    for name, data in files.items():
        write_atomically(plan.out / name, data)
    made = replace(made, files={name: digest(data) for name, data in files.items()})
    removed, left = clear(made)
    made = replace(made, removed=removed, left=left)
    text = json.dumps(manifest(made, facts), ensure_ascii=False, indent=2) + "\n"
    write_atomically(plan.out / MANIFEST, text.encode())
    return made


def clear(made: Outcome) -> tuple[tuple[str, ...], dict[str, str | None]]:
    """Remove what an earlier run wrote; the names removed, and those left with their hash or None as in `Outcome`.

    Raises `SoftpromptError` SP-E501 where the system refuses.
    """
    folder, before = made.plan.out, earlier(made.plan.out)
    used = {*made.plan.settings.named, *([made.against.path.resolve()] if made.against.path else [])}
    removed, left = [], {}
    for name in sorted({*before, *made.plan.target.names} - set(made.files)):
        path = folder / name
        if not path.is_symlink() and not path.exists():
            continue
        known = before.get(name) if unchanged(path, before.get(name)) else None
        if known is None or path.resolve() in used:
            left[name] = known
            continue
        try:
            path.unlink()
        except OSError as error:
            found, do = (error.strerror or str(error)).lower(), "remove it yourself, then repeat"
            raise SoftpromptError(
                "SP-E501", found, "to remove a file of an earlier run", do, where=str(path)
            ) from error
        removed.append(name)
    return tuple(removed), left


def earlier(folder: Path) -> dict[str, str]:
    """What the manifest of an earlier run says it wrote and is still there, with hashes; nothing where it says none."""
    try:
        told = json.loads(read_regular(folder / MANIFEST, LIMIT))
    except (ArtifactError, RecursionError, ValueError):
        return {}  # then nothing in the folder is known to be ours, and all of it stays
    parts = [told.get(key) for key in ("left", "files")] if isinstance(told, dict) else []
    ours = {name for target in TARGETS.values() for name in target.names}  # never a path that a manifest makes up
    pairs = [pair for part in parts if isinstance(part, dict) for pair in part.items()]
    return {name: known for name, known in pairs if name in ours and isinstance(known, str)}


def unchanged(path: Path, known: str | None) -> bool:
    """Whether a file is what was written there: we write no links, and nothing that cannot be read."""
    try:
        return not path.is_symlink() and digest(read_regular(path, LIMIT)) == known
    except ArtifactError:
        return False


def digest(data: bytes) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(data).hexdigest()


def make_folder(path: Path) -> None:
    """Make a folder; raises `SoftpromptError` SP-E501 where the system refuses."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = (error.strerror or str(error)).lower()
        raise SoftpromptError(
            "SP-E501", found, "a folder", "choose an --out that you may write to", where=str(path)
        ) from error


def manifest(made: Outcome, facts: dict[str, Any]) -> dict[str, Any]:
    """All that tells where the files come from."""
    plan, draft = made.plan, made.draft
    return {
        "softprompt": __version__,
        "target": {"name": plan.target.name, "checked_against": plan.target.version},
        **facts,
        "seed": plan.seed,
        "selection": plan.select,
        "kept": made.kept,
        "verdict": made.verdict.as_dict(),
        "default": {"name": made.against.name, "path": str(made.against.path) if made.against.path else None},
        "scores": {name: one.mean() for name, one in made.scores.items()},
        "readings": {name: [asdict(r) for r in one.readings] for name, one in made.scores.items()},
        "profile": {
            "domain": made.domain,
            "language": draft.language,
            "persona": draft.persona,
            "types": list(draft.types),
            "types_in_prompt": draft.pinned,
            "role": draft.role,
            "rating": draft.rating,
            "task": draft.task,
        },
        "examples": {
            "asked": len(plan.split.shown),
            "kept": [one.chunk for one in made.examples.kept],
            "dropped": made.examples.dropped,
            "retried": made.examples.retried,
            "records_removed": made.examples.removed,
        },
        "rounds": [asdict(one) for one in made.rounds],
        "chunks": {
            "in_all": plan.split.chunks,
            "different": plan.split.pool,
            **{use: [described(c) for c in getattr(plan.split, use)] for use in ("shown", "dev", "held")},
        },
        "asked": made.asked,
        "files": made.files,
        "removed": list(made.removed),
        "left": made.left,
    }


def described(chunk: Chunk) -> dict[str, Any]:
    """A chunk without its text."""
    return {"source": chunk.source, "number": chunk.number, "sha256": chunk.hash}
