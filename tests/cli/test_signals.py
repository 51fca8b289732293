"""A run that is told to stop saves, says how to go on, and goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN = "from softprompt.cli import main; import sys; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_exits_with_its_signal_and_can_be_resumed(sp, workplace, number, code):
    folder = f"stopped-{code}"
    settings = ["train.steps=600", "train.save_seconds=0.01", "train.evaluate_every=300", "method.length=4"]
    line = ["train", "train.csv", "--model", "llama", "--run", folder]
    line += [part for setting in [*settings, "train.threads=1"] for part in ("--set", setting)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    child = subprocess.Popen(
        [sys.executable, "-c", RUN, *line], cwd=workplace, env=environment, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list((workplace / folder).glob("states/*.sp")) and child.poll() is None:
        assert time.monotonic() < deadline, "no state was saved"
        time.sleep(0.01)
    child.send_signal(number)
    errors = child.communicate(timeout=60)[1]
    assert child.returncode == code, errors
    assert f"next: softprompt resume {folder}" in errors
    assert "Traceback" not in errors
    assert not (workplace / folder / "prompt.safetensors").exists()
    answer = sp("resume", folder, "--json")
    assert answer.code == 0
    assert (workplace / answer.json["prompt"]).is_file()
    assert len((workplace / folder / "log.jsonl").read_text().splitlines()) == 603
