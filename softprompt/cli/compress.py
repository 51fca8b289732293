"""`softprompt compress`: a smaller prompt of a trained one, and what it costs."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.cli.options import AsJson, Model, PromptFile
from softprompt.cli.output import document, next_steps, note, say, size, table
from softprompt.cli.summary import number

if TYPE_CHECKING:
    from softprompt.artifact import Artifact
    from softprompt.compress import Compressed
    from softprompt.compress.distil import Lessons
    from softprompt.core import Example
    from softprompt.prompt import Prompt
    from softprompt.run import Listener


def compress(
    prompt: PromptFile,
    data: Annotated[str, typer.Argument(help="Labelled data that the size is chosen by.", metavar="DEV")],
    test: Annotated[str | None, typer.Option(help="Labelled data that the result is scored on.")] = None,
    how: Annotated[str, typer.Option(help="auto, prune, merge, rank, int8, pieces or distil.")] = "auto",
    keep: Annotated[int | None, typer.Option(min=1, help="Vectors to keep (of rank: the rank).")] = None,
    by: Annotated[
        str,
        typer.Option(help="Predict it: knee, taylor, effective-rank, attention, gates.  [default: measured]"),
    ] = "",
    tolerance: Annotated[float, typer.Option(min=0, help="How much of the score on DEV may be lost.")] = 0.01,
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="The smaller prompt.  [default: PROMPT-small.safetensors]")
    ] = None,
    train: Annotated[
        str | None, typer.Option(help="Of distil: labelled data, or a recipe, to train on.", metavar="DATA")
    ] = None,
    run: Annotated[str | None, typer.Option(help="Of distil: run folder.  [default: runs/DATA-distil-N]")] = None,
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """Make a prompt smaller; only distil trains."""
    from softprompt.cli.load import bound, labelled, load
    from softprompt.cli.use import deciding, remark
    from softprompt.compress import compress as search

    artifact = load(prompt)
    read = labelled(artifact, data)
    held = labelled(artifact, test) if test else None
    metric = deciding(artifact, read.examples)
    ready = bound(artifact, model)
    remark(ready, read.examples, read.notes)
    options: dict[str, Any] = {"how": how, "keep": keep, "by": by, "tolerance": tolerance}
    if train and how == "distil":
        from softprompt.cli.transfer import chosen, follow

        place = chosen(run, train, "distil")
        lessons = taught(artifact, ready, train, data, model, place)
        start = lambda listen: search(ready, read.examples, metric, **options, lessons=lessons(listen))  # noqa: E731
        found = follow(start, place, as_json)
    else:
        found = search(ready, read.examples, metric, **options)
    report = (
        {"metric": metric, "chosen_on": data} | found.as_dict() | facts(found, held.examples if held else [], metric)
    )
    path = Path(out) if out else beside(artifact)
    save(found, artifact, report, path)
    report |= {"prompt": str(path), "bytes": path.stat().st_size, "bytes_before": Path(artifact.where).stat().st_size}
    if as_json:
        document(report)
        return
    show(report, data, test)
    named = ["--model", model] if model else []
    next_steps(shlex.join(["softprompt", "evaluate", str(path), test or data, *named]))


def taught(
    artifact: "Artifact", ready: "Prompt", train: str, dev: str, model: str | None, folder: Path
) -> "Callable[[Listener], Lessons]":
    """What trains prompts of a length to answer as the whole one does: on TRAIN, their best states chosen on DEV."""
    from softprompt.cli.transfer import aimed
    from softprompt.compress.distil import lessons
    from softprompt.transfer.sources import Source

    source = Source(Path(artifact.where).stem, artifact)
    recipe = aimed(train, model, [], [source])
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"dev": dev})})
    return lambda listen: lessons(artifact, recipe, folder, backbone=ready.backbone, listen=listen)


def beside(artifact: "Artifact") -> Path:
    """The file in the working folder that a smaller prompt goes to where none is named."""
    return Path(f"{Path(artifact.where).stem}-small.safetensors")


def save(found: "Compressed", artifact: "Artifact", report: dict[str, Any], path: Path) -> None:
    """Write the chosen prompt, its parent by name in its card."""
    from softprompt.compress import stored

    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"metric": report["metric"], "scores": [], "baselines": {}} | {
        key: report[key] for key in ("scores", "baselines", "chosen") if key in report
    }
    stored(found.chosen.prompt, artifact, told, Path(artifact.where).name).save(path)


def facts(found: "Compressed", examples: "list[Example]", metric: str) -> dict[str, Any]:
    """What was chosen; with examples that were used for nothing else, both prompts' scores on them."""
    from softprompt.vectors import measure

    chosen = {"chosen": found.chosen.as_dict()}
    if not examples:
        return chosen
    after, before = (measure(one.prompt, examples, metric) for one in (found.chosen, found.whole))
    losses = {"test_loss": after.loss, "test_loss_before": before.loss}
    if after.score is None or before.score is None:
        return chosen | losses
    scores = {"scores": [after.score.as_dict()], "baselines": {"whole prompt": before.score.as_dict()}}
    return chosen | losses | scores


def show(report: dict[str, Any], data: str, test: str | None) -> None:
    """The search and its outcome, for people."""
    metric = report["metric"]
    rows = [line(one) for one in report["candidates"]]
    table(["how", "kept", "tensors", f"{metric} on {data}", "loss", ""], rows)
    say("a predictor from one pass would keep: " + ", ".join(f"{n} {c}" for n, c in report["predicted"].items()))
    if report["chosen"]["how"] == "whole":
        note("nothing smaller is good enough on these data: the whole prompt was written")
    if test and "scores" in report:
        after, before = report["scores"][0], report["baselines"]["whole prompt"]
        table([test, metric], [["before", number(before)], ["after", number(after)]])
    elif test:
        table(
            [test, "loss"], [["before", f"{report['test_loss_before']:.4f}"], ["after", f"{report['test_loss']:.4f}"]]
        )
    else:
        note("the scores above chose the prompt: --test FILE scores it on other data")
    before, now = report["candidates"][0]["bytes"], report["chosen"]["bytes"]
    share = f"tensors {size(before)} -> {size(now)}"
    say(f"{report['prompt']}: {share}; file {size(report['bytes_before'])} -> {size(report['bytes'])}")


def line(one: dict[str, Any]) -> list[object]:
    """A candidate as a row of the table."""
    score = one["dev"]["score"]
    value = "" if score is None else f"{score['value']:.3f}"
    chosen = "chosen" if one["chosen"] else ""
    return [one["how"], one["keep"], size(one["bytes"]), value, f"{one['dev']['loss']:.4f}", chosen]
