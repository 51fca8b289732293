"""`softprompt store`: prompts under names, with versions and aliases."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.cli.options import AsJson
from softprompt.cli.output import document, next_steps, note, say, size, table

if TYPE_CHECKING:
    from softprompt.store import Entry, Store

app = typer.Typer(help="Keep prompts under names, with versions and aliases.")
SHOWN = 100  # rows of a table; --json has all

Folder = Annotated[
    str | None,
    typer.Option("--store", help="Folder of the store.  [default: $SOFTPROMPT_STORE or ~/.softprompt/store]"),
]
One = Annotated[str, typer.Argument(help="NAME, NAME@VERSION or NAME@ALIAS.", metavar="REF", show_default=False)]


def opened(folder: str | None) -> "Store":
    """The store that a command is about."""
    from softprompt.store import Store

    return Store(folder)


@app.command("ls")
def ls(
    text: Annotated[str, typer.Argument(help="Words that name, note or card must have.", show_default=False)] = "",
    where: Annotated[
        list[str] | None,
        typer.Option(help="A metric or a key of the card, as in accuracy>=0.9 or method.name=prefix; repeatable."),
    ] = None,
    parent: Annotated[str | None, typer.Option(help="Only what was made from this prompt.", metavar="REF")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every version, not only the newest.")] = False,
    removed: Annotated[bool, typer.Option("--removed", help="What was removed.")] = False,
    store: Folder = None,
    as_json: AsJson = False,
) -> None:
    """List and search prompts."""
    place = opened(store)
    found = place.list(text, where=where or (), parent=parent, every=every, removed=removed)
    if as_json:
        document({"store": str(place.folder), "prompts": [facts(entry) for entry in found]})
        return
    show_entries(found)
    if found:
        verb = "restore" if removed else "show"
        next_steps(f"softprompt store {verb} {found[0].reference}")
    elif text or where or parent or removed:
        note("nothing like that")
        next_steps("softprompt store ls")
    else:
        note(f"{place.folder}: no prompts yet")
        next_steps("softprompt store publish RUN NAME")


def show_entries(found: "list[Entry]") -> None:
    """Versions as a table."""
    if not found:
        return
    header = ["prompt", "aliases", "task", "method", "backbone", "score", "size", "published"]
    table(header, [line(entry) for entry in found[:SHOWN]])
    if len(found) > SHOWN:
        say(f"and {len(found) - SHOWN:,} more (--json lists all)")


def line(entry: "Entry") -> list[str]:
    """A version as a row of the table."""
    names = ", ".join(entry.aliases)
    what = [entry.reference, names, entry.task, entry.method, entry.backbone]
    return [*what, score(entry), size(entry.size), entry.removed or entry.created]


def score(entry: "Entry") -> str:
    """The deciding metric, as its card reports it."""
    if entry.value is None:
        return ""
    error = "" if entry.error is None else f" ±{entry.error:.3f}"
    return f"{entry.metric} {entry.value:.3f}{error}{'' if entry.n is None else f' (n={entry.n})'}"


def facts(entry: "Entry") -> dict[str, Any]:
    """A version for programs."""
    return {"reference": entry.reference} | entry._asdict()


@app.command("show")
def show(prompt: One, store: Folder = None, as_json: AsJson = False) -> None:
    """Print the card and lineage of a version."""
    from softprompt.cli.inspect import show_card

    place = opened(store)
    entry = place.resolve(prompt)
    artifact = place.load(entry.reference)
    parents, children = place.family(entry.reference)
    versions = [one for one in place.list(every=True) if one.name == entry.name]
    if as_json:
        made = {"parents": [one._asdict() for one in parents], "children": [one.reference for one in children]}
        card = artifact.card.model_dump(mode="json")
        document(
            facts(entry) | {"path": artifact.where, "versions": [one.version for one in versions], "card": card} | made
        )
        return
    say(f"prompt    {entry.reference}: {size(entry.size)}, published {entry.created}")
    say(f"versions  {', '.join(f'{one.version}{pointed(one)}' for one in versions)}")
    say(f"sha256    {entry.sha256}")
    for text in [entry.note] if entry.note else []:
        say(f"note      {text}")
    for parent in parents:
        say(f"from      {parent.label} ({parent.relation})")
    if children:
        say(f"made into {', '.join(one.reference for one in children)}")
    show_card(artifact.card)
    next_steps(f"softprompt predict {entry.reference} FILE --model M", f"softprompt store alias {entry.reference} prod")


def pointed(entry: "Entry") -> str:
    """The aliases of a version, in brackets."""
    return f" ({', '.join(entry.aliases)})" if entry.aliases else ""


@app.command("publish")
def publish(
    source: Annotated[str, typer.Argument(help="A prompt file, or the folder of a run.", metavar="RUN|FILE")],
    name: Annotated[str, typer.Argument(help="a-z 0-9 . _ -, at most 64.", metavar="NAME")],
    alias: Annotated[list[str] | None, typer.Option(help="Point this alias to it; repeatable.")] = None,
    parent: Annotated[
        list[str] | None,
        typer.Option(help="What it was made from; transfer=REF, compression=REF, or REF for a warm start; repeatable."),
    ] = None,
    remark: Annotated[str, typer.Option("--note", help="A line to find it by.")] = "",
    store: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Keep a prompt as the next version of a name."""
    place = opened(store)
    entry, new = place.publish(source, name, aliases=alias or (), parents=parent or (), note=remark)
    adapter, called = below(source)
    if as_json:
        document({"store": str(place.folder), "new": new, "adapter": adapter} | facts(entry))
        return
    say(f"{entry.reference}{pointed(entry)}: {'published' if new else 'this content was there already'}")
    if adapter:
        say(f"not in the store: {adapter}, the LoRA adapter that the prompt needs; keep that folder")
        say(f"commands look for it as {called!r} in the folder where they are run, and refuse the prompt without it")
    next_steps(
        f"softprompt predict {entry.reference} FILE --model M",
        f"softprompt store alias {entry.reference} prod",
        f"softprompt store show {entry.reference}",
    )


