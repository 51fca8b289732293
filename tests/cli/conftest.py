"""A trained prompt, made once by the command line, and a way to run commands inside the test process."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny_runs

from softprompt.cli import main


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def sp(capsys, workplace, monkeypatch):
    """`sp("show", "prompt.safetensors")` runs a command in the workplace."""
    monkeypatch.chdir(workplace)

    def run(*arguments: str, text: str | None = None) -> Answer:
        if text is not None:
            (workplace / "stdin.txt").write_bytes(text.encode())
            monkeypatch.setattr("sys.stdin", (workplace / "stdin.txt").open(encoding="utf-8"))
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Answer(code, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def workplace(tmp_path_factory) -> Path:
    """A folder with tiny models and data."""
    folder = tmp_path_factory.mktemp("cli")
    for name in ("llama", "bert"):
        tiny_runs.save_model(folder, name)
    tiny_runs.write_rows(folder / "train.csv", 40)
    tiny_runs.write_rows(folder / "test.csv", 20, seed=1)
    return folder


SHORT = ("--epochs", "2", "--set", "method.length=4", "--set", "train.threads=1", "--test", "test.csv")


@pytest.fixture(scope="session")
def prompt(workplace) -> str:
    """The file of a trained prompt for the llama, relative to the workplace."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        assert main(["train", "train.csv", "--model", "llama", "--run", "made", *SHORT]) == 0
    return "made/prompt.safetensors"
