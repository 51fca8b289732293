"""What to do after a transfer: the next commands, with the options that were given, so that they work when pasted."""

import shlex
from pathlib import Path

from softprompt.cli.output import next_steps
from softprompt.cli.store import opened


def finished(prompt: Path, parents: list[str], store: str | None) -> None:
    """What to do with the prompt that is kept; `parents` are references of what it was made from."""
    of = [part for one in parents for part in ("--parent", f"transfer={one}")]
    publish = ["softprompt", "store", "publish", str(prompt), "NAME", *of, *given(store=store)]
    next_steps(shlex.join(["softprompt", "evaluate", str(prompt), "DATA"]), shlex.join(publish))


def parents(sources: list[str], store: str | None) -> list[str]:
    """Those of some sources that are versions in the store, by number: an alias may mean another one tomorrow."""
    from softprompt.store import is_reference

    named = [text for text in sources if is_reference(text) and not Path(text).exists()]
    return [opened(store).resolve(text.removeprefix("store:")).reference for text in named]


def given(model: str | None = None, settings: list[str] | None = None, store: str | None = None) -> list[str]:
    """Options of a command, for the next one."""
    made = ["--model", model] if model else []
    made += [part for one in settings or [] for part in ("--set", one)]
    return [*made, "--store", store] if store else made
