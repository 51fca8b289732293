"""A transfer that is killed at any moment and repeated ends with the same bits as one that nobody disturbed."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from softprompt.run import Stopped
from softprompt.transfer.run import transfer

SAVING = ("train.save_seconds=1e-6",)


def kill_at(path: Path, kind: str, step: int):
    """A listener that kills its own process, as the system would, in the middle of `kind` at a step."""

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == kind and event.get("step") == step and "member" not in event:
            os.kill(os.getpid(), signal.SIGKILL)

    return listen


def bits(folder: Path) -> dict[str, bytes]:
    names = ("suggest/probe", "runs/scratch", "runs/from-near")
    return {name: (folder / name / "prompt.safetensors").read_bytes() for name in names}


@pytest.fixture(scope="module")
def whole(bench, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    transfer(bench.recipe(*SAVING), bench.sources("near", "far"), folder, top_k=1, backbone=bench.backbone)
    return folder


@pytest.mark.parametrize(("kind", "step"), [("step", 1), ("pass", 3)])
def test_killed_in_the_probe_or_in_the_pass_it_goes_on_to_the_same_bits(bench, whole, tmp_path, kind, step) -> None:
    given = (bench.recipe(*SAVING), bench.sources("near", "far"), tmp_path)
    child = os.fork()
    if not child:
        try:
            transfer(*given, top_k=1, backbone=bench.backbone, listen=kill_at(tmp_path, kind, step))
        finally:
            os._exit(99)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "it ended before it could be killed"
    assert not (tmp_path / "transfer.json").exists()
    made = transfer(*given, top_k=1, backbone=bench.backbone)
    assert bits(tmp_path) == bits(whole)
    before = json.loads((whole / "transfer.json").read_text())
    assert made.as_dict()["paired_test"] == before["paired_test"]


def test_told_to_stop_it_saves_and_goes_on(bench, whole, tmp_path) -> None:
    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "pass" and event["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    given = (bench.recipe(*SAVING), bench.sources("near", "far"), tmp_path)
    with pytest.raises(Stopped) as stopped:
        transfer(*given, top_k=1, backbone=bench.backbone, listen=stop)
    assert stopped.value.code == 143
    transfer(*given, top_k=1, backbone=bench.backbone)
    assert bits(tmp_path) == bits(whole)
