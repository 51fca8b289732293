"""The time of a training step with DePT and with prompt tuning of as many parameters, on an encoder-decoder.

    python benchmarks/dept_time.py [--seeds 0,1,2] [--lengths 64,128] [--rounds 5]

Random weights: a step takes as long as on trained ones. One thread, CPU time, the two taking turns in random order.
Beside the time: bytes kept for the backward pass. benchmarks/claims.py does the same, resumably.
"""

import argparse
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
import transformers as tf
from runs import Run, numbers
from train import kept, pad, texts
from verdicts import Found, Verdict, median, overall, verdict

from softprompt.backbones import Backbone, wrap
from softprompt.core import TEXT, Batch, Start
from softprompt.heads import LanguageModel, columns
from softprompt.methods import find

LENGTHS = (64, 128)  # mean tokens of the texts, which are cut at 256
ROUNDS = 5  # of each seed


def t5() -> Any:
    """An encoder-decoder with random weights, of about 16 million parameters."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 8192, "d_model": 384, "d_kv": 64, "num_heads": 6, "d_ff": 1024, "num_layers": 4}
    return tf.T5ForConditionalGeneration(tf.T5Config(**sizes, decoder_start_token_id=0)).eval()


def batch_of(rows: list[torch.Tensor], slots: int) -> Batch:
    """Texts behind `slots` places for a prompt, padded; the answers are four tokens each."""
    front, answers = torch.arange(slots), torch.stack([row[:4] for row in rows])
    told = torch.cat([torch.zeros_like(answers[:, :1]), answers[:, :-1]], 1)
    decoder = Batch(told, torch.ones_like(told, dtype=torch.bool), torch.full_like(told, TEXT), labels=answers)
    return Batch(
        input_ids=pad([torch.cat([front * 0, row]) for row in rows], 0),
        mask=pad([torch.ones(slots + len(row)) for row in rows], 0).bool(),
        slots=pad([torch.cat([front, torch.full_like(row, TEXT)]) for row in rows], TEXT),
        decoder=decoder,
    )


def steps(backbone: Backbone, rows: list[torch.Tensor]) -> dict[str, Callable[[], None]]:
    """A training step with 100 vectors, and one with DePT's 50 and a pair of rank 30 over 256 places."""
    width, head = backbone.spec.hidden, LanguageModel()
    made = {
        "prompt_tuning": find("prompt_tuning")(backbone.spec, Start(torch.randn(100, width))),
        "dept": find("dept")(backbone.spec, Start(torch.randn(50, width)), rank=30, tokens=256),
    }
    counts = {name: sum(p.numel() for p in method.parameters()) for name, method in made.items()}
    assert len(set(counts.values())) == 1, counts  # the claim is about equal parameters

    def step(name: str) -> None:
        method, batch = made[name], batches[name]
        method.zero_grad(set_to_none=True)
        output = backbone(batch, method(batch, backbone.tokens(batch.input_ids)), columns=columns(batch))
        (head.loss(output, batch) / head.count(batch)).backward()

    batches = {name: batch_of(rows, method.length) for name, method in made.items()}
    return {name: lambda name=name: step(name) for name in made}


def timed(length: int, seed: int, rounds: int = ROUNDS) -> Run:
    """Seconds of every step of both, the bytes that they keep, and the size of the model."""
    torch.set_num_threads(1)
    model = t5()
    rows = [row[:256] for row in texts(16, length, 8192, seed)]
    both, times = steps(wrap(model), rows), defaultdict[str, list[float]](list)
    saved = {name: kept(model, step) for name, step in both.items()}  # also the first step, which is slow
    began = time.process_time()
    for _ in range(rounds):
        for name in random.sample(list(both), len(both)):
            before = time.process_time()
            both[name]()
            times[name].append(time.process_time() - before)
    weights = sum(weight.numel() for weight in model.parameters())
    return {
        "times": dict(times),
        "saved": saved,
        "weights": weights,
        "cpu_s": round(time.process_time() - began, 1),
    }


def judge(found: Found) -> list[Verdict]:
    """Whether DePT takes less time, of every length."""
    verdicts = []
    for length in LENGTHS:
        runs = found.get(f"{length} tokens", [])
        pairs = [
            (a, b) for run in runs for a, b in zip(run["times"]["prompt_tuning"], run["times"]["dept"], strict=True)
        ]
        if len(pairs) < 3:
            verdicts.append(Verdict(f"texts of about {length} tokens: -", "not measured"))
            continue
        value, error = median([100 * (1 - b / a) for a, b in pairs])
        memory = 100 * (1 - statistics.median(run["saved"]["dept"] / run["saved"]["prompt_tuning"] for run in runs))
        seconds = [statistics.median(side) for side in zip(*pairs, strict=True)]
        told = f"{runs[0]['weights'] / 1e6:.1f} M weights, texts of about {length} tokens: {seconds[0]:.3f} s and "
        told += f"{seconds[1]:.3f} s a step, {value:.0f} ±{error:.0f} % less (median of {len(pairs)} pairs of steps); "
        told += f"{memory:.0f} % fewer bytes kept for the backward pass"
        verdicts.append(Verdict(told, overall([verdict(value, error)])))
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    parser.add_argument("--lengths", type=numbers, default=list(LENGTHS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    chosen = parser.parse_args()
    for length in chosen.lengths:
        for seed in chosen.seeds:
            run = timed(length, seed, chosen.rounds)
            seconds = {name: round(statistics.median(times), 4) for name, times in run["times"].items()}
            print(f"{length} tokens, seed {seed}: {seconds} s, {run['saved']} bytes kept", flush=True)


if __name__ == "__main__":
    main()
