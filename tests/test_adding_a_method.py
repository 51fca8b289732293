"""The page about adding a method is true: its code, taken out and installed beside us, is a method like the others."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_runs
import torch
from test_docs import ROOT, blocks

import softprompt
from softprompt import methods
from softprompt.artifact import Artifact
from softprompt.core import Example

PAGE = ROOT / "docs" / "adding-a-method.md"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder that holds what the page shows, as `pip install` would leave it."""
    found = blocks(PAGE)
    method, test = (code for kind, code in found if kind == "python")
    names = next(code for _, code in found if code.startswith("[project.entry-points."))
    facts = tmp_path / "polar_prompts-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: polar-prompts\nVersion: 1.0\n")
    head, *points = names.splitlines()
    assert head == '[project.entry-points."softprompt.methods"]'
    (facts / "entry_points.txt").write_text("[softprompt.methods]\n" + "\n".join(points).replace('"', ""))
    (tmp_path / "polar.py").write_text(method)
    (tmp_path / "test_polar.py").write_text(test)
    return tmp_path


@pytest.fixture
def installed(package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(package)
    methods.names.cache_clear()
    yield package
    sys.modules.pop("polar", None)
    methods.names.cache_clear()


@pytest.mark.parametrize("share", [False, True])
def test_the_method_of_the_page_trains_and_what_is_saved_answers_the_same(installed: Path, share: bool) -> None:
    model, losses = tiny_runs.open_model(installed), []
    settings = ("method.name=polar", f"method.options={{share: {str(share).lower()}}}", "train.epochs=4")
    result = softprompt.train(
        tiny_runs.recipe(installed, *settings),
        model=model,
        run_folder=installed / "run",
        listen=lambda e: losses.append(e["loss"]) if e["event"] == "dev" else None,
    )
    assert min(losses) < losses[0]
    loaded = Artifact.load(result.artifact)
    assert (loaded.card.method.name, loaded.card.method.trained_as) == ("prompt_tuning", "polar")
    prompt = loaded.tensors["method.prompt"]
    assert prompt.shape == (4, model.spec.hidden)
    sizes = prompt.norm(dim=1)
    assert torch.allclose(sizes, sizes[0].expand(4), rtol=1e-5) == share
    examples = [Example({"text": text}) for text in ("w12 w30 w31", "w70 w51 w60 w61", "w40")]
    served = loaded.bind(tiny_runs.open_model(installed)).predict(examples)
    for ours, theirs in zip(served, result.prompt.predict(examples), strict=True):
        assert ours.answer == theirs.answer
        assert ours.scores == pytest.approx(theirs.scores, abs=1e-5)


def test_the_common_suite_finds_it_and_it_passes_with_its_own_test(package: Path) -> None:
    suite = [str(ROOT / "tests" / "methods" / "test_common.py"), str(package / "test_polar.py")]
    command = [sys.executable, "-m", "pytest", "-n", "0", "-k", "polar", "-p", "no:cacheprovider", *suite]
    path = os.pathsep.join([str(package), str(ROOT)])
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    passed = int(done.stdout.rsplit(" passed", 1)[0].split()[-1])
    assert passed >= 3 + 6 * 10  # its own three, and about a dozen promises on six families
