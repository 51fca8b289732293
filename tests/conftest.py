"""Every test starts from the same seed, on one thread, without a network and without chatter."""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent))  # `from families import ...`, however pytest imports this folder

import pytest
import torch

torch.set_num_threads(1)

# Minutes each.
FIRST = (
    "test_docs.py",
    "test_bench.py",
    "test_ray.py",
    "test_replicas.py",
    "test_ranks.py",
    "test_sharded.py",
    "test_end_to_end.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: a file runs on one worker, and the last one must not keep the other waiting."""
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
