"""`softprompt prune`."""

import shlex
import time
from typing import Annotated, Any

import typer

from softprompt.cli import summary
from softprompt.cli.options import AsJson
from softprompt.cli.output import document, duration, next_steps, say, size, table
from softprompt.cli.progress import Progress, resumable
from softprompt.errors import RecipeError


def prune(
    run: Annotated[str, typer.Argument(help="Folder of a run that has ended.", metavar="RUN")],
    ratios: Annotated[
        str, typer.Option(help="Shares to remove, tried on dev one by one, first of vectors, then of pieces.")
    ] = "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9",
    pieces: Annotated[int, typer.Option(min=1, help="Pieces of a vector; 1: whole vectors only.")] = 16,
    out: Annotated[str | None, typer.Option(help="Folder of the stages and the prompt.  [default: RUN/pruned]")] = None,
    as_json: AsJson = False,
) -> None:
    """Remove what matters least in a prompt, and train the rest again."""
    shares = numbers(ratios)
    from softprompt.pruning import prune as begin

    began = time.monotonic()
    saved = "the stage at hand is saved, and the same command goes on with it"
    with Progress(brief=True) as progress, resumable(run, saved, as_json=as_json):
        result = begin(run, ratios=shares, pieces=pieces, folder=out, listen=progress)
    report, path = result.report.as_dict(), result.artifact
    tried = [candidate.as_dict() | {"chosen": candidate is result.chosen} for candidate in result.candidates]
    count = path.stat().st_size
    if as_json:
        document(report | {"run": run, "prompt": str(path), "bytes": count, "candidates": tried})
        return
    metric = report["metric"] if report["metric"] in tried[0]["dev"] else "loss"  # generation is judged by its loss
    table(["pruned", "ratio", "vectors", "kept", f"dev {metric}", ""], [line(one, metric) for one in tried])
    summary.scores(report, f"test, {report['scores'][0]['n']} examples")
    say(f"tried {len(tried) - 1} masks in {duration(time.monotonic() - began)}; {path}, {size(count)}")
    next_steps(shlex.join(["softprompt", "show", str(path)]))


def line(tried: dict[str, Any], metric: str) -> list[object]:
    """A candidate as a row of the table."""
    score, kept = tried["dev"][metric], "chosen" if tried["chosen"] else ""
    return [tried["level"], f"{tried['ratio']:g}", tried["vectors"], f"{tried['kept']:.0%}", f"{score:.3f}", kept]


def numbers(text: str) -> list[float]:
    """The numbers of "0.1,0.3"; raises `RecipeError` for other text."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        found, expected = f"--ratios {text!r}", "numbers with commas between them"
        raise RecipeError("SP-E204", found, expected, "write it as --ratios 0.2,0.5") from error
