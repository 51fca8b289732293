"""Pretrain a backbone of the package from text: tokenizer, weights, curve and card. Stop it at any time and repeat.

    python -m scripts.pretrain.train --size tiny --data ../shared/data --extra EXTRA --out runs/pretrain-tiny

Runs on CPU cores or a GPU, in mixed bfloat16. The hidden matrices are trained by Muon (Jordan et al. 2024;
torch.optim.Muon), embeddings and norms by AdamW; the rate is constant after a warm-up and falls to zero over the last
third. `--start` goes on from finished weights; `--teach` adds lessons of an encoder (teacher.py) to every step.
"""

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Muon, Optimizer
from transformers import LlamaForCausalLM

from scripts.pretrain.batches import Rows, steps
from scripts.pretrain.corpus import build
from scripts.pretrain.measure import measure
from scripts.pretrain.sizes import SIZES
from scripts.pretrain.teacher import Tongue, lessons, teach

WARMUP, DECAY = 0.02, 0.35  # shares of the steps
LESSON = 0.4  # positions of a lesson, as a share of the step's
SHORT = 160  # tokens up to which plain attention beats the fused kernel on a CPU (its backward pass: by a quarter)


@dataclass(frozen=True)
class Settings:
    """Everything that decides the result."""

    size: str
    tokens: int  # positions computed in the whole training, padding included
    batch: int = 8192  # positions of a step
    lr: float = 4e-3
    seed: int = 0
    teach: float = 0.0  # weight of the encoder's lessons beside the mean loss of a token; 0: none
    start: str = ""  # SHA-256 of the weights that it begins with; empty: random ones

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return self.tokens // self.batch


