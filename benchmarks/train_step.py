"""Times one training step of softprompt against Hugging Face PEFT: same model, same batches, same machine.

    python benchmarks/train_step.py [--rounds 5] [--save]

CPU time of one thread, the two engines taking turns in random order, the median of the ratios per round. Loss and
gradient of the two must agree before anything is timed. `--save` writes benchmarks/results/train_step.json.
"""

import argparse
import json
import platform
import random
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
import transformers as tf
from torch import Tensor

from softprompt.backbones import wrap
from softprompt.core import IGNORE, TEXT, Batch, Spec, Start
from softprompt.heads import LanguageModel, columns
from softprompt.methods import find

warnings.filterwarnings("ignore")
BATCH, LABELS, VOCABULARY = 16, 2, 8192
SIZES = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 1024}
Step = Callable[[], tuple[float, Tensor]]


def build_model() -> Any:
    """A random Llama of 15 M parameters."""
    torch.manual_seed(0)
    return tf.LlamaForCausalLM(tf.LlamaConfig(vocab_size=VOCABULARY, **SIZES)).eval()


def texts(mean: int, seed: int) -> list[Tensor]:
    """Token ids of 16 texts with lognormal lengths (sigma 0.5) around `mean`."""
    g = torch.Generator().manual_seed(seed)
    lengths = (torch.randn(BATCH, generator=g) * 0.5).exp().mul(mean).clamp(mean / 4, 3 * mean).int().tolist()
    return [torch.randint(10, VOCABULARY, (n,), generator=g) for n in lengths]


def pad(rows: list[Tensor], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def peft_step(method: str, length: int, rows: list[Tensor], start: Tensor) -> Step:
    """PEFT as its users run it: padded rows, labels on the last two tokens."""
    kind = peft.PromptTuningConfig if method == "prompt_tuning" else peft.PrefixTuningConfig
    model = peft.get_peft_model(build_model(), kind(task_type="CAUSAL_LM", num_virtual_tokens=length)).train()
    model.base_model.eval()
    weight = model.prompt_encoder["default"].embedding.weight
    weight.data.copy_(start)
    ids, mask = pad(rows, 0), pad([torch.ones_like(row) for row in rows], 0)
    labels = pad([torch.cat([torch.full_like(row[:-LABELS], IGNORE), row[-LABELS:]]) for row in rows], IGNORE)

    def step() -> tuple[float, Tensor]:
        model.zero_grad(set_to_none=True)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        return loss.item(), weight.grad.clone()

    return step


def our_step(method: str, length: int, rows: list[Tensor], start: Tensor) -> Step:
    """The same step through softprompt's backbone, method and head."""
    backbone = wrap(build_model())
    spec: Spec = backbone.spec
    slots = length if method == "prompt_tuning" else 0
    embeds = start if slots else torch.zeros(length, spec.hidden)
    prompt, head = find(method)(spec, Start(embeds)), LanguageModel()
    if not slots:  # PEFT's layout: [P, L, 2, K, D] in one row
        made = start.view(length, spec.layers, 2, spec.kv_heads, spec.head_dim).permute(1, 2, 3, 0, 4)
        next(prompt.parameters()).data.copy_(made)
    front = torch.arange(slots)
    ids = pad([torch.cat([front * 0, row]) for row in rows], 0)
    batch = Batch(
        input_ids=ids,
        mask=pad([torch.ones(slots + len(row)) for row in rows], 0).bool(),
        slots=pad([torch.cat([front, torch.full_like(row, TEXT)]) for row in rows], TEXT),
        labels=pad([aligned(row, slots) for row in rows], IGNORE),
    )

    def step() -> tuple[float, Tensor]:
        prompt.zero_grad(set_to_none=True)
        output = backbone(batch, prompt(batch, backbone.tokens(batch.input_ids)), columns=columns(batch))
        loss = head.loss(output, batch) / head.count(batch)
        loss.backward()
        return loss.item(), next(prompt.parameters()).grad.clone()

    return step


def aligned(row: Tensor, slots: int) -> Tensor:
    """The label of every position: what the next token is, for the last two."""
    labels = torch.full((slots + len(row),), IGNORE)
    labels[-LABELS - 1 : -1] = row[-LABELS:]
    return labels


def compare(method: str, length: int, mean: int, rounds: int) -> dict[str, Any]:
    """Median CPU seconds of both engines and the ratio per round."""
    spec = wrap(build_model()).spec
    width = spec.hidden if method == "prompt_tuning" else 2 * spec.layers * spec.kv_heads * spec.head_dim
    start = torch.randn(length, width) * 0.02
    rows = texts(mean, seed=length)
    engines = {"peft": peft_step(method, length, rows, start), "softprompt": our_step(method, length, rows, start)}
    (theirs, their_grad), (ours, our_grad) = (engines[name]() for name in ("peft", "softprompt"))
    if method == "prefix":
        our_grad = our_grad.permute(3, 0, 1, 2, 4).reshape(length, width)
    error = ((our_grad - their_grad).norm() / their_grad.norm()).item()
    if abs(ours - theirs) > 1e-4 or error > 1e-4:
        raise SystemExit(
            f"{method}, m={length}: loss {ours} against {theirs}, gradient off by {error:.1e}: not comparable"
        )
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name in random.sample(list(engines), 2):
            began = time.process_time()
            engines[name]()
            times[name].append(time.process_time() - began)
    ratios = [a / b for a, b in zip(times["peft"], times["softprompt"], strict=True)]
    return {
        "method": method,
        "m": length,
        "n": mean,
        "peft_s": round(statistics.median(times["peft"]), 4),
        "softprompt_s": round(statistics.median(times["softprompt"]), 4),
        "ratio": round(statistics.median(ratios), 2),
        "lowest": round(min(ratios), 2),
        "highest": round(max(ratios), 2),
        "gradient_error": float(f"{error:.1e}"),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--save", action="store_true", help="write benchmarks/results/train_step.json")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    table = []
    print(f"{'method':<14} {'m':>4} {'n':>4} {'PEFT s':>8} {'ours s':>8}  PEFT / ours (lowest-highest)")
    for method in ("prompt_tuning", "prefix"):
        for length in (20, 100):
            for mean in (32, 128):
                row = compare(method, length, mean, chosen.rounds)
                table.append(row)
                print(
                    f"{method:<14} {length:>4} {mean:>4} {row['peft_s']:>8.3f} {row['softprompt_s']:>8.3f}  "
                    f"{row['ratio']:.2f} ({row['lowest']:.2f}-{row['highest']:.2f})",
                    flush=True,
                )
    if chosen.save:
        facts = {
            "command": "python benchmarks/train_step.py --save",
            "machine": f"{platform.machine()}, {platform.processor() or 'CPU'}, 1 thread",
            "versions": {"torch": torch.__version__, "transformers": tf.__version__, "peft": peft.__version__},
            "model": {"family": "llama", "vocabulary": VOCABULARY, **SIZES},
            "batch": BATCH,
            "rounds": chosen.rounds,
            "rows": table,
        }
        path = Path(__file__).parent / "results" / "train_step.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(facts, indent=1) + "\n")
        print(f"written: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


if __name__ == "__main__":
    main()
