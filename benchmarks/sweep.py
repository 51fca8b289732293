"""Times a step of eight prompts: in one pass (ours), one after the other (ours, packed), and eight steps of PEFT.

    python benchmarks/sweep.py [--quick] [--rounds 5] [--threads 2] [--save]

Every prompt has its own texts, start and AdamW, whose step is part of the time; all have one backbone. CPU time, the
three taking turns in random order, medians, and ratios within a round. Loss and gradient of every prompt must agree
with PEFT's before anything is timed. `--save` writes benchmarks/results/sweep.json (two threads: sweep_threads_2.json).
"""

import argparse
import json
import os
import platform
import random
import shlex
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while they wait would count as work

import peft
import torch
import transformers as tf
from torch import Tensor
from train import LABELS, SIZES, build_model, pad, padded_batch, texts

from softprompt.backbones import Backbone, wrap
from softprompt.collate import pack
from softprompt.core import IGNORE, Start
from softprompt.heads import LanguageModel
from softprompt.methods import find

warnings.filterwarnings("ignore")
PROMPTS = 8
GRID = [  # model, rows of a batch of each prompt, prompt vectors, mean tokens of a text
    ("15M", 2, 20, 32),
    ("15M", 4, 20, 32),
    ("15M", 8, 20, 32),
    ("15M", 2, 50, 16),
    ("80M", 1, 20, 16),
    ("80M", 4, 20, 32),
]
QUICK = GRID[:2]
Answer = tuple[float, Tensor]  # loss and gradient of one prompt
Step = Callable[[], list[Answer]]


