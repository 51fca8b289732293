"""How prompts in a store are named: `sentiment`, `sentiment@3`, `sentiment@prod`. Checked here, and nowhere else."""

import re
from dataclasses import dataclass

from softprompt.errors import SoftpromptError

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
ALIAS = re.compile(r"[a-z][a-z0-9._-]{0,63}")  # of digits alone it would be a version
VERSION = re.compile(r"[1-9][0-9]{0,8}")
LATEST = "latest"  # what a name alone means; nobody may set it
PREFIX = "store:"


@dataclass(frozen=True)
class Reference:
    """A name, with a version or an alias; with neither it means the newest version."""

    name: str
    version: int | None = None
    alias: str | None = None

    def __str__(self) -> str:
        tail = self.alias if self.version is None else str(self.version)
        return self.name if tail is None else f"{self.name}@{tail}"


def parse(text: str) -> Reference:
    """The reference of `name`, `name@3`, `name@alias` or `name@latest`, with or without `store:` before it.

    Raises `SoftpromptError` SP-E611 for anything else.
    """
    name, at, tail = text.removeprefix(PREFIX).partition("@")
    check_name(name)
    if not at or tail == LATEST:
        return Reference(name)
    if VERSION.fullmatch(tail):
        return Reference(name, version=int(tail))
    if not ALIAS.fullmatch(tail):
        found, expected = (
            f"{_short(tail)} after the @",
            "a version (1, 2, 3...) or an alias, which begins with a letter",
        )
        raise SoftpromptError("SP-E611", found, expected, "write it as sentiment@3 or sentiment@prod")
    return Reference(name, alias=tail)


def check_name(name: str) -> str:
    """The name as it is; raises `SoftpromptError` SP-E611 for one that no prompt can have."""
    if not NAME.fullmatch(name):
        expected = "1 to 64 of a-z 0-9 . _ -, the first a letter or a digit"
        raise SoftpromptError("SP-E611", f"the name {_short(name)}", expected, "write it as sentiment or sentiment-v2")
    return name


def check_alias(alias: str) -> str:
    """The alias as it is; raises `SoftpromptError` SP-E611 for one that cannot be set."""
    if alias == LATEST or not ALIAS.fullmatch(alias):
        expected = f"1 to 64 of a-z 0-9 . _ -, the first a letter, and not {LATEST!r}"
        raise SoftpromptError("SP-E611", f"the alias {_short(alias)}", expected, "choose another one, such as prod")
    return alias


def is_reference(text: str) -> bool:
    """Whether a text that could also be a path is meant for the store: `store:...`, or `name@...` without a folder."""
    return text.startswith(PREFIX) or ("@" in text and NAME.fullmatch(text.partition("@")[0]) is not None)


def _short(text: str) -> str:
    """At most 40 characters, quoted: it may come from anywhere."""
    return repr(text if len(text) <= 40 else text[:37] + "...")
