"""The main job on real data: SST-2, TREC, CR and CLINC150 with a small encoder and a small causal model.

    python benchmarks/results.py [--tasks trec,cr] [--backbones minilm] [--methods prefix] [--seeds 0,1,2]

Reads ../shared/data and ../shared/backbones, trains every combination that benchmarks/results/main_job.jsonl does not
have yet (so it can be stopped and repeated), and writes the tables of docs/results.md from that file. Nothing is chosen
on the test examples: rates and lengths are the defaults, the epoch is chosen on dev.
"""

import argparse
import csv
import json
import platform
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

from softprompt import load_backbone
from softprompt.backbones import Backbone
from softprompt.backbones.embedded import MINILM
from softprompt.metrics import Score, over_seeds
from softprompt.recipe import make_recipe
from softprompt.training import train

ROOT = Path(__file__).resolve().parents[1]
DATA, MODELS = ROOT.parent / "shared" / "data", ROOT.parent / "shared" / "backbones"
LOG = ROOT / "benchmarks" / "results" / "main_job.jsonl"
PAGE = ROOT / "docs" / "results.md"
BEGIN, END = "<!-- main job: begin -->", "<!-- main job: end -->"
ROWS = 1000  # training rows of each task (CLINC150: 10 a class)
TASKS = ("trec", "sst2", "cr", "clinc150")
SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("minilm", "prompt_tuning"): {},
    ("minilm", "prefix"): {"options": {"layers": "4-5"}},
    ("stories260K", "prompt_tuning"): {},
    ("stories260K", "prefix"): {},
}
DEV = 200  # rows, drawn once
Protocol = dict[str, Any]
PROTOCOLS: dict[str, Protocol] = {
    "1,000 rows": {"rows": ROWS, "test": 600, "epochs": 4, "pool": "auto"},
    # What stories260K needs for sentiment, of which children's stories hold little: every row, and the mean state.
    "all rows, mean state": {"rows": 10**6, "test": 2000, "epochs": 6, "pool": "mean"},
}
Rows = list[tuple[str, str]]


def trec(name: str) -> Iterator[tuple[str, str]]:
    """Six coarse classes: the part of the label before the colon."""
    path = DATA / "trec" / ("raw_test.txt" if name == "test" else "raw_train.txt")
    for line in path.read_text(encoding="latin-1").splitlines():
        label, _, text = line.partition(" ")
        yield text.strip(), label.partition(":")[0]


def sst2(name: str) -> Iterator[tuple[str, str]]:
    for line in (DATA / "sst2" / f"{name}.tsv").read_text(encoding="utf-8").splitlines():
        text, _, label = line.rpartition("\t")
        yield text.strip(), ("negative", "positive")[int(label)]


def cr(name: str) -> Iterator[tuple[str, str]]:
    """One file without parts: 775 rows, drawn once, are the test."""
    lines = [line for line in (DATA / "cr" / "all.txt").read_text(encoding="latin-1").splitlines() if line.strip()]
    lines = [line for line in lines if line.partition(" ")[2].strip()]  # four rows have a label and no text
    random.Random(0).shuffle(lines)
    for line in lines[:775] if name == "test" else lines[775:]:
        label, _, text = line.partition(" ")
        yield text.strip(), ("negative", "positive")[int(label)]


def clinc150(name: str) -> Iterator[tuple[str, str]]:
    """The 150 intents, without the out-of-scope questions."""
    part = {"train": "train", "dev": "val", "test": "test"}[name]
    for text, label in json.loads((DATA / "clinc150" / "data_full.json").read_text(encoding="utf-8"))[part]:
        yield text.strip(), label


READERS = {"trec": trec, "sst2": sst2, "cr": cr, "clinc150": clinc150}


def parts(task: str, rows_used: int = ROWS, test_used: int = 600) -> dict[str, Rows]:
    """Train, dev and test rows; no text of dev or test is in train, and no text has two labels."""
    read = READERS[task]
    test = dict(read("test"))
    pool = {text: label for text, label in read("train") if text not in test}
    rows = shuffled(pool.items())
    if task in ("sst2", "clinc150"):
        dev = shuffled(row for row in dict(read("dev")).items() if row[0] not in pool and row[0] not in test)
    else:
        dev, rows = rows[:DEV], rows[DEV:]
    if task == "clinc150":
        by_label: dict[str, Rows] = defaultdict(list)
        for row in rows:
            by_label[row[1]].append(row)
        rows = [row for group in by_label.values() for row in group[:10]]
    else:
        rows = rows[:rows_used]
    return {"train": rows, "dev": dev[:DEV], "test": shuffled(test.items())[:test_used]}


def shuffled(rows: Iterable[tuple[str, str]]) -> Rows:
    """The rows in an order that is always the same."""
    made = sorted(rows)
    random.Random(1).shuffle(made)
    return made


def write(rows: Rows, path: Path) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return str(path)