def train(
    settings: Settings, data: Path, extra: Path, out: Path, device: torch.device, start: Path | None = None
) -> LlamaForCausalLM:
    """The trained model; states, curve and corpus are kept in `out`, and a run that was stopped goes on from them."""
    size = SIZES[settings.size]
    tokenizer, parts = build(
        out / "corpus", data, extra, vocabulary=size.vocabulary, context=size.context, seed=settings.seed
    )
    torch.manual_seed(settings.seed)
    config = size.config(tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    model = LlamaForCausalLM(config).to(device)
    if start:
        check_tokenizer(start, out / "corpus" / "tokenizer")
        model.load_state_dict(LlamaForCausalLM.from_pretrained(str(start), dtype=torch.float32).state_dict())
    learner = nn.ModuleDict({"model": model, "tongue": Tongue(size.hidden).to(device)})
    optimizers = make_optimizers(learner, settings.lr)
    state = load_state(out, settings, learner, optimizers)
    losses = Losses(torch.compile(loss, dynamic=False), torch.compile(lesson_loss, dynamic=False), settings.teach)
    feed = steps(parts["train"], settings.batch, settings.seed, state["step"])
    taught = teach(out / "corpus", tokenizer, data, extra, settings.seed) if settings.teach else None
    lesson = lessons(taught, int(settings.batch * LESSON), settings.seed, state["step"]) if taught else None
    began, saved = time.monotonic() - state["seconds"], time.monotonic()
    running: list[tuple[float, float]] = []
    while state["step"] < settings.steps:
        running.append(
            step(learner, optimizers, next(feed), next(lesson) if lesson else None, settings, state["step"], losses)
        )
        state["step"] += 1
        state["seconds"] = time.monotonic() - began
        last = state["step"] == settings.steps
        if state["step"] % 100 == 0 or last:
            means = [sum(values) / len(running) for values in zip(*running, strict=True)]
            note(out, state, settings, loss=means[0], **({"lesson": means[1]} if lesson else {}))
            running = []
        if state["step"] % 1000 == 0 or last:
            note(out, state, settings, **measure(model, parts["held-out"], settings.batch, brief=not last))
        if time.monotonic() - saved > 120 or last:
            save_state(out, settings, state, learner, optimizers)
            saved = time.monotonic()
    return model


def check_tokenizer(start: Path, mine: Path) -> None:
    """Refuse weights that were trained with other tokens; they would load, and every word would be another one."""
    first, second = ((folder / "tokenizer.json").read_bytes() for folder in (start, mine))
    if first != second:
        raise SystemExit(f"the tokenizer in {start} is not that of the corpus in {mine}: start from weights made of it")


@dataclass(frozen=True)
class Losses:
    """The compiled losses, and what the lesson's weighs."""

    text: Callable[..., Tensor]
    lesson: Callable[..., Tensor]
    weight: float


def loss(model: nn.Module, ids: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """The mean cross-entropy, each prediction by its weight."""
    hidden = model.model(ids).last_hidden_state  # type: ignore[union-attr, operator]
    logits = model.lm_head(hidden).float()  # type: ignore[operator]
    each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return (each * weights.flatten()).sum() / weights.sum()


def lesson_loss(learner: nn.ModuleDict, ids: Tensor, ends: Tensor, wanted: Tensor) -> Tensor:
    """How far the model's states are from naming what the encoder says of texts."""
    states = learner["model"].model(ids).last_hidden_state  # type: ignore[union-attr, operator]
    found: Tensor = learner["tongue"](states, ids, ends, wanted)
    return found


def step(
    learner: nn.ModuleDict,
    optimizers: list[Optimizer],
    rows: Rows,
    lesson: tuple[Tensor, ...] | None,
    settings: Settings,
    number: int,
    losses: Losses,
) -> tuple[float, float]:
    """One update of every weight; returns the loss on text and on the lesson."""
    model = learner["model"]
    device = next(model.parameters()).device
    share = factor(number, settings.steps)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * share
        optimizer.zero_grad(set_to_none=True)
    attend(model, rows.ids, device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        made = losses.text(model, rows.ids.to(device), rows.labels.to(device), rows.weights.to(device))
    made.backward()  # type: ignore[no-untyped-call]
    taught = torch.zeros(())
    if lesson:
        attend(model, lesson[0], device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            taught = losses.lesson(learner, *(part.to(device) for part in lesson))
        (losses.weight * taught).backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return made.item(), taught.item()


def attend(model: nn.Module, ids: Tensor, device: torch.device) -> None:
    """Choose the faster attention for rows of this length."""
    short = ids.shape[1] <= SHORT and device.type == "cpu"
    model.set_attn_implementation("eager" if short else "sdpa")  # type: ignore[operator]


def factor(number: int, total: int) -> float:
    """The share of the largest rate at a step: up, constant, down to zero."""
    up, down = (number + 1) / max(1, WARMUP * total), (total - number) / max(1, DECAY * total)
    return min(1.0, up, down)


def make_optimizers(model: nn.Module, lr: float) -> list[Optimizer]:
    """Muon for the matrices inside the layers, AdamW for all else; steps of both have a like size."""
    matrices = [w for name, w in model.named_parameters() if w.ndim == 2 and ".layers." in name]
    rest = [w for name, w in model.named_parameters() if not (w.ndim == 2 and ".layers." in name)]
    muon = Muon(matrices, lr=lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    return [muon, AdamW(rest, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)]


def save_state(
    out: Path, settings: Settings, state: dict[str, Any], model: nn.Module, optimizers: list[Optimizer]
) -> None:
    """Write the newest state beside the old one, then take its place, so that a kill leaves one of them whole."""
    whole = {"settings": asdict(settings), "state": state, "model": model.state_dict()}
    torch.save(whole | {"optimizers": [o.state_dict() for o in optimizers]}, out / "state.new")
    os.replace(out / "state.new", out / "state.pt")


def load_state(out: Path, settings: Settings, model: nn.Module, optimizers: list[Optimizer]) -> dict[str, Any]:
    """Put the newest state back; a folder of other settings is refused."""
    if not (out / "state.pt").exists():
        return {"step": 0, "seconds": 0.0}
    found = torch.load(out / "state.pt", map_location=next(model.parameters()).device, weights_only=True)
    if found["settings"] != asdict(settings):
        raise SystemExit(f"{out} holds a run with {found['settings']}, not {asdict(settings)}: choose another --out")
    model.load_state_dict(found["model"])
    for optimizer, values in zip(optimizers, found["optimizers"], strict=True):
        optimizer.load_state_dict(values)
    kept: dict[str, Any] = found["state"]
    lines = (out / "curve.jsonl").read_text().splitlines()
    lines = [line for line in lines if json.loads(line)["step"] <= kept["step"]]
    (out / "curve.jsonl").write_text("".join(line + "\n" for line in lines))
    return kept


def note(out: Path, state: dict[str, Any], settings: Settings, **values: Any) -> None:
    """Say and keep how far the training is."""
    step, seconds = state["step"], state["seconds"]
    event = {"step": step, "tokens": step * settings.batch, "seconds": round(seconds, 1), **values}
    with (out / "curve.jsonl").open("a") as file:
        file.write(json.dumps(event) + "\n")
    left = seconds / step * (settings.steps - step)
    said = ", ".join(f"{key} {value:.3f}" for key, value in values.items() if isinstance(value, float))
    print(f"step {step}/{settings.steps} · {said} · {left / 60:.0f} min left", flush=True)


def main() -> None:
    """Train, then write the folder of the finished backbone."""
    from scripts.pretrain.finish import finish

    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--size", default="tiny", choices=list(SIZES))
    arguments.add_argument("--tokens", type=float, default=25e6, help="positions computed in all")
    arguments.add_argument("--lr", type=float, default=Settings.lr)
    arguments.add_argument("--batch", type=int, default=Settings.batch, help="positions of a step")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--teach", type=float, default=0.0, help="weight of the encoder's lessons; 0: none")
    arguments.add_argument(
        "--start", type=Path, help="folder of finished weights with the same tokenizer to go on from"
    )
    arguments.add_argument("--threads", type=int, help="CPU threads")
    arguments.add_argument("--data", type=Path, default=Path("../shared/data"))
    arguments.add_argument("--extra", type=Path, default=Path("runs/extra"), help="WordNet and VADER; see README.md")
    arguments.add_argument("--out", type=Path, required=True, help="folder of the run")
    given = arguments.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    began = hashlib.sha256((given.start / "model.safetensors").read_bytes()).hexdigest() if given.start else ""
    settings = Settings(given.size, int(given.tokens), given.batch, given.lr, given.seed, given.teach, began)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = train(settings, given.data, given.extra, given.out, device, given.start)
    finish(model, given.out, given.start)


if __name__ == "__main__":
    main()
