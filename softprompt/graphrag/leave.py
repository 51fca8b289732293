"""What a tuning run leaves: the prompts to be used, and a manifest that tells where they come from."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from softprompt import __version__
from softprompt.errors import SoftpromptError
from softprompt.files import write_atomically
from softprompt.graphrag.corpus import Chunk
from softprompt.graphrag.examples import Examples
from softprompt.graphrag.forms import Draft, Prompts, as_files, render
from softprompt.graphrag.improve import Round
from softprompt.graphrag.measure import Measured, Verdict
from softprompt.graphrag.plan import MANIFEST, Plan
from softprompt.graphrag.validate import check


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
    asked: dict[str, int] = field(default_factory=dict)


def write(made: Outcome, facts: dict[str, Any]) -> Outcome:
    """Write what is to be used: every file whole or absent, the manifest last."""
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
    made = replace(made, files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()})
    text = json.dumps(manifest(made, facts), ensure_ascii=False, indent=2) + "\n"
    write_atomically(plan.out / MANIFEST, text.encode())
    return made


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
    }


def described(chunk: Chunk) -> dict[str, Any]:
    """A chunk without its text."""
    return {"source": chunk.source, "number": chunk.number, "sha256": chunk.hash}
