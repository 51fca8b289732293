"""`softprompt graphrag` over real HTTP: it asks, scores, writes, goes on where it was stopped, and says what it did."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from graphrag.scripted import Model, corpus
from llm.fake import Fake, Handler, Server

from softprompt.cli import main

pytest.importorskip("openai")


@dataclass
class Graphs(Fake):
    """The server of the other tests, with the model that reads graphs behind it."""

    model: Model = field(default_factory=Model)
    lost: int = 0  # the number of a request from which on nothing is answered

    def fault(self, body: dict[str, Any]) -> str:
        """How an attempt fails: now and then, or for good."""
        kind = super().fault(body)
        return "401" if self.lost and self.calls >= self.lost else kind

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """A completion."""
        with self.lock:
            [made] = self.model.ask_all([body["messages"]], rollouts=[body.get("seed", 0)])
        message = {"role": "assistant", "content": made.text}
        told = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
        usage = {"prompt_tokens": made.tokens_in, "completion_tokens": made.tokens_out, "total_tokens": 0}
        return told | {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}


@contextmanager
def serving(**settings: Any) -> Iterator[Graphs]:
    fake = Graphs(**settings)
    server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"fake": fake}))
    fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()


def tune(root: Path, fake: Graphs, *more: str) -> int:
    return main(["graphrag", "tune", str(root), "--base-url", fake.url, "--model", "reader", *more])


def test_prompts_are_written_from_a_server_that_fails_now_and_then(tmp_path: Path, capsys: Any) -> None:
    root = corpus(tmp_path, 20, braces=True)
    with serving(faults=10) as fake:
        assert tune(root, fake) == 0
    said = capsys.readouterr()
    assert "better than the default" in said.out
    assert "extract_graph:" in said.err
    assert 'prompt: "prompts-tuned/extract_graph.txt"' in said.err
    out = root / "prompts-tuned"
    files = [str(out / name) for name in ("extract_graph.txt", "summarize_descriptions.txt")]
    assert main(["graphrag", "validate", *files, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["good"], told["files"][0]["examples"]) == (True, 5)


def test_a_run_that_was_stopped_goes_on_without_asking_again(tmp_path: Path, capsys: Any) -> None:
    root = corpus(tmp_path, 20)
    with serving(lost=20) as fake:
        assert tune(root, fake, "--calls", "120") == 2
        asked = fake.failed["none"]
        assert "SP-E733" in capsys.readouterr().err
        assert not (root / "prompts-tuned" / "manifest.json").exists()
        fake.lost, before = 0, fake.calls
        assert tune(root, fake, "--calls", "120", "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert fake.calls - before <= told["asked"]["calls"] - 18
    with serving() as fresh:
        other = corpus(tmp_path / "other", 20)
        assert tune(other, fresh, "--calls", "120", "--json") == 0
    assert json.loads(capsys.readouterr().out)["files"] == told["files"]
    assert asked >= 18


def test_a_dry_run_asks_nothing(tmp_path: Path, capsys: Any) -> None:
    root = corpus(tmp_path, 3)
    assert main(["graphrag", "tune", str(root), "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["examples"], told["held_out"], told["calls"]) == (2, 1, 8)
    assert told["default"] == {"name": "ours", "path": None}
    assert main(["graphrag", "tune", str(root), "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "cannot show a gain" in said
    assert "to beat: our default, since no settings name a prompt" in said
    assert not (root / "prompts-tuned").exists()


def test_the_prompt_that_the_settings_name_is_said_or_refused_in_one_line(tmp_path: Path, capsys: Any) -> None:
    corpus(tmp_path / "input", 3)
    (tmp_path / "settings.yaml").write_text("extract_graph: {prompt: mine.txt}\n")
    assert main(["graphrag", "tune", str(tmp_path), "--dry-run"]) == 2
    assert "SP-E833" in capsys.readouterr().err
    text = 'Entities of {input_text}: ("entity"<|>A<|>B<|>C)##<|COMPLETE|>'
    (tmp_path / "mine.txt").write_text(text)
    with serving() as fake:
        assert tune(tmp_path, fake, "--anyway") == 0
        assert f"to beat: {tmp_path / 'mine.txt'}" in capsys.readouterr().err
        assert tune(tmp_path, fake, "--force") == 0
        said = capsys.readouterr().out
        assert "removed, of an earlier run: community_report_graph.txt, extract_graph.txt" in said
        assert "your prompt stays as it is" in said
        (tmp_path / "prompts-tuned" / "extract_graph.txt").write_text("of the user")
        assert tune(tmp_path, fake, "--force", "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["removed"], told["left"]) == ([], ["extract_graph.txt"])
        assert told["default"] == {"name": "yours", "path": str(tmp_path / "mine.txt")}


def test_lightrag_is_told_how_to_load_its_file(tmp_path: Path, capsys: Any) -> None:
    root = corpus(tmp_path, 8)
    with serving(own_temperature=True, model=Model(good=lambda prompt: True)) as fake:
        assert tune(root, fake, "--for", "graphrag2", "--held-out", "2", "--samples", "1", "--no-temperature") == 0
        assert "no gain" in capsys.readouterr().out
        assert tune(root, fake, "--for", "nano", "--held-out", "0", "--anyway", "--out", str(root / "n")) == 2
        assert "--no-temperature" in capsys.readouterr().err
        fake.own_temperature = False
        assert tune(root, fake, "--for", "nano", "--held-out", "0", "--anyway", "--out", str(root / "n")) == 0
    said = capsys.readouterr().err
    assert "from nano_graphrag.prompt import PROMPTS" in said
    assert "nano_graphrag_prompts.json" in said


def test_validate_says_what_is_wrong_and_its_exit_code_is_1(tmp_path: Path, capsys: Any) -> None:
    bad = tmp_path / "extract_graph.txt"
    bad.write_text('{input_text} {"x": 1} <|> <|COMPLETE|>')
    assert main(["graphrag", "validate", str(bad)]) == 1
    said = capsys.readouterr()
    assert "does not fill" in said.out
    assert "next:" in said.err
    other = tmp_path / "local_search_system_prompt.txt"
    other.write_text("{context_data}")
    assert main(["graphrag", "validate", str(other)]) == 0
    assert "not checked" in capsys.readouterr().out
    assert main(["graphrag", "validate", str(tmp_path / "none.txt")]) == 2


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (["--for", "graphrag9"], "SP-E790"),
        (["--select", "best"], "SP-E790"),
        (["--types", " , "], "SP-E799"),
        (["--types", "ship,a:b"], "SP-E799"),
        (["--types", "3d model"], "SP-E799"),
        (["--base-url", "localhost", "-m", "x"], "SP-E799"),
        ([], "SP-E799"),
        (["--overlap", "1200"], "SP-E791"),
        (["--key", "NO_SUCH_VARIABLE", "-m", "x"], "SP-E731"),
        (["--calls", "3", "-m", "x"], "SP-E796"),
        (["--against", "none.txt", "-m", "x"], "SP-E308"),
    ],
)
def test_a_wrong_option_is_an_error_that_says_what_to_do(
    more: list[str], code: str, tmp_path: Path, capsys: Any
) -> None:
    root = corpus(tmp_path, 3)
    assert main(["graphrag", "tune", str(root), *more]) == 2
    assert code in capsys.readouterr().err
    assert not (root / "prompts-tuned").exists()


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path, capsys: Any) -> None:
    assert main(["graphrag", "tune", str(tmp_path / "none")]) == 2
    assert "SP-E791" in capsys.readouterr().err
