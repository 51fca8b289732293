"""Two processes that train one prompt, started as a user starts them: what the tests of several ranks share."""

import json
import os
import subprocess
import sys
from pathlib import Path

from torch import Tensor

from softprompt.artifact import Artifact

# `--cpu` starts no second process without MPI; several processes on CPUs are what it calls multi_gpu.
LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1")
PLAIN = ("--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0")
HERE = Path(__file__).parents[1]


def launched(*line: str) -> subprocess.CompletedProcess[str]:
    """A script or `-m module`, with its arguments, on two ranks."""
    environment = os.environ | {"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, *LAUNCH, *PLAIN, *line]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)


def steps(folder: Path) -> list[dict[str, float]]:
    """What a run logged of its steps."""
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == "step"]


def tensors(folder: Path) -> dict[str, Tensor]:
    """What a run trained."""
    return Artifact.load(folder / "prompt.safetensors").tensors