def model_path(name: str) -> str:
    return MINILM if name == "minilm" else str(MODELS / name)


def one(
    backbone: Backbone, name: str, task: str, method: str, seed: int, files: dict[str, str], protocol: str
) -> dict[str, Any]:
    """One run: scores and baselines on the test examples."""
    chosen = PROTOCOLS[protocol]
    recipe = make_recipe(
        {
            "backbone": {"name": model_path(name)},
            "data": files,
            "task": {"head": "classifier", "pool": chosen["pool"]},  # neither model can answer in words
            "method": {"name": method} | SETTINGS[name, method],
            "train": {"epochs": chosen["epochs"], "seed": seed, "threads": 1},
        }
    )
    cpu = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = train(recipe, Path(folder) / "run", backbone=backbone)
        size = result.artifact.stat().st_size
    report = result.report
    return {
        "backbone": name,
        "task": task,
        "method": method,
        "seed": seed,
        "protocol": protocol,
        "score": report.scores[0].as_dict(),
        "baselines": {key: value.as_dict() for key, value in report.baselines.items()},
        "parameters": report.parameters,
        "bytes": size,
        "cpu_s": round(time.process_time() - cpu, 1),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "machine": f"{platform.machine()}, 1 thread",
    }


def done() -> list[dict[str, Any]]:
    return [json.loads(line) for line in LOG.read_text().splitlines()] if LOG.exists() else []


def table(runs: list[dict[str, Any]]) -> str:
    """A Markdown table: one line for each backbone, task and method, mean ± over seeds."""
    groups: dict[tuple[str, str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        groups[run["backbone"], run["task"], run["method"], run["protocol"]].append(run)
    lines = [
        "| backbone | task | method | protocol | accuracy | seeds | majority | zero-shot | untrained | probe "
        "| trained | file | CPU s |",
        f"|{' --- |' * 13}",
    ]
    for (backbone, task, method, protocol), group in sorted(groups.items()):
        scores = [Score.from_dict(run["score"]) for run in group]
        mean = combined(scores)
        beside = [
            show(combined([Score.from_dict(run["baselines"][key]) for run in group]))
            if key in group[0]["baselines"]
            else "-"
            for key in ("majority", "zero-shot", "untrained prompt", "linear probe")
        ]
        cpu = sum(run["cpu_s"] for run in group) / len(group)
        lines.append(
            f"| {backbone} | {task} | {method} | {protocol} | **{show(mean)}** | {len(group)} | {' | '.join(beside)} | "
            f"{group[0]['parameters']:,} | {group[0]['bytes'] / 1000:.0f} kB | {cpu:.0f} |"
        )
    return "\n".join(lines)


def combined(scores: list[Score]) -> Score:
    """The mean over seeds, with the larger of two intervals: over seeds (from three on) and over test examples."""
    mean = over_seeds(scores)
    examples = sum(score.error for score in scores) / len(scores)
    return replace(mean, error=max(examples, mean.error if len(scores) > 2 else 0.0))


def show(score: Score) -> str:
    return f"{100 * score.value:.1f} ±{100 * score.error:.1f}"


def write_page(runs: list[dict[str, Any]]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table(runs)}\n{END}{after}", encoding="utf-8")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--tasks", default=",".join(TASKS))
    arguments.add_argument("--backbones", default="minilm,stories260K")
    arguments.add_argument("--methods", default="prefix,prompt_tuning")
    arguments.add_argument("--seeds", default="0,1,2")
    arguments.add_argument("--protocol", default="1,000 rows", choices=list(PROTOCOLS))
    chosen = arguments.parse_args()
    if not DATA.exists():
        raise SystemExit(f"no real data: {DATA.relative_to(ROOT.parent)} is absent beside the repository")
    LOG.parent.mkdir(exist_ok=True)
    known = {(run["backbone"], run["task"], run["method"], run["seed"], run["protocol"]) for run in done()}
    for name in chosen.backbones.split(","):
        backbone = load_backbone(model_path(name))
        for seed in map(int, chosen.seeds.split(",")):
            for task in chosen.tasks.split(","):
                with tempfile.TemporaryDirectory() as folder:
                    made = parts(task, PROTOCOLS[chosen.protocol]["rows"], PROTOCOLS[chosen.protocol]["test"])
                    files = {part: write(rows, Path(folder) / f"{part}.csv") for part, rows in made.items()}
                    for method in chosen.methods.split(","):
                        if (name, task, method, seed, chosen.protocol) in known:
                            continue
                        run = one(backbone, name, task, method, seed, files, chosen.protocol)
                        with LOG.open("a") as file:
                            file.write(json.dumps(run) + "\n")
                        print(
                            name, task, method, seed, Score.from_dict(run["score"]), f"{run['cpu_s']} CPU s", flush=True
                        )
                        write_page(done())


if __name__ == "__main__":
    main()
