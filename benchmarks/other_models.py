"""Times a training step on models other than Llama: as `engine.choose` runs it, and with padding, as PEFT would.

    python benchmarks/other_models.py [--rounds 5] [--cell bert,20,32] [--save]

Random models of 4 layers (4 and 4 where there are two stacks) of width 256, 16 texts of lognormal length around n
tokens, m prompt vectors, prompt tuning. An encoder predicts one word a text, the others two tokens. Beside it the same
step as PEFT lays it out: the prompt in every row, every row as long as the longest, logits everywhere (PEFT itself has
no task for a masked language model). One thread, CPU time, engines taking turns in random order, medians; loss and
gradient must agree before anything is timed. `--save` writes benchmarks/results/other_models.json.
"""

import argparse
import json
import platform
import random
import shlex
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers as tf
from torch import Tensor
from train import pad, texts

from softprompt.backbones import wrap
from softprompt.core import IGNORE, TEXT, Row, Start
from softprompt.engine import choose, parted
from softprompt.heads import LanguageModel
from softprompt.methods import find
from softprompt.prompt import Prompt, Task

warnings.filterwarnings("ignore")
RESULTS = Path(__file__).parent / "results" / "other_models.json"
VOCABULARY, WIDTH, LAYERS, HEADS, INNER, BATCH = 30_000, 256, 4, 4, 1024, 16
ENCODER: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
}
GPT: dict[str, Any] = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 1024}
BOTH: dict[str, Any] = {
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_ffn_dim": INNER,
    "decoder_ffn_dim": INNER,
}
MODELS: dict[str, Callable[[], Any]] = {
    "bert": lambda: tf.BertForMaskedLM(tf.BertConfig(vocab_size=VOCABULARY, **ENCODER)),
    "t5": lambda: tf.T5ForConditionalGeneration(
        tf.T5Config(vocab_size=VOCABULARY, d_model=WIDTH, d_kv=64, d_ff=INNER, num_layers=LAYERS, num_heads=HEADS)
    ),
    "bart": lambda: tf.BartForConditionalGeneration(
        tf.BartConfig(
            vocab_size=VOCABULARY, d_model=WIDTH, encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, **BOTH
        )
    ),
    "gptj": lambda: tf.GPTJForCausalLM(tf.GPTJConfig(vocab_size=VOCABULARY, rotary_dim=32, **GPT)),
    "bloom": lambda: tf.BloomForCausalLM(
        tf.BloomConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, n_layer=LAYERS, n_head=HEADS)
    ),
}
CELLS = [(family, m, 32) for family in MODELS for m in (20, 100)] + [("bert", 20, 128), ("t5", 20, 128)]
Step = Callable[[], tuple[float, Tensor]]


def rows_of(kind: str, length: int, lines: list[Tensor]) -> list[Row]:
    """Texts behind places for a prompt, with the labels that a model of this kind is asked for."""
    made = []
    for line in lines:
        ids, slots = [0] * length + line.tolist(), [*range(length), *[TEXT] * len(line)]
        if kind == "seq2seq":
            made.append(Row(ids, slots, decoder=Row([0, ids[-1]], [TEXT] * 2, ids[-2:])))
        elif kind == "encoder":
            made.append(Row(ids, slots, [IGNORE] * (len(ids) - 1) + ids[-1:]))
        else:  # the last token is predicted, and not read
            made.append(Row(ids[:-1], slots[:-1], [IGNORE] * (len(ids) - 3) + ids[-2:]))
    return made


def our_step(model: Any, length: int, lines: list[Tensor], start: Tensor) -> tuple[Step, str]:
    """A step as training takes it, and what is said of the way it runs."""
    backbone, said = wrap(model), ["packed"]
    method = find("prompt_tuning")(backbone.spec, Start(start))
    template: Any = SimpleNamespace(filler=0)
    prompt = Prompt(backbone, method, LanguageModel(), template, Task("generation"))
    rows = rows_of(backbone.spec.kind, length, lines)
    choose(prompt, rows, "auto", lambda event: said.append(event["text"]))

    def step() -> tuple[float, Tensor]:
        prompt.zero_grad(set_to_none=True)
        batches = [prompt.batch(part) for part in parted(prompt, rows)]
        count, total = sum(prompt.head.count(batch) for batch in batches), 0.0
        for batch in batches:
            loss = prompt.loss(batch) / count
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        grad = next(prompt.parameters()).grad
        assert grad is not None
        return total, grad.clone()

    return step, said[-1]


