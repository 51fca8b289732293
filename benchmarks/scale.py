"""What our own measurements imply for 10,000 prompts, 1,000 requests a second and a backbone of 70 billion parameters.

    python benchmarks/scale.py [--rate 1000] [--prompts 10000] [--skew 1.0] [--json] [--save] [--page]

Operations and bytes are counted from the sizes of the models; two numbers of this machine are fitted to two
measurements of benchmarks/results/serve.json, and all other measurements there and in train.json are then predicted
and compared. The same simulation is run for more requests, and for a machine that we do not have, whose figures are
assumptions. `--save` writes benchmarks/results/scale.json, `--page` the tables of docs/scale.md from that file. It
takes some seconds of one core and no model.
"""

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runs import put
from scale_checks import NEW, checks, fitted, seconds, small, trained
from scale_model import Asked, Machine, Model, Replica, llama, shared, traffic
from scale_page import page

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / "benchmarks" / "results"
RESULTS = MEASURED / "scale.json"
LARGE = {"vocab_size": 128_256, "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64}
LARGE |= {"num_key_value_heads": 8, "intermediate_size": 28_672, "tied": 0}
PEAK, BAND, MEMORY = 989e12, 3.35e12, 80e9  # NVIDIA's data sheet of the H100 SXM: dense bfloat16, HBM3
DEVICES, REACHED, READ = 4, 0.4, 0.6  # assumed: devices of a replica, and the shares of the two that are reached
SECONDS = 10.0  # of simulated traffic
WARM = 100.0  # seconds of traffic before, which fills the stores of compiled prompts
RESERVE = 0.1  # more traffic than is asked for, that replicas have to bear


def load(name: str) -> Any:
    return json.loads((MEASURED / name).read_text(encoding="utf-8"))


def constants(serve: dict[str, Any], store: dict[str, Any], machine: Machine) -> dict[str, Any]:
    """What we measured, by prompt, by token and by change of task."""
    model, files = small("15M"), defaultdict(list)
    for line in (MEASURED / "methods.jsonl").read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        if "bytes" in run and run.get("parameters"):
            files[run["method"], run["parameters"]].append(run["bytes"])
    cards = [size - 4 * n for (name, n), sizes in files.items() if name in STORED for size in sizes]
    score = {m: seconds(serve, "scoring", m) for m in (20, 100)}
    wrote = seconds(serve, "decode", 20)
    many = store["many"]
    return {
        "files": [[*key, round(statistics.median(sizes))] for key, sizes in sorted(files.items())],
        "card": round(statistics.median(cards)),
        "operations of a token": model.operations(1, 0, 0),
        "bytes of a place": model.place,
        "machine": asdict(machine),
        "reading a front, ms a request": {str(m): 1000 * (s["engine"] - s["no prompt"]) / 64 for m, s in score.items()},
        "32 tasks over 1, ms a token": 1000 * (wrote["engine, 32 tasks"] - wrote["engine, 1 tasks"]) / (32 * NEW),
        "http, ms": serve["http"][0]["cpu ms that HTTP adds, client included"],
        "index, bytes a version": many["index_bytes"] / many["versions"],
        "load by name, ms": many["load_by_name"]["median_ms"],
        "publishes a second": store["writers"]["publishes_per_second"],
    }


STORED = ("prompt_tuning", "prefix")  # methods whose files hold what was trained, and nothing else


def implied(card: float, prompts: int) -> list[list[Any]]:
    """Bytes of one prompt, and of all, for 70B and 20 vectors; the last is what a copy of the weights would take."""
    model, m = llama(2, **LARGE), 20
    vectors, prefix = 4 * m * model.stack.hidden, 4 * m * model.place / model.size
    return [
        [name, one, prompts * one]
        for name, one in (
            ("file, prompt tuning (float32)", vectors + card),
            ("file, prefix (float32)", prefix + card),
            ("compiled prompt in the engine (bfloat16)", compiled(model, m)),
            ("the weights (bfloat16): once, and a copy for every task", model.weights * model.size),
        )
    ]


def compiled(model: Model, m: int) -> float:
    """Bytes of a front: keys and values of every layer, and its last states."""
    return m * (model.place + model.stack.hidden * model.size)


def learning(machine: Machine) -> dict[str, float]:
    """Training one prompt on 70B: 1,000 texts of 32 tokens, 4 epochs in steps of 16."""
    model = llama(2, **LARGE)
    step = trained(model, {"batch": 16, "n": 32, "m": 20})
    steps = 4 * -(-1000 // 16)
    return {
        "operations": steps * step.operations,
        "seconds": steps * step.on(machine),
        "gradient, bytes a step": 4.0 * 20 * model.stack.hidden,
    }


@dataclass(frozen=True)
class Case:
    """Traffic on machines of one kind."""

    name: str
    model: Model
    machine: Machine
    m: int
    text: int
    new: int
    rows: int
    chunk: int
    room: float  # bytes for compiled prompts
    soon: float  # seconds that 99 of 100 answers may take


def cases(core: Machine) -> list[Case]:
    """A core of this machine with the engine's own limits, and four large devices that we do not have."""
    model, large = small("15M"), llama(2, **LARGE)
    four = Machine(DEVICES * PEAK * REACHED, DEVICES * BAND * READ)
    free = (DEVICES * MEMORY - large.weights * large.size) / 2
    here: dict[str, Any] = {"rows": 32, "chunk": 256, "room": float(1 << 30), "soon": 1.0}
    there: dict[str, Any] = {"rows": 256, "chunk": 2048, "room": free, "soon": 1.0}
    return [
        Case("15M, a core of this machine", model, core, 20, 32, 0, **here),
        Case("15M, a core of this machine", model, core, 20, 32, NEW, **here),
        Case("70B, 4 H100", large, four, 20, 32, NEW, **there),
        Case("70B, 4 H100", large, four, 100, 32, NEW, **there),
        Case("70B, 4 H100", large, four, 100, 512, 128, **there | {"soon": 10.0}),
    ]


def run(case: Case, parts: Sequence[Sequence[Asked]], before: Sequence[Sequence[Asked]]) -> dict[str, Any]:
    """The traffic of some replicas, whose stores hold what traffic before left there."""
    held = int(case.room / compiled(case.model, case.m))
    made = [Replica(case.model, case.machine, case.m, case.rows, case.chunk, held) for _ in parts]
    for replica, part, old in zip(made, parts, before, strict=True):
        for asked in old:
            replica.touch(asked.prompt)
        replica.serve(part)
    taken = sorted(second for replica in made for second in replica.taken)
    busy = [replica.busy / max(SECONDS, replica.now) for replica in made]
    return {
        "held": held,
        "p50": round(taken[len(taken) // 2], 3),
        "p99": round(taken[int(0.99 * len(taken))], 3),
        "missed": round(sum(replica.missed for replica in made) / len(taken), 4),
        "busy": [round(min(busy), 2), round(max(busy), 2)],
    }


def fewest(case: Case, requests: Sequence[Asked], before: Sequence[Asked]) -> int:
    """The smallest number of replicas that answer 99 of 100 requests soon enough.

    Replicas that are asked by turns are alike: two of them stand for all.
    """

    def enough(replicas: int) -> bool:
        found = run(case, *(shared(each, replicas, home=False)[:2] for each in (requests, before)))
        return bool(found["p99"] <= case.soon)

    low, high = 0, 1
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def simulated(core: Machine, rate: float, prompts: int, skew: float) -> list[dict[str, Any]]:
    """Every case, with requests sent to replicas by turns, and each prompt's to a replica of its own."""
    made = []
    for case in cases(core):
        requests = traffic(rate, SECONDS, prompts, case.text, case.new, skew)
        before = traffic(rate, WARM, prompts, case.text, case.new, skew, seed=1)
        more = traffic((1 + RESERVE) * rate, SECONDS, prompts, case.text, case.new, skew, seed=2)
        replicas = fewest(case, more, before)
        facts = {"case": case.name, "m": case.m, "text": case.text, "new": case.new, "replicas": replicas}
        for home in (False, True):
            parts = [shared(each, replicas, home=home) for each in (requests, before)]
            made.append(facts | {"home": home} | run(case, *parts))
    return made


def everything(rate: float, prompts: int, skew: float) -> dict[str, Any]:
    """All tables."""
    serve, train, store = (load(f"{name}.json") for name in ("serve", "train", "store"))
    core = fitted(serve)
    known = constants(serve, store, core)
    four = Machine(DEVICES * PEAK * REACHED, DEVICES * BAND * READ)
    return {
        "asked": {"rate": rate, "prompts": prompts, "skew": skew, "seconds": SECONDS, "warm": WARM, "reserve": RESERVE},
        "assumed": {"devices": DEVICES, "peak": PEAK, "band": BAND, "memory": MEMORY, "reached": REACHED, "read": READ},
        "constants": known,
        "checks": [asdict(check) | {"error": round(check.error, 3)} for check in checks(core, serve, train)],
        "implied": implied(known["card"], prompts),
        "learning": learning(four),
        "simulated": simulated(core, rate, prompts, skew),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rate", type=float, default=1000.0, help="requests a second")
    arguments.add_argument("--prompts", type=int, default=10_000)
    arguments.add_argument("--skew", type=float, default=1.0, help="of Zipf's law; 0: all prompts alike")
    arguments.add_argument("--json", action="store_true", help="print one JSON document")
    arguments.add_argument("--save", action="store_true", help="write benchmarks/results/scale.json")
    arguments.add_argument("--page", action="store_true", help="only write the tables of docs/scale.md from that file")
    chosen = arguments.parse_args()
    if chosen.page:
        put(ROOT / "docs" / "scale.md", "scale", page(load("scale.json")))
        return
    found = everything(chosen.rate, chosen.prompts, chosen.skew)
    print(json.dumps(found, indent=1) if chosen.json else page(found))
    if chosen.save:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
