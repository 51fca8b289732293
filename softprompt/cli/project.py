"""`softprompt transfer project`: a prompt moved to another backbone, and what it is worth there."""

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from softprompt.cli.options import AsJson
from softprompt.cli.output import document, next_steps, say, table
from softprompt.cli.store import Folder
from softprompt.cli.transfer import Settings, aimed, chosen, gathered
from softprompt.errors import SoftpromptError

if TYPE_CHECKING:
    from softprompt.transfer.project import Projected


def project(
    prompt: Annotated[str, typer.Argument(help="A prompt file, a run or NAME@ALIAS.", metavar="PROMPT")],
    to: Annotated[str, typer.Option(help="The other backbone: folder, hub name, or one that comes with us.")],
    data: Annotated[str, typer.Option(help="Labelled data of the prompt's task, to check on.", metavar="DATA")],
    pairs: Annotated[
        list[str],
        typer.Option(
            "--pair", help="Another task's prompts, on the old and on the new backbone; repeatable.", metavar="OLD,NEW"
        ),
    ],
    store: Folder = None,
    settings: Settings = None,
    run: Annotated[str | None, typer.Option("--run", help="Folder for the moved prompt.")] = None,
    as_json: AsJson = False,
) -> None:
    """Move a prompt to another backbone, by what prompts of other tasks teach."""
    from softprompt.transfer.project import project as begin

    split = [pair.split(",") for pair in pairs]
    wrong = next((text for text, parts in zip(pairs, split, strict=True) if len(parts) != 2 or not all(parts)), None)
    if wrong is not None:
        raise SoftpromptError("SP-E710", f"--pair {wrong}", "OLD,NEW", "name a prompt on each backbone")
    sources = gathered([prompt, *(part for parts in split for part in parts)], store)
    couples = list(zip(sources[1::2], sources[2::2], strict=True))
    recipe = aimed(data, to, settings, [])
    folder = chosen(run, data, "project")
    made = begin(recipe, sources[0], couples, folder)
    if as_json:
        document(made.as_dict() | {"run": str(folder)})
        return
    show(made)
    next_steps(shlex.join(["softprompt", "transfer", "run", data, "--from", str(made.path), "--model", to]))


def show(made: "Projected") -> None:
    """The moved prompt beside its controls, and what was learned from the pairs."""
    found = made.measured
    rows = [["moved prompt", f"{found.loss:.3f}", "", accuracy(made, "prompt")]]
    for name, gain in found.gains.items():
        ahead = f"{gain.difference:+.3f} ±{gain.error:.3f}"
        rows.append([name, f"{found.beside[name]:.3f}", ahead, accuracy(made, name)])
    if found.scores:
        rows.append(["majority", "-", "-", accuracy(made, "majority")])
    table(["on dev", "loss", "moved prompt loses less by", "score"], rows)
    share = f"{made.projector.explained:+.0%}"
    say(f"{made.pairs} pairs; of a task that was left out, the projector explains {share} of what their mean leaves")
    say(made.sentence)


def accuracy(made: "Projected", name: str) -> str:
    """A score on dev in a cell."""
    one = made.measured.scores.get(name)
    return "-" if one is None else f"{one.name} {one.value:.3f} ±{one.error:.3f}"