def below(source: str) -> tuple[str | None, str | None]:
    """The LoRA adapter that a prompt stands on, which no store keeps: where it is now, and what its card calls it."""
    from softprompt.artifact import Artifact
    from softprompt.cli.load import ran

    artifact = Artifact.load(Path(source) / "prompt.safetensors" if Path(source).is_dir() else source)
    run = ran(artifact) if artifact.adapter else None
    return (run.adapter if run else None) or artifact.adapter, artifact.adapter


@app.command("alias")
def alias(
    prompt: One,
    name: Annotated[str | None, typer.Argument(help="The alias, such as prod.", metavar="ALIAS")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Take away the alias of NAME@ALIAS.")] = False,
    store: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Point an alias to a version."""
    from softprompt.errors import RecipeError

    if delete == bool(name):
        found = "both an alias and --delete" if delete else "no alias"
        do = "softprompt store alias REF ALIAS, or softprompt store alias NAME@ALIAS --delete"
        raise RecipeError("SP-E252", found, "one of both", do)
    place = opened(store)
    entry = place.alias(prompt, name) if name else place.unalias(prompt)
    if as_json:
        document(facts(entry))
        return
    say(f"{entry.name}@{name} is {entry.reference}" if name else f"{prompt} is gone; it was {entry.reference}")
    shown = f"{entry.name}@{name}" if name else entry.reference
    next_steps(
        f"softprompt predict {shown} FILE --model M", f"softprompt store rollback {entry.name}@{name or 'ALIAS'}"
    )


@app.command("rollback")
def rollback(
    prompt: Annotated[str, typer.Argument(help="NAME@ALIAS.", metavar="REF")],
    store: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Point an alias to where it was before."""
    entry = opened(store).rollback(prompt)
    if as_json:
        document(facts(entry))
        return
    say(f"{prompt} is {entry.reference} again")
    next_steps(f"softprompt store show {entry.reference}")


@app.command("rm")
def rm(prompt: One, store: Folder = None, as_json: AsJson = False) -> None:
    """Remove a version or a name.

    It leaves a tombstone: the number is not used again, and `restore` takes it back until `gc`.
    """
    gone = opened(store).remove(prompt)
    if as_json:
        document({"removed": [entry.reference for entry in gone]})
        return
    say(f"removed {', '.join(entry.reference for entry in gone)}")
    next_steps(f"softprompt store restore {gone[-1].reference}", "softprompt store gc")


@app.command("restore")
def restore(prompt: One, store: Folder = None, as_json: AsJson = False) -> None:
    """Take back the removal of a version."""
    entry = opened(store).restore(prompt)
    if as_json:
        document(facts(entry))
        return
    say(f"{entry.reference} is back")
    next_steps(shlex.join(["softprompt", "store", "show", entry.reference]))
