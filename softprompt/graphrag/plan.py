"""What a tuning run will do and cost, known before anything is asked."""

from dataclasses import dataclass, replace
from pathlib import Path

from softprompt.errors import RecipeError
from softprompt.graphrag.corpus import Settings, read_chunks, read_settings
from softprompt.graphrag.profile import Given
from softprompt.graphrag.select import Split, divide
from softprompt.graphrag.speaker import TRIES
from softprompt.graphrag.targets import Target

MANIFEST = "manifest.json"
DEV = 6  # chunks that new instructions are chosen by


@dataclass(frozen=True)
class Plan:
    """What will be done, known before anything is asked."""

    root: Path
    out: Path
    target: Target
    settings: Settings
    split: Split
    given: Given
    samples: int
    seed: int
    select: str
    calls: int  # without the loop and repeats: what has to be there
    against: Path | None  # prompts to beat, instead of those that the settings name
    tokens: int  # of those calls, roughly, in and out

    @property
    def rival(self) -> Path | None:
        """The file of the prompts to beat: the one that was named, or that of the settings; None for our default."""
        return self.against or (None if self.target.file else self.settings.prompt)

    @property
    def final(self) -> int:
        """Calls that the comparison on the chunks held out takes; none where there are too few to compare."""
        return 2 * self.samples * len(self.split.held) if len(self.split.held) > 1 else 0


def make_plan(
    root: Path,
    out: Path | None,
    target: Target,
    *,
    given: Given | None = None,
    examples: int = 5,
    held: int = 10,
    samples: int = 2,
    select: str = "auto",
    seed: int = 0,
    size: int | None = None,
    overlap: int | None = None,
    column: str | None = None,
    against: Path | None = None,
    force: bool = False,
) -> Plan:
    """Read the corpus and plan; nothing is asked and nothing written.

    Raises `RecipeError` SP-E790 and SP-E791, `DataError` SP-E792 and SP-E793 for a corpus that cannot be read, and
    `RecipeError` SP-E795 where files would be replaced.
    """
    if not root.is_dir():
        do = "give a GraphRAG project, or a folder of texts"
        raise RecipeError("SP-E791", "no such folder", "a folder", do, where=str(root))
    folder = out or root / "prompts-tuned"
    refuse_to_replace(folder, target, force)
    settings = read_settings(root)
    settings = replace(
        settings,
        size=settings.size if size is None else size,  # the settings decide, unless the user says otherwise
        overlap=settings.overlap if overlap is None else overlap,
        column=column or settings.column,
    )
    split = divide(read_chunks(settings, folder), select, examples, DEV, held, seed)
    given = given or Given()
    plan = Plan(
        root, folder, target, settings, split, given, samples, seed, select, 0, against, estimate(split, samples)
    )
    return replace(plan, calls=given.questions + len(split.shown) + plan.final)


def refuse_to_replace(folder: Path, target: Target, force: bool) -> None:
    """Raise SP-E795 where a file would be written over."""
    there = [name for name in (*target.names, MANIFEST) if (folder / name).exists()]
    if there and not force:
        do = "choose another --out, or --force to write over them"
        raise RecipeError("SP-E795", f"{', '.join(there)} in the way", "a folder without them", do, where=str(folder))


def estimate(split: Split, samples: int) -> int:
    """Tokens of a run without its loop, at four characters each, a prompt of 2,000 and an answer of 500."""
    held = sum(len(chunk.text) // 4 + 2_500 for chunk in split.held)
    return 8_000 + len(split.shown) * 1_500 + 2 * samples * held


def spare(plan: Plan) -> int:
    """Repeats that are allowed where no budget is given."""
    return (TRIES - 1) * (len(plan.split.shown) + plan.given.questions)
