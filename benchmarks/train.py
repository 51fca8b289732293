"""Times a training step three ways: packed (ours), plain (ours, padded), and Hugging Face PEFT. Same model, same batch.

    python benchmarks/train.py [--quick] [--rounds 5] [--save]

One thread, CPU time, the engines taking turns in random order, medians, and ratios within a round. Loss and gradient of
all three must agree before anything is timed. Beside the time: bytes kept for the backward pass (saved tensors, each
storage once, weights not counted), and operations executed over the least that any exact way needs, which is: linear
layers of the prompt once and of every text once, forward and towards the inputs, attention over what is visible, and
the product with the vocabulary at labels alone. `--save` writes every cell to benchmarks/results/train.json as soon as
it is measured, in the place of an older one, and `--page` the tables of README.md and docs/performance.md from there.
"""

import argparse
import json
import platform
import random
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import torch
import transformers as tf
from runs import put
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from softprompt.backbones import wrap
from softprompt.collate import pack
from softprompt.core import IGNORE, TEXT, Batch, Injection, Start
from softprompt.heads import LanguageModel, columns
from softprompt.methods import find

warnings.filterwarnings("ignore")
ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "train.json"
LABELS = 2  # tokens at the end of every text that are predicted
SIZES: dict[str, dict[str, int]] = {
    "15M": {
        "vocab_size": 8192,
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "intermediate_size": 1024,
    },
    "80M": {
        "vocab_size": 32_000,
        "hidden_size": 768,
        "num_hidden_layers": 8,
        "num_attention_heads": 12,
        "intermediate_size": 2048,
    },
}
GRID = [(size, 16, m, n) for size in SIZES for n in (32, 64, 128) for m in (10, 20, 50, 100)]
ALONE = [(size, 1, 20, 32) for size in SIZES]  # nothing to share: the worst case for packing
SHOWN = [("prompt_tuning", size, 16, m, 32) for size in SIZES for m in (20, 100)]  # of README.md
QUICK = [("15M", 16, 20, 32), ("15M", 1, 20, 32)]
Step = Callable[[], tuple[float, Tensor]]


def build_model(size: str) -> Any:
    """A random Llama of 15 or 80 million parameters."""
    torch.manual_seed(0)
    return tf.LlamaForCausalLM(tf.LlamaConfig(tie_word_embeddings=True, **SIZES[size])).eval()


def texts(count: int, mean: int, vocabulary: int, seed: int) -> list[Tensor]:
    """Token ids of texts with lognormal lengths (sigma 0.5) around `mean`."""
    g = torch.Generator().manual_seed(seed)
    lengths = (torch.randn(count, generator=g) * 0.5).exp().mul(mean).clamp(mean / 4, 3 * mean).int().tolist()
    return [torch.randint(10, vocabulary, (n,), generator=g) for n in lengths]


