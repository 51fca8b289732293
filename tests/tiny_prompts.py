"""Valid prompt files without a model: what the tests and the benchmark of the store publish."""

from pathlib import Path
from typing import Any

import torch

from softprompt.artifact import Artifact, BackboneCard, Card, HeadCard, MethodCard, TaskCard, TemplateCard


def artifact(seed: int, *, accuracy: float = 0.5, method: str = "prompt_tuning", parents: tuple[str, ...] = ()) -> Any:
    """A prompt of two vectors of width 8; other seeds are other contents."""
    scores = [
        {"name": "accuracy", "value": accuracy, "error": 0.05, "n": 100},
        {"name": "mcc", "value": accuracy - 0.1},
    ]
    card = Card(
        method=MethodCard(name=method, length=2),
        head=HeadCard(name="verbalizer", options={"words": [[5], [6]]}),
        template=TemplateCard(text="{soft}{text} It was {mask}", hash="0" * 64),
        backbone=BackboneCard(
            name="llama", family="llama", kind="causal", hidden=8, layers=2, dtype="float32",
            fingerprint="1" * 64, tokenizer="2" * 64,
        ),
        task=TaskCard(kind="classification", labels=("bad", "good")),
        report={"metric": "accuracy", "scores": scores},
        recipe={"optim": {"lr": 0.3}},
        parents=parents,
    )  # fmt: skip
    values = torch.randn(2, 8, generator=torch.Generator().manual_seed(seed))
    return Artifact({"method.prompt": values}, card)


def write(folder: Path, seed: int, **options: Any) -> Path:
    """The file of `artifact`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"prompt-{seed}.safetensors"
    artifact(seed, **options).save(path)
    return path
