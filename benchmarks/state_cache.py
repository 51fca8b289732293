"""Times a training step of a prefix in the upper quarter of the layers, with the states below kept and without.

    python benchmarks/state_cache.py [--rounds 9] [--save]

A random Llama of 17 million parameters and 8 layers (the 15M of benchmarks/train.py with two more), texts as there,
batches of 16, one thread, CPU time, the ways taking turns in random order, medians and the range of ratios within a
round. A step is what training does: batches collated and laid out, prompt, forward, backward. Loss and gradient must
agree with those without the cache before anything is timed. `--save` writes benchmarks/results/state_cache.json.
"""

import argparse
import json
import platform
import random
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers as tf
from torch import Tensor
from train import LABELS, SIZES, texts

from softprompt.backbones import wrap
from softprompt.core import IGNORE, TEXT, Row, Start
from softprompt.frozen import remember
from softprompt.heads import LanguageModel
from softprompt.methods import find
from softprompt.plan import Plan
from softprompt.prompt import Prompt, Task
from softprompt.recipe import make_recipe

SIZE, BATCH, MEAN, LENGTH, BATCHES = SIZES["15M"] | {"num_hidden_layers": 8}, 16, 32, 20, 4
UPPER = "6-7"  # of 0 to 7


def build() -> tuple[Prompt, list[Row]]:
    """A prefix in the upper quarter, and the rows of an epoch."""
    torch.manual_seed(0)
    backbone = wrap(tf.LlamaForCausalLM(tf.LlamaConfig(tie_word_embeddings=True, **SIZE)).eval(), name="17M")
    method = find("prefix")(backbone.spec, Start(torch.zeros(LENGTH, backbone.spec.hidden)), layers=UPPER)
    template: Any = SimpleNamespace(filler=0)  # rows are made here
    rows = []
    for text in texts(BATCH * BATCHES, MEAN, SIZE["vocab_size"], seed=LENGTH):
        ids = text.tolist()
        rows.append(Row(ids[:-1], [TEXT] * (len(ids) - 1), [IGNORE] * (len(ids) - 1 - LABELS) + ids[-LABELS:]))
    return Prompt(backbone, method, LanguageModel(), template, Task("generation")), rows


def cached(prompt: Prompt, rows: list[Row], kind: str, folder: str) -> tuple[list[Row], dict[str, Any]]:
    """Rows with their states, the CPU time that they took, and what was said."""
    recipe = make_recipe({"train": {"cache": kind, "cache_folder": folder, "batch_size": BATCH}})
    said: list[str] = []
    began = time.process_time()
    made = remember(prompt, Plan(recipe, [], [], [], (), {}), rows, Path(folder), lambda e: said.append(e["text"]))
    if any(row.below is None for row in made):
        raise SystemExit(f"nothing was kept: {said}")
    states = [row.below.states for row in made if row.below is not None]
    size = sum(part.numel() * part.element_size() for part in states)
    return made, {"seconds_to_fill": round(time.process_time() - began, 3), "bytes": size}


def step(prompt: Prompt, rows: list[Row]) -> tuple[float, Tensor]:
    """Loss and gradient of one batch."""
    prompt.zero_grad(set_to_none=True)
    batch = prompt.batch(rows)
    loss = prompt.loss(batch) / prompt.head.count(batch)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), torch.cat([weight.grad.flatten() for weight in prompt.parameters() if weight.grad is not None])


def compare(prompt: Prompt, ways: dict[str, list[Row]], rounds: int) -> dict[str, Any]:
    """Seconds and ratios to the way without a cache, for one engine."""
    first = {name: step(prompt, rows[:BATCH]) for name, rows in ways.items()}
    loss, grad = first["none"]
    errors = {name: ((made[1] - grad).norm() / grad.norm()).item() for name, made in first.items()}
    if any(abs(first[name][0] - loss) > 1e-5 or error > 2e-6 for name, error in errors.items()):
        raise SystemExit(f"not comparable: {errors}")
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name in random.sample(list(ways), len(ways)):
            began = time.process_time()
            for at in range(0, BATCH * BATCHES, BATCH):
                step(prompt, ways[name][at : at + BATCH])
            times[name].append((time.process_time() - began) / BATCHES)
    found: dict[str, Any] = {}
    for name, spent in times.items():
        ratios = sorted(without / own for without, own in zip(times["none"], spent, strict=True))
        found[name] = {
            "seconds_a_step": round(statistics.median(spent), 4),
            "ratio": round(statistics.median(ratios), 2),
            "range": [round(ratios[0], 2), round(ratios[-1], 2)],
            "gradient_error": float(f"{errors[name]:.1e}"),
        }
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--save", action="store_true", help="write benchmarks/results/state_cache.json")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    prompt, rows = build()
    with tempfile.TemporaryDirectory() as folder:
        made = {kind: cached(prompt, rows, kind, folder) for kind in ("memory", "file")}
        ways = {"none": rows} | {kind: kept for kind, (kept, _) in made.items()}
        engines = {}
        for name in ("packed", "plain"):
            prompt.packs = name == "packed"
            engines[name] = compare(prompt, ways, chosen.rounds)
            for way, cell in engines[name].items():
                print(name, way, cell, flush=True)
    facts = {
        "command": shlex.join(["python", "benchmarks/state_cache.py", *sys.argv[1:]]),
        "machine": f"{platform.machine()}, {platform.processor() or 'CPU'}, 1 thread",
        "versions": {"torch": torch.__version__, "transformers": tf.__version__},
        "model": {"family": "llama", **SIZE},
        "prefix": {"layers": UPPER, "length": LENGTH},
        "batch": BATCH,
        "n": MEAN,
        "tokens": sum(len(row.ids) for row in rows),
        "rounds": chosen.rounds,
        "filled": {kind: facts for kind, (_, facts) in made.items()},
        "engines": engines,
    }
    if chosen.save:
        (Path(__file__).parent / "results" / "state_cache.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
