"""Serving 64 tasks from one backbone: the engine with prompts, the engine without, and Hugging Face PEFT.

    python benchmarks/serve.py [--size 60M] [--rounds 3] [--lengths 20,50,100] [--only scoring] [--quick] [--save]
    python benchmarks/serve.py --page

A random Llama of 15 or 60 million parameters, one thread, CPU time of the whole process (tokenising included for the
engine, not for PEFT, which is given ids), the ways taking turns in random order, medians, and ratios within a round.
Answers are compared before anything is timed: scores with PEFT's to 1e-4, written tokens with single requests and with
PEFT's one by one. `--save` puts what was measured into benchmarks/results/serve.json, in the place of older figures of
the same size and length; `--page` writes the tables of docs/serving-engine.md from that file.

scoring   256 requests (--quick: 64) of 64 tasks, two class words; PEFT: `set_adapter`, then a padded batch a task
decode    32 requests of 32 tasks at once, 16 tokens each; PEFT: `set_adapter` and `generate`, request by request
tasks     the same 32 requests, of 1, 8 and 32 tasks (with decode)
many      10 and 1,000 prompts: memory, and time to the first token (`--only many`)
http      a request over HTTP beside the same one to the engine (`--only http`)
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
from typing import Any

import peft
import torch
import transformers as tf
from runs import put
from serve_around import many, over_http
from serve_bench import ALIVE, NEW, SIZES, TASKS, Bench
from serve_page import page

from softprompt.serve.contract import Request, Sampling

warnings.filterwarnings("ignore")
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "serve.json"
Way = Callable[[], Any]


def taking_turns(ways: dict[str, Way], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every way, by round."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name in random.sample(sorted(ways), len(ways)):
            begin = time.process_time()
            ways[name]()
            found[name].append(time.process_time() - begin)
    return found


def ratio(above: list[float], below: list[float]) -> dict[str, float]:
    """Median of the ratios within rounds, with the lowest and the highest."""
    each = [a / b for a, b in zip(above, below, strict=True)]
    return {
        "median": round(statistics.median(each), 3),
        "lowest": round(min(each), 3),
        "highest": round(max(each), 3),
    }


def seconds(found: dict[str, list[float]]) -> dict[str, float]:
    """Medians."""
    return {name: round(statistics.median(times), 4) for name, times in found.items()}


def scoring(bench: Bench, rounds: int) -> dict[str, Any]:
    """Mixed scoring of 64 tasks."""
    with bench.engine("label", TASKS) as ours:
        answers, right = bench.ask(ours, "label", bench.scored, TASKS), bench.peft_scores()
        off = max(
            abs(torch.tensor(list(a.scored.probabilities.values())).log() - torch.tensor(r)).max().item()
            for a, r in zip(answers, right, strict=True)
            if a.scored is not None
        )
        assert off < 1e-4, f"scores differ from PEFT's by {off}"
        ways: dict[str, Way] = {
            "engine": lambda: bench.ask(ours, "label", bench.scored, TASKS),
            "no prompt": lambda: bench.ask(ours, "label", bench.scored, 0),
            "peft": bench.peft_scores,
        }
        found = taking_turns(ways, rounds)
    return {
        "size": bench.size,
        "m": bench.m,
        "requests": bench.scored,
        "cpu seconds": seconds(found),
        "no prompt / engine": ratio(found["no prompt"], found["engine"]),
        "peft / engine": ratio(found["peft"], found["engine"]),
        "largest difference of log-probabilities from peft": off,
    }


def decode(bench: Bench, rounds: int) -> dict[str, Any]:
    """Mixed decoding at concurrency 32, and of 1 to 64 tasks."""
    with bench.engine("write", ALIVE) as ours:
        together = [answer.texts[0] for answer in bench.ask(ours, "write", ALIVE, ALIVE)]
        sampling = Sampling(max_new_tokens=NEW)
        single = [
            ours.submit(Request(f"t{i}", bench.text(i), "write", sampling=sampling)).result().texts[0]
            for i in range(ALIVE)
        ]
        assert together == single, "an answer depends on its company"
        same = sum(a == b for a, b in zip(together, bench.peft_written(ALIVE), strict=True))
        counts = (1, 8, 32)
        ways: dict[str, Way] = {
            "no prompt": lambda: bench.ask(ours, "write", ALIVE, 0),
            "peft": lambda: bench.peft_written(ALIVE),
            **{f"engine, {n} tasks": lambda n=n: bench.ask(ours, "write", ALIVE, n) for n in counts},  # type: ignore[misc]
        }
        found = taking_turns(ways, rounds)
    mixed = found["engine, 32 tasks"]
    return {
        "size": bench.size,
        "m": bench.m,
        "cpu seconds": seconds(found),
        "no prompt / engine": ratio(found["no prompt"], mixed),
        "peft / engine": ratio(found["peft"], mixed),
        "1 task / 32 tasks": ratio(found["engine, 1 tasks"], mixed),
        "tokens per cpu second": round(ALIVE * NEW / statistics.median(mixed), 1),
        "answers equal to single requests": f"{ALIVE} of {ALIVE}",
        "answers equal to peft": f"{same} of {ALIVE}",
    }


def around(measure: Callable[..., dict[str, Any]]) -> Callable[[Bench, int], dict[str, Any]]:
    """A measurement that needs the backbone and some texts."""

    def measured(bench: Bench, rounds: int) -> dict[str, Any]:
        return {"size": bench.size} | measure(bench.backbone, bench.m, [bench.text(i)["text"] for i in range(32)])

    return measured


MEASURES: dict[str, Callable[[Bench, int], dict[str, Any]]] = {
    "scoring": scoring,
    "decode": decode,
    "many": around(many),
    "http": around(over_http),
}


def save(results: dict[str, list[dict[str, Any]]], rounds: int) -> None:
    """Put figures into the file, in the place of those of the same size and length."""
    facts: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    made = {
        "command": shlex.join(["python", *sys.argv]),
        "rounds": rounds,
        "machine": f"{platform.machine()}, 1 thread, CPU time",
        "torch": torch.__version__,
        "transformers": tf.__version__,
        "peft": peft.__version__,
    }
    for name, rows in results.items():
        new = {(row["size"], row["m"]) for row in rows}
        kept = [row for row in facts.get(name, []) if (row.get("size"), row["m"]) not in new]
        facts[name] = [*kept, *({**row, "made by": made} for row in rows)]
        facts[name].sort(key=lambda row: (row["size"], row["m"]))
    RESULTS.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--size", choices=list(SIZES), default="15M")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--lengths", default="20,50,100", help="prompt vectors, by commas")
    arguments.add_argument("--only", choices=["scoring", "decode", "many", "http"])
    arguments.add_argument("--quick", action="store_true", help="64 requests to be scored instead of 256")
    arguments.add_argument("--save", action="store_true", help="write benchmarks/results/serve.json")
    arguments.add_argument("--page", action="store_true", help="only write the tables of docs/serving-engine.md")
    chosen = arguments.parse_args()
    if chosen.page:
        put(ROOT / "docs" / "serving-engine.md", "serving benchmark", page(json.loads(RESULTS.read_text("utf-8"))))
        return
    torch.set_num_threads(1)
    random.seed(0)
    names = [chosen.only] if chosen.only else ["scoring", "decode"]
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for m in map(int, chosen.lengths.split(",")):
        bench = Bench(chosen.size, m, 64 if chosen.quick else 256)
        for name in names:
            results[name].append(MEASURES[name](bench, chosen.rounds))
            print(name, json.dumps(results[name][-1], indent=1), flush=True)
            if chosen.save:
                save(results, chosen.rounds)


if __name__ == "__main__":
    main()
