"""`softprompt data check`: everything that is wrong with a data set, at once."""

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from softprompt.cli.options import AsJson
from softprompt.cli.output import document, next_steps, note, say, table

if TYPE_CHECKING:
    from softprompt.data import Report

app = typer.Typer(help="Look at data before training on it.")
SHOWN = 50  # problems in the table; --json has all


@app.command("check")
def check(
    data: Annotated[str, typer.Argument(help="A file, an image folder, hub:NAME, or - for standard input.")],
    text: Annotated[list[str] | None, typer.Option(help="Column of text; repeatable.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the label.")] = None,
    kind: Annotated[str | None, typer.Option(help="classification, tagging, generation or regression.")] = None,
    format: Annotated[str | None, typer.Option(help="By the ending if not given.")] = None,
    encoding: Annotated[str, typer.Option(help="Of a text file.")] = "utf-8",
    train: Annotated[str | None, typer.Option(help="Training data that nothing here may occur in.")] = None,
    as_json: AsJson = False,
) -> None:
    """List everything that is wrong with a data set; exit code 1 where training would refuse it."""
    from softprompt.data import Columns, read
    from softprompt.data import check as examine

    columns = Columns(tuple(text or ()), label)
    known = read(train, columns=columns, kind=kind, on_bad_row="report") if train else None  # type: ignore[arg-type]
    report = examine(data, columns=columns, kind=kind, format=format, encoding=encoding, train=known)  # type: ignore[arg-type]
    unreadable = [problem for problem in report.problems if problem.code == "SP-E101"]
    if report.dataset is None and unreadable:
        raise unreadable[0].error()
    if as_json:
        document(report.as_dict())
    else:
        show(report)
        quoted = shlex.quote(data)
        next_steps(
            f"softprompt train {quoted} --model M" if report.ok else f"mend the errors, then check {quoted} again"
        )
    if not report.ok:
        raise typer.Exit(1)


def show(report: "Report") -> None:
    """A report for people: what was inferred, the problems, and how many there are."""
    for text in report.dataset.notes if report.dataset else ():
        note(text)
    if report.problems:
        shown = report.problems[:SHOWN]
        table(
            ["where", "code", "found", "expected", "do"], [(p.where, p.code, p.found, p.expected, p.do) for p in shown]
        )
    if len(report.problems) > SHOWN:
        say(f"and {len(report.problems) - SHOWN:,} more (--json lists all)")
    errors = sum(problem.severity == "error" for problem in report.problems)
    say(f"{report.source}: {errors:,} errors, {len(report.problems) - errors:,} warnings")
    facts = report.as_dict()
    if report.dataset is not None:
        left = f", {facts['bad_rows']:,} more that are wrong" if facts["bad_rows"] else ""
        say(f"{facts['rows']:,} rows for {facts['kind']}{left}")
        if facts["counts"]:
            say(", ".join(f"{name} {count:,}" for name, count in facts["counts"].items()))