def peft_steps(model: Any, method: str, rows: list[list[Tensor]], starts: list[Tensor]) -> Step:
    """Eight runs of PEFT as its users have them, a step of each: one wrapped model, and a weight for every run."""
    kind = peft.PromptTuningConfig if method == "prompt_tuning" else peft.PrefixTuningConfig
    theirs = peft.get_peft_model(model, kind(task_type="CAUSAL_LM", num_virtual_tokens=len(starts[0]))).train()
    theirs.base_model.eval()
    embedding = theirs.prompt_encoder["default"].embedding
    weights = [torch.nn.Parameter(start.clone()) for start in starts]
    optimizers = [torch.optim.AdamW([weight], lr=0.0, fused=True) for weight in weights]

    def one(i: int) -> Answer:
        ids, mask = pad(rows[i], 0), pad([torch.ones_like(row) for row in rows[i]], 0)
        labels = pad([torch.cat([torch.full_like(row[:-LABELS], IGNORE), row[-LABELS:]]) for row in rows[i]], IGNORE)
        embedding.weight = weights[i]
        optimizers[i].zero_grad(set_to_none=True)
        loss = theirs(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        optimizers[i].step()
        grad = weights[i].grad
        assert grad is not None
        return loss.item(), grad.clone()

    return lambda: [one(i) for i in range(len(starts))]


class Ours:
    """Eight prompts of softprompt over one backbone; `together` and `apart` are a step of all."""

    def __init__(self, model: Any, method: str, rows: list[list[Tensor]], starts: list[Tensor]) -> None:
        self.backbone: Backbone = wrap(model)
        spec, length = self.backbone.spec, len(starts[0])
        self.slots = length if method == "prompt_tuning" else 0
        self.methods, self.head = [], LanguageModel()
        for start in starts:
            made = find(method)(spec, Start(start if self.slots else torch.zeros(length, spec.hidden)))
            if not self.slots:  # PEFT's layout: [P, L, 2, K, D] in one row
                stack = start.view(length, spec.layers, 2, spec.kv_heads, spec.head_dim).permute(1, 2, 3, 0, 4)
                next(made.parameters()).data.copy_(stack)
            self.methods.append(made)
        self.optimizers = [torch.optim.AdamW(made.parameters(), lr=0.0, fused=True) for made in self.methods]
        self.padded = [padded_batch(own, self.slots) for own in rows]  # loss and gradient are those of whole texts

    def step(self, chosen: list[int], fewest: int) -> list[Answer]:
        """A step of the chosen prompts in one forward."""
        for i in chosen:
            self.optimizers[i].zero_grad(set_to_none=True)
        batches = [replace(self.padded[i], packing=pack(self.padded[i], fewest)) for i in chosen]  # part of the step
        given = [self.methods[i](b, self.backbone.tokens(b.input_ids)) for i, b in zip(chosen, batches, strict=True)]
        outputs = self.backbone.together(batches, given, logits=True)
        losses = []
        for output, batch in zip(outputs, batches, strict=True):
            assert batch.packing is not None
            losses.append(self.head.loss(output, replace(batch, labels=batch.packing.labels)) / self.head.count(batch))
        torch.autograd.backward(losses)
        for i in chosen:
            self.optimizers[i].step()
        return [(loss.item(), self.gradient(i)) for i, loss in zip(chosen, losses, strict=True)]

    def gradient(self, i: int) -> Tensor:
        """The gradient of a prompt in PEFT's layout."""
        grad = next(self.methods[i].parameters()).grad
        assert grad is not None
        return grad.clone() if self.slots else grad.permute(3, 0, 1, 2, 4).reshape(grad.shape[3], -1)

    def together(self) -> list[Answer]:
        return self.step(list(range(len(self.methods))), 1)

    def apart(self) -> list[Answer]:
        return [answer for i in range(len(self.methods)) for answer in self.step([i], 1)]


def compare(method: str, size: str, count: int, length: int, mean: int, rounds: int) -> dict[str, Any]:
    """One cell: CPU seconds of eight steps, and the ratios to PEFT's."""
    theirs, ours = build_model(size), build_model(size)
    config = ours.config
    width = config.hidden_size * (1 if method == "prompt_tuning" else 2 * config.num_hidden_layers)
    torch.manual_seed(1)
    starts = [torch.randn(length, width) * 0.02 for _ in range(PROMPTS)]
    rows = [texts(count, mean, config.vocab_size, seed=i) for i in range(PROMPTS)]
    own = Ours(ours, method, rows, starts)
    engines: dict[str, Step] = {"peft": peft_steps(theirs, method, rows, starts)}
    engines |= {"one pass": own.together, "one after the other": own.apart}
    right = engines["peft"]()
    errors = {}
    for name in ("one pass", "one after the other"):
        pairs = list(zip(engines[name](), right, strict=True))
        errors[name] = max(((a[1] - b[1]).norm() / b[1].norm()).item() for a, b in pairs)
        if errors[name] > 1e-4 or any(abs(a[0] - b[0]) > 1e-4 for a, b in pairs):
            raise SystemExit(f"{method} {size} b={count} m={length} n={mean}: {name} differs from PEFT: not comparable")
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name in random.sample(list(engines), len(engines)):
            began = time.process_time()
            engines[name]()
            times[name].append(time.process_time() - began)
    cell: dict[str, Any] = {"method": method, "size": size, "prompts": PROMPTS, "batch": count, "m": length, "n": mean}
    cell["seconds"] = {name: round(statistics.median(values), 3) for name, values in times.items()}
    for name in errors:
        ratios = sorted(a / b for a, b in zip(times["peft"], times[name], strict=True))
        cell[name] = {
            "ratio": round(statistics.median(ratios), 2),
            "range": [round(ratios[0], 2), round(ratios[-1], 2)],
            "gradient_error": float(f"{errors[name]:.1e}"),
        }
    return cell


def line(cell: dict[str, Any]) -> str:
    """A cell as one line of the table."""
    sizes = f"{cell['batch']:>3} {cell['n']:>4} {cell['m']:>4}"
    ours = [
        f"{cell[name]['ratio']:>6.2f} ({'-'.join(map(str, cell[name]['range']))})"
        for name in ("one pass", "one after the other")
    ]
    return f"{cell['method']:<13} {cell['size']} {sizes} {cell['seconds']['peft']:>9.3f}  {ours[0]:<20} {ours[1]}"


def save(table: list[dict[str, Any]], rounds: int, threads: int) -> None:
    """Write the cells that were measured, with machine and versions."""
    facts = {
        "command": shlex.join(["python", "benchmarks/sweep.py", *sys.argv[1:]]),
        "machine": f"{platform.machine()}, {platform.processor() or 'CPU'}, {threads} thread(s), CPU time",
        "versions": {"torch": torch.__version__, "transformers": tf.__version__, "peft": peft.__version__},
        "models": {name: {"family": "llama", **sizes} for name, sizes in SIZES.items()},
        "rounds": rounds,
        "rows": table,
    }
    name = "sweep.json" if threads == 1 else f"sweep_threads_{threads}.json"
    path = Path(__file__).parent / "results" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(facts, indent=1) + "\n")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--quick", action="store_true", help="two cells instead of the grid")
    arguments.add_argument("--method", choices=["prompt_tuning", "prefix"], help="this method alone")
    arguments.add_argument("--save", action="store_true", help="write the file of benchmarks/results")
    chosen = arguments.parse_args()
    torch.set_num_threads(chosen.threads)
    random.seed(0)
    print("method        size   b    n    m  PEFT x 8 s  PEFT / one pass      PEFT / one after the other")
    table = []
    for method in [chosen.method] if chosen.method else ["prompt_tuning", "prefix"]:
        for size, count, length, mean in QUICK if chosen.quick else GRID:
            table.append(compare(method, size, count, length, mean, chosen.rounds))
            print(line(table[-1]), flush=True)
            if chosen.save:
                save(table, chosen.rounds, chosen.threads)


if __name__ == "__main__":
    main()