def pad(rows: list[Tensor], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def peft_step(model: Any, method: str, rows: list[Tensor], start: Tensor) -> Step:
    """PEFT as its users run it: padded rows, labels on the last two tokens."""
    kind = peft.PromptTuningConfig if method == "prompt_tuning" else peft.PrefixTuningConfig
    theirs = peft.get_peft_model(model, kind(task_type="CAUSAL_LM", num_virtual_tokens=len(start))).train()
    theirs.base_model.eval()
    weight = theirs.prompt_encoder["default"].embedding.weight
    weight.data.copy_(start)
    ids, mask = pad(rows, 0), pad([torch.ones_like(row) for row in rows], 0)
    labels = pad([torch.cat([torch.full_like(row[:-LABELS], IGNORE), row[-LABELS:]]) for row in rows], IGNORE)

    def step() -> tuple[float, Tensor]:
        theirs.zero_grad(set_to_none=True)
        loss = theirs(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        return loss.item(), weight.grad.clone()

    return step


def our_step(model: Any, method: str, rows: list[Tensor], start: Tensor, packed: bool) -> Step:
    """The same step through softprompt's backbone, method and head."""
    backbone, length = wrap(model), len(start)
    spec = backbone.spec
    slots = length if method == "prompt_tuning" else 0
    prompt = find(method)(spec, Start(start if slots else torch.zeros(length, spec.hidden)))
    if not slots:  # PEFT's layout: [P, L, 2, K, D] in one row
        made = start.view(length, spec.layers, 2, spec.kv_heads, spec.head_dim).permute(1, 2, 3, 0, 4)
        next(prompt.parameters()).data.copy_(made)
    head, padded = LanguageModel(), padded_batch(rows, slots)  # loss and gradient are those of whole texts

    def loss_of(batch: Batch, injection: Injection) -> Tensor:
        if batch.packing is None or backbone.unpackable(batch, injection):
            return head.loss(backbone(batch, injection, columns=columns(batch)), batch)
        output = backbone.packed(batch, injection, logits=True)
        return head.loss(output, replace(batch, labels=batch.packing.labels))

    def step() -> tuple[float, Tensor]:
        prompt.zero_grad(set_to_none=True)
        batch = replace(padded, packing=pack(padded)) if packed else padded  # planning is part of the step
        loss = loss_of(batch, prompt(batch, backbone.tokens(batch.input_ids))) / head.count(batch)
        loss.backward()
        grad = next(prompt.parameters()).grad
        assert grad is not None
        return loss.item(), grad.clone() if slots else grad.permute(3, 0, 1, 2, 4).reshape(length, -1)

    return step


def padded_batch(rows: list[Tensor], slots: int) -> Batch:
    """Texts behind `slots` places for a prompt, padded, as our templates write them.

    Labels stand where they are predicted, and the last token, which nothing is predicted from, is not read.
    """
    front = torch.arange(slots)
    labels = [torch.cat([torch.full((slots + len(row) - 1 - LABELS,), IGNORE), row[-LABELS:]]) for row in rows]
    rows = [row[:-1] for row in rows]
    return Batch(
        input_ids=pad([torch.cat([front * 0, row]) for row in rows], 0),
        mask=pad([torch.ones(slots + len(row)) for row in rows], 0).bool(),
        slots=pad([torch.cat([front, torch.full_like(row, TEXT)]) for row in rows], TEXT),
        labels=pad(labels, IGNORE),
    )


def attention_forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


COUNTED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_forward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
}


def operations(step: Step) -> int:
    """Floating-point operations of products in one step; causal attention counts as the whole square."""
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
        step()
    return int(counter.get_total_flops())


def least(model: Any, method: str, rows: list[Tensor], length: int) -> int:
    """Operations that any exact way needs, forward and back to the inputs, never to weights.

    The last layer is needed at labels only, but for its keys and values; the first passes nothing back to tokens.
    """
    config = model.config
    width, layers, inner = config.hidden_size, config.num_hidden_layers, config.intermediate_size
    front = length if method == "prompt_tuning" else 0
    texts_only = sum(len(row) - 1 for row in rows)  # the last token is predicted, but not read
    tokens, labels = front + texts_only, LABELS * len(rows)
    keys, rest = 2 * 2 * width * width, 2 * (2 * width * width + 3 * width * inner)  # a token's, in one layer
    linear = 2 * ((layers - 1) * tokens * (keys + rest) + tokens * keys + labels * rest)
    linear -= texts_only * (keys + 2 * width * width)  # from queries, keys and values of the first layer to its tokens
    # Pairs of tokens that see each other; scores and sums are two products forward and five halves of that back.
    inside = sum((n := len(row) - 1) * length + n * (n + 1) // 2 for row in rows) + front * (front + 1) // 2
    last = sum(LABELS * (length + len(row) - 1) for row in rows)
    attention = 3.5 * 4 * width * ((layers - 1) * inside + last)
    return int(linear + attention + 2 * 2 * labels * width * config.vocab_size)


def kept(model: Any, step: Step) -> int:
    """Bytes that one step keeps for its backward pass, weights not counted."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    held: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no storage is freed and its address used again

    def note(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage()
        if place.data_ptr() not in weights:
            held[place.data_ptr()] = place.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step()
    return sum(held.values())


def compare(method: str, size: str, count: int, length: int, mean: int, rounds: int) -> dict[str, Any]:
    """One cell: seconds, ratios to PEFT, operations and bytes of all three engines."""
    models = {name: build_model(size) for name in ("peft", "plain", "packed")}
    config = models["peft"].config
    width = config.hidden_size * (1 if method == "prompt_tuning" else 2 * config.num_hidden_layers)
    torch.manual_seed(1)
    start = torch.randn(length, width) * 0.02
    rows = texts(count, mean, config.vocab_size, seed=length)
    engines = {name: our_step(models[name], method, rows, start, name == "packed") for name in ("plain", "packed")}
    engines["peft"] = peft_step(models["peft"], method, rows, start)
    answers = {name: engine() for name, engine in engines.items()}
    loss, grad = answers["peft"]
    errors = {name: ((answers[name][1] - grad).norm() / grad.norm()).item() for name in ("plain", "packed")}
    if any(abs(answers[name][0] - loss) > 1e-4 or errors[name] > 1e-4 for name in errors):
        raise SystemExit(f"{method} {size} m={length} n={mean}: {answers} differ: not comparable")
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name in random.sample(list(engines), len(engines)):
            began = time.process_time()
            engines[name]()
            times[name].append(time.process_time() - began)
    minimum = least(models["peft"], method, rows, length)
    cell: dict[str, Any] = {"method": method, "size": size, "batch": count, "m": length, "n": mean}
    for name in engines:
        cell[name] = {
            "seconds": round(statistics.median(times[name]), 4),
            "operations_over_least": round(operations(engines[name]) / minimum, 3),
            "saved_mib": round(kept(models[name], engines[name]) / 2**20, 1),
        }
    for name in errors:
        ratios = sorted(a / b for a, b in zip(times["peft"], times[name], strict=True))
        cell[name] |= {
            "ratio": round(statistics.median(ratios), 2),
            "range": [round(r, 2) for r in ratios[:: rounds - 1 or 1]],
        }
        cell[name]["gradient_error"] = float(f"{errors[name]:.1e}")
    return cell


def line(cell: dict[str, Any]) -> str:
    """A cell as one line of the table."""
    sizes = f"{cell['batch']:>3} {cell['n']:>4} {cell['m']:>4}"
    head = f"{cell['method']:<13} {cell['size']} {sizes} {cell['peft']['seconds']:>8.3f}"
    ours = [f"{cell[name]['ratio']:>6.2f} ({'-'.join(map(str, cell[name]['range']))})" for name in ("plain", "packed")]
    operations = "/".join(f"{cell[name]['operations_over_least']:.2f}" for name in ("peft", "plain", "packed"))
    saved = "/".join(f"{cell[name]['saved_mib']:.0f}" for name in ("peft", "plain", "packed"))
    return f"{head}  {ours[0]:<18} {ours[1]:<18} {operations:<16} {saved}"


def place(row: dict[str, Any]) -> tuple[Any, ...]:
    """What tells cells apart, in the order of the tables: short before long, small before large."""
    return row["method"] != "prompt_tuning", list(SIZES).index(row["size"]), -row["batch"], row["n"], row["m"]


def save(row: dict[str, Any], rounds: int) -> None:
    """Write a cell, with how it was measured; the others stay."""
    facts = {
        "rounds": rounds,
        "machine": f"{platform.machine()}, {platform.processor() or 'CPU'}, 1 thread",
        "versions": {"torch": torch.__version__, "transformers": tf.__version__, "peft": peft.__version__},
    }
    before = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    rows = [other for other in before if place(other) != place(row)] + [row | facts]
    models = {name: {"family": "llama", **sizes} for name, sizes in SIZES.items()}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"models": models, "rows": sorted(rows, key=place)}, indent=1) + "\n")


def measured() -> list[dict[str, Any]]:
    return json.loads(RESULTS.read_text())["rows"]  # type: ignore[no-any-return]


def times(ours: dict[str, Any]) -> str:
    return f"{ours['ratio']:.2f} ({ours['range'][0]:.2f}-{ours['range'][1]:.2f})"


def told(rows: list[dict[str, Any]]) -> str:
    """How the rows of a table were measured."""
    first = rows[0]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    return f"{first['machine']}; {versions}; medians of {min(row['rounds'] for row in rows)} rounds or more."


def brief() -> str:
    """The cells that README.md shows."""
    rows = [row for row in measured() if (row["method"], row["size"], row["batch"], row["m"], row["n"]) in SHOWN]
    lines = [
        "| method | model | batch | tokens of a text | vectors | PEFT, CPU s a step | ours, CPU s | times as fast "
        "| kept for backward, of PEFT's |",
        f"|{' --- |' * 9}",
    ]
    for row in rows:
        ours, theirs = row["packed"], row["peft"]
        cells = [row["method"], row["size"], row["batch"], row["n"], row["m"], theirs["seconds"], ours["seconds"]]
        cells += [f"**{times(ours)}**", f"{ours['saved_mib'] / theirs['saved_mib']:.2f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + f"\n\n`python benchmarks/train.py --save`, then `--page`; {told(rows)}"


def whole() -> str:
    """All cells, for docs/performance.md."""
    lines = [
        "| method | model | B | n | m | PEFT, CPU s | PEFT / plain | PEFT / packed | saved MiB: PEFT / plain / packed "
        "| operations / least |",
        f"|{' --- |' * 10}",
    ]
    ways = ("peft", "plain", "packed")
    for row in measured():
        cells = [row["method"], row["size"], row["batch"], row["n"], row["m"], f"{row['peft']['seconds']:.3f}"]
        cells += [times(row["plain"]), f"**{times(row['packed'])}**"]
        cells += [" / ".join(f"{row[way]['saved_mib']:.0f}" for way in ways)]
        cells += [" / ".join(f"{row[way]['operations_over_least']:.2f}" for way in ways)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + f"\n\n{told(measured())}"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--quick", action="store_true", help="two cells instead of the grid")
    arguments.add_argument("--cell", action="append", default=[], metavar="SIZE,BATCH,M,N", help="this cell alone")
    arguments.add_argument("--method", choices=["prompt_tuning", "prefix"], help="this method alone")
    arguments.add_argument("--save", action="store_true", help="write each cell to benchmarks/results/train.json")
    arguments.add_argument("--page", action="store_true", help="only write the tables of the pages from that file")
    chosen = arguments.parse_args()
    if chosen.page:
        put(ROOT / "README.md", "training benchmark", brief())
        put(ROOT / "docs" / "performance.md", "training benchmark", whole())
        return
    torch.set_num_threads(1)
    random.seed(0)
    cells: list[tuple[str, int, int, int]] = QUICK if chosen.quick else [*GRID, *ALONE]
    if chosen.cell:
        cells = [(size, *map(int, rest)) for size, *rest in (text.split(",") for text in chosen.cell)]  # type: ignore[misc]
    print(
        f"{'method':<13} size   B    n    m   PEFT s  PEFT / plain       PEFT / packed      operations/least saved MiB"
    )
    for method in [chosen.method] if chosen.method else ["prompt_tuning", "prefix"]:
        for size, count, length, mean in cells:
            made = compare(method, size, count, length, mean, chosen.rounds)
            print(line(made), flush=True)
            if chosen.save:
                save(made, chosen.rounds)  # after every cell: a grid takes an hour, and may be stopped


if __name__ == "__main__":
    main()