def padded_step(model: Any, length: int, lines: list[Tensor], start: Tensor) -> Step:
    """The same step with the prompt and padding in every row, and logits everywhere."""
    weight = start.clone().requires_grad_()
    model.requires_grad_(False)
    ids, mask = pad(lines, 0), pad([torch.ones_like(line) for line in lines], 0)
    mask = torch.cat([torch.ones(len(lines), length, dtype=torch.long), mask], 1)
    last = 2 if model.config.is_encoder_decoder or not isinstance(model, tf.BertForMaskedLM) else 1
    if model.config.is_encoder_decoder:
        labels = torch.stack([line[-2:] for line in lines])
        more = {"labels": labels, "decoder_input_ids": torch.cat([labels.new_zeros(len(lines), 1), labels[:, 1:]], 1)}
        more["decoder_input_ids"][:, 1] = torch.stack([line[-1] for line in lines])
    else:
        told = [torch.cat([torch.full_like(line[:-last], IGNORE), line[-last:]]) for line in lines]
        labels = pad(told, IGNORE)
        more = {"labels": torch.cat([torch.full((len(lines), length), IGNORE), labels], 1)}

    def step() -> tuple[float, Tensor]:
        weight.grad = None
        embeds = torch.cat([weight.expand(len(lines), -1, -1), model.get_input_embeddings()(ids)], 1)
        loss = model(inputs_embeds=embeds, attention_mask=mask, **more).loss
        loss.backward()
        assert weight.grad is not None
        return loss.item(), weight.grad.clone()

    return step


def compare(family: str, length: int, mean: int, rounds: int) -> dict[str, Any]:
    """One cell: seconds of both, and their ratio."""
    torch.manual_seed(0)
    model, other = MODELS[family]().eval(), MODELS[family]().eval()
    other.load_state_dict(model.state_dict())
    start, lines = torch.randn(length, WIDTH) * 0.02, texts(BATCH, mean, VOCABULARY, seed=length)
    ours, said = our_step(model, length, lines, start)
    engines = {"ours": ours, "padded": padded_step(other, length, lines, start)}
    (loss, grad), (right, wanted) = (step() for step in engines.values())
    error = ((grad - wanted).norm() / wanted.norm()).item()
    if abs(loss - right) > 1e-4 or error > 1e-4:
        raise SystemExit(f"{family} m={length} n={mean}: loss {loss} and {right}, gradients {error:.0e} apart")
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name in random.sample(list(engines), len(engines)):
            began = time.process_time()
            engines[name]()
            times[name].append(time.process_time() - began)
    ratios = sorted(a / b for a, b in zip(times["padded"], times["ours"], strict=True))
    return {
        "family": family,
        "m": length,
        "n": mean,
        "runs": said,
        "padded_seconds": round(statistics.median(times["padded"]), 4),
        "ours_seconds": round(statistics.median(times["ours"]), 4),
        "ratio": round(statistics.median(ratios), 2),
        "range": [round(ratios[0], 2), round(ratios[-1], 2)],
        "gradient_error": float(f"{error:.1e}"),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--cell", action="append", default=[], metavar="FAMILY,M,N", help="this cell alone")
    arguments.add_argument("--save", action="store_true", help="write benchmarks/results/other_models.json")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    cells = CELLS
    if chosen.cell:
        cells = [(family, int(m), int(n)) for family, m, n in (text.split(",") for text in chosen.cell)]
    table = []
    for cell in cells:
        table.append(compare(*cell, chosen.rounds))
        print(json.dumps(table[-1]), flush=True)
    if chosen.save:
        facts = {
            "command": shlex.join(["python", "benchmarks/other_models.py", *sys.argv[1:]]),
            "machine": f"{platform.machine()}, 1 thread",
            "versions": {"torch": torch.__version__, "transformers": tf.__version__},
            "rounds": chosen.rounds,
            "rows": table,
        }
        RESULTS.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
