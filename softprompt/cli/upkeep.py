"""`softprompt store verify`, `repair`, `gc`, `export`, `import`, `push` and `pull`."""

import shlex
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from softprompt.cli.options import AsJson
from softprompt.cli.output import document, next_steps, note, say, size, table
from softprompt.cli.store import Folder, app, opened

if TYPE_CHECKING:
    from softprompt.store.transfer import Merged

Chosen = Annotated[
    list[str] | None, typer.Argument(help="NAME, NAME@VERSION or NAME@ALIAS; everything if none.", metavar="[REF]...")
]
Url = Annotated[str, typer.Argument(help="A folder, or a URL of fsspec: s3://, hf://, file://...", metavar="URL")]
Aliases = Annotated[bool, typer.Option("--aliases", help="Also move aliases that point elsewhere there.")]


@app.command("verify")
def verify(store: Folder = None, as_json: AsJson = False) -> None:
    """Check every file and the index.

    Exit code 1 where a file does not match its SHA-256, or SQLite finds the index damaged.
    """
    from softprompt.store.upkeep import verify as examine

    place = opened(store)
    found = examine(place)
    if as_json:
        problems = [problem._asdict() for problem in found.problems]
        document({"store": str(place.folder), "contents": found.contents, "problems": problems, "index": found.damage})
    else:
        rows = [[", ".join(p.references), p.state, str(place.blobs.path(p.sha256))] for p in found.problems]
        if rows:
            table(["prompt", "state", "file"], rows)
        for text in found.damage:
            say(f"index: {text}")
        say(f"{place.folder}: {found.contents:,} files checked, {len(rows) + len(found.damage):,} problems")
        mend = "softprompt store pull URL --store DIR, or put back a copy of the folder"
        good = mend if found.damage else "softprompt store ls"
        next_steps("softprompt store repair --from FOLDER|URL" if rows else good)
    if found.problems or found.damage:
        raise typer.Exit(1)


@app.command("repair")
def repair(
    sources: Annotated[
        list[str] | None,
        typer.Option("--from", help="A file, a folder, another store or a URL that may have copies; repeatable."),
    ] = None,
    store: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Restore damaged files from copies.

    Copies are looked for where a prompt was published from, then in --from. Exit code 1 where some have none.
    """
    from softprompt.store.upkeep import repair as mend

    done = mend(opened(store), sources or ())
    if as_json:
        restored = [problem._asdict() | {"from": where} for problem, where in done.restored]
        lost = [problem._asdict() for problem in done.lost]
        document({"restored": restored, "lost": lost, "set_aside": [str(path) for path in done.set_aside]})
    else:
        for problem, where in done.restored:
            say(f"{', '.join(problem.references)}: restored from {where}")
        for problem in done.lost:
            say(f"{', '.join(problem.references)}: {problem.state}, and no copy was found")
        for path in done.set_aside:
            note(f"set aside: {path}")
        say(f"{len(done.restored):,} restored, {len(done.lost):,} without a copy")
        again = f"softprompt store rm {done.lost[0].references[0]}" if done.lost else "softprompt store verify"
        next_steps(*["softprompt store repair --from FOLDER|URL"] * bool(done.lost), again)
    if done.lost:
        raise typer.Exit(1)


@app.command("gc")
def gc(
    older: Annotated[
        float, typer.Option(min=0, max=1e6, help="Spare what was removed or written in so many hours.")
    ] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    store: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Delete files that no version needs."""
    from softprompt.store.upkeep import gc as collect

    found = collect(opened(store), timedelta(hours=older), dry_run=dry_run)
    if as_json:
        document(found._asdict() | {"dry_run": dry_run})
        return
    say(f"{len(found.contents):,} files, {size(found.size)}{' would go' if dry_run else ' deleted'}")
    next_steps("softprompt store gc" if dry_run else "softprompt store verify")


@app.command("export")
def export(
    target: Annotated[str, typer.Argument(help="A folder; or a .safetensors file, for one prompt.", metavar="TO")],
    prompts: Chosen = None,
    store: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Copy prompts into a folder or a file."""
    from softprompt.errors import RecipeError
    from softprompt.store.transfer import export_file, push

    place, wanted = opened(store), prompts or []
    if not target.endswith(".safetensors"):
        report(push(place, target, wanted), target, as_json, f"softprompt store import {shlex.quote(target)}")
        return
    if len(wanted) != 1:
        do = f"softprompt store export {shlex.quote(target)} NAME@VERSION"
        raise RecipeError("SP-E252", f"{len(wanted)} prompts for one file", "one", do)
    export_file(place, target, wanted[0])
    if as_json:
        document({"prompt": target, "reference": place.resolve(wanted[0]).reference})
        return
    say(f"{target}: {place.resolve(wanted[0]).reference}")
    next_steps(f"softprompt show {shlex.quote(target)}")


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="A folder that `export` wrote.", metavar="FROM")],
    prompts: Chosen = None,
    aliases: Aliases = False,
    store: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Add the prompts of an exported folder."""
    fetch(source, prompts, aliases, store, as_json)


@app.command("push")
def push(
    url: Url,
    prompts: Chosen = None,
    aliases: Aliases = False,
    store: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Add prompts to a store elsewhere."""
    from softprompt.store.transfer import push as send

    done = send(opened(store), url, prompts or (), aliases=aliases)
    report(done, url, as_json, f"softprompt store pull {shlex.quote(url)}")


@app.command("pull")
def pull(
    url: Url,
    prompts: Chosen = None,
    aliases: Aliases = False,
    store: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Add prompts from a store elsewhere."""
    fetch(url, prompts, aliases, store, as_json)


def fetch(url: str, prompts: list[str] | None, aliases: bool, store: str | None, as_json: bool) -> None:
    """Pull, and say what came."""
    from softprompt.store.transfer import pull as get

    place = opened(store)
    report(get(place, url, prompts or (), aliases=aliases), str(place.folder), as_json, "softprompt store ls")


def report(done: "Merged", place: str, as_json: bool, after: str) -> None:
    """What a merge did."""
    if as_json:
        document({"to": place} | vars(done))
        return
    say(f"{place}: {len(done.added):,} versions added, {done.known:,} there already")
    for before, now in done.renumbered.items():
        note(f"{before} is {now} there")
    for reference in done.removed:
        note(f"{reference} was removed there and is not taken back; `softprompt store restore {reference}` does that")
    if done.aliases:
        say(f"aliases set: {', '.join(done.aliases)}")
    if done.kept:
        note(f"aliases left as they are: {', '.join(done.kept)}; --aliases moves them")
    next_steps(after)


__all__ = ["app"]  # of `softprompt store`, with the commands above
