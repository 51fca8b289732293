"""What prompts can call on in the embedded backbone: six real tasks, their baselines, and a twin with random weights.

    python benchmarks/backbone.py [--targets trec,cr] [--kinds prompt_tuning,prefix,full] [--seeds 0,1,2] [--page]

Reads ../shared/data; none of these data sets was in the pretraining mixture. Trains every combination that
benchmarks/results/backbone.jsonl does not have yet, so it can be stopped and repeated, and several may run side by
side on different seeds. `--page` writes the table of docs/backbone.md from that file. Nothing is chosen on the test
examples: rates and lengths are the defaults, the epoch (and the rate of full fine-tuning) is chosen on dev.
"""

import argparse
import csv
import json
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from results import BEGIN, DATA, END, ROOT, combined, cr, show, shuffled, sst2, trec
from transformers import LlamaForCausalLM

from softprompt import load_backbone
from softprompt.backbones import Backbone, wrap
from softprompt.backbones.embedded import TINY
from softprompt.comparators import fine_tune
from softprompt.evaluate import score as scored
from softprompt.metrics import Score
from softprompt.plan import make_plan
from softprompt.recipe import Recipe, make_recipe
from softprompt.run import restore
from softprompt.training import fit, train
from softprompt.untrained import build

LOG = ROOT / "benchmarks" / "results" / "backbone.jsonl"
PAGE = ROOT / "docs" / "backbone.md"
DEV = 200  # rows
BIG, SMALL = (3000, 3, 2000), (1000, 5, 600)  # at most so many training rows, epochs, at most so many test rows
PROTOCOL = {"trec": BIG, "cr": BIG, "sst2": BIG, "mrpc": SMALL, "atis": SMALL, "wnut17": SMALL}
RATES = (2e-4, 1e-3)  # of full fine-tuning, of which dev chooses
TARGETS = ("trec", "cr", "sst2", "mrpc", "atis", "wnut17")
TAGGING = ("atis", "wnut17")
KINDS = ("prompt_tuning", "prefix", "full", "head")  # head: the linear probe of tagging tasks, which has no other
WORDS = {
    "trec": {"DESC": "description", "ENTY": "thing", "ABBR": "abbreviation"}
    | {"HUM": "person", "LOC": "place", "NUM": "number"}
}
Rows = list[tuple[str, ...]]


def mrpc(name: str) -> Iterator[tuple[str, ...]]:
    """Pairs of sentences and whether they mean the same."""
    for line in (DATA / "mrpc" / f"{name}.txt").read_text(encoding="utf-8-sig").splitlines()[1:]:
        label, _, _, one, two = line.split("\t")
        yield one, two, ("no", "yes")[int(label)]


def atis(name: str) -> Iterator[tuple[str, ...]]:
    """Words and their slots, as two strings."""
    folder = DATA / "atis_snips_slots" / "atis" / {"dev": "valid"}.get(name, name)
    texts = ((folder / part).read_text(encoding="utf-8").splitlines() for part in ("seq.in", "seq.out"))
    for words, tags in zip(*texts, strict=True):
        yield " ".join(words.split()), " ".join(tags.split())


def wnut17(name: str) -> Iterator[tuple[str, ...]]:
    """Words and the tags of names, as two strings."""
    for block in (DATA / "wnut17_ner" / f"{name}.conll").read_text(encoding="utf-8").split("\n\n"):
        pairs = [line.split("\t") for line in block.splitlines() if line.strip()]
        if pairs:
            yield " ".join(pair[0] for pair in pairs), " ".join(pair[1] for pair in pairs)


READERS = {"trec": trec, "cr": cr, "sst2": sst2, "mrpc": mrpc, "atis": atis, "wnut17": wnut17}


def parts(target: str) -> dict[str, Rows]:
    """Train, dev and test rows; no text of dev or test is in train."""
    read = READERS[target]
    test = {row[:-1]: row for row in read("test")}
    pool = {row[:-1]: row for row in read("train") if row[:-1] not in test}
    rows = shuffled(pool.values())
    if target in ("sst2", *TAGGING):
        dev = shuffled(row for row in read("dev") if row[:-1] not in pool and row[:-1] not in test)
    else:
        dev, rows = rows[:DEV], rows[DEV:]
    most, _, tested = PROTOCOL[target]
    return {"train": rows[:most], "dev": dev[:DEV], "test": shuffled(test.values())[:tested]}


def write(target: str, rows: Rows, path: Path) -> str:
    if target in TAGGING:
        blocks = ["\n".join(f"{w}\t{t}" for w, t in zip(a.split(), b.split(), strict=True)) for a, b in rows]
        path.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
        return str(path)
    header = ("first", "second", "label") if target == "mrpc" else ("text", "label")
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def recipe(target: str, method: str, seed: int, files: dict[str, str]) -> Recipe:
    task: dict[str, Any] = {"head": "verbalizer", "words": WORDS.get(target, {})}
    if target in TAGGING:  # all tags of the task: a few do not occur in the training rows
        tags = {tag for part in ("train", "dev", "test") for _, line in READERS[target](part) for tag in line.split()}
        task = {"labels": sorted(tags)}
    return make_recipe(
        {
            "backbone": {"name": TINY},
            "data": files | ({"text": ["first", "second"], "label": "label"} if target == "mrpc" else {}),
            "task": task,
            "method": {"name": method},
            "train": {"epochs": PROTOCOL[target][1], "seed": seed, "threads": 1},
        }
    )


def random_twin(backbone: Backbone, seed: int) -> Backbone:
    """The same architecture and tokenizer with weights as they are before pretraining."""
    torch.manual_seed(1000 + seed)
    return wrap(LlamaForCausalLM(backbone.model.config), backbone.tokenizer, "random twin")


def one(
    backbone: Backbone, target: str, kind: str, seed: int, files: dict[str, str], *, baselines: bool
) -> dict[str, Any]:
    """One run: its score and, if wanted, the baselines, which neither seed nor method changes."""
    cpu = time.process_time()
    if kind in ("full", "head"):
        plan = make_plan(recipe(target, "prompt_tuning", seed, files), backbone)
        rates = rate_of_first(target, kind) or (RATES if kind == "full" else (1e-2,))
        tried = {rate: fine_tune(plan, backbone, kind=kind, lr=rate) for rate in rates}
        made = max(tried.values(), key=lambda one: one.dev)
        score = scored(plan.kind, plan.recipe.task.metric, made.answers, plan.test)
        beside, parameters, more = (
            {},
            made.parameters,
            {"lr": made.lr, "dev_by_lr": {k: v.dev for k, v in tried.items()}},
        )
    elif baselines:
        with tempfile.TemporaryDirectory() as folder:
            report = train(recipe(target, kind, seed, files), Path(folder) / "run", backbone=backbone).report
        score, beside, parameters, more = report.scores[0], report.baselines, report.parameters, {}
    else:
        plan = make_plan(recipe(target, kind, seed, files), backbone)
        prompt = build(plan, backbone)
        with tempfile.TemporaryDirectory() as folder:
            best, _ = fit(prompt, plan, Path(folder), None, lambda event: None)
        restore(prompt, best)
        answers = [prediction.answer for prediction in prompt.predict(plan.test)]
        score = scored(plan.kind, plan.recipe.task.metric, answers, plan.test)
        beside, parameters, more = {}, sum(weight.numel() for weight in prompt.parameters()), {}
    return {
        "score": score.as_dict(),
        "baselines": {key: value.as_dict() for key, value in beside.items()},
        "parameters": parameters,
        **more,
        "cpu_s": round(time.process_time() - cpu, 1),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "machine": f"{platform.machine()}, 1 thread",
    }


def rate_of_first(target: str, kind: str) -> tuple[float, ...]:
    """The rate that dev chose for the first seed, which the others take over; none for the first, which tries all."""
    found = [run["lr"] for run in done() if run["target"] == target and run["kind"] == kind]
    return tuple(found[:1])


def done() -> list[dict[str, Any]]:
    return [json.loads(line) for line in LOG.read_text().splitlines()] if LOG.exists() else []


def table(runs: list[dict[str, Any]]) -> str:
    """A Markdown table: one line for each target, mean ± over seeds."""
    groups: dict[tuple[str, str, bool], list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        groups[run["target"], run["kind"], run["twin"]].append(run)

    def cell(target: str, kind: str, twin: bool = False) -> str:
        found = groups.get((target, kind, twin))
        return show(combined([Score.from_dict(run["score"]) for run in found])) if found else "-"

    def beside(target: str, name: str) -> str:
        main = groups.get((target, "prompt_tuning", False), [])
        found = [run["baselines"][name] for run in main if name in run["baselines"]]
        return show(combined([Score.from_dict(value) for value in found])) if found else "-"

    lines = [
        "| target | metric | seeds | majority | zero-shot | linear probe | prompt tuning | prefix | full fine-tuning "
        "| prompt tuning, random twin | prefix, random twin |",
        f"|{' --- |' * 11}",
    ]
    for target in TARGETS:
        main = groups.get((target, "prompt_tuning", False))
        if not main:
            continue
        probe = cell(target, "head") if target in TAGGING else beside(target, "linear probe")
        cells = [beside(target, "majority"), beside(target, "zero-shot"), probe, f"**{cell(target, 'prompt_tuning')}**"]
        cells += [f"**{cell(target, 'prefix')}**", cell(target, "full")]
        cells += [cell(target, "prompt_tuning", True), cell(target, "prefix", True)]
        lines.append(f"| {target} | {main[0]['score']['name']} | {len(main)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_page(runs: list[dict[str, Any]]) -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(runs)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--targets", default=",".join(TARGETS))
    arguments.add_argument("--kinds", default=",".join(KINDS))
    arguments.add_argument("--seeds", default="0,1,2")
    arguments.add_argument("--twins", default="no,yes", help="no: the trained backbone, yes: its random twin")
    arguments.add_argument("--page", action="store_true", help="only write the page")
    chosen = arguments.parse_args()
    if chosen.page:
        write_page(done())
        return
    if not DATA.exists():
        raise SystemExit(f"no real data: {DATA.relative_to(ROOT.parent)} is absent beside the repository")
    trained = load_backbone(TINY)
    for seed in map(int, chosen.seeds.split(",")):
        for target in chosen.targets.split(","):
            with tempfile.TemporaryDirectory() as folder:
                files = {
                    part: write(target, rows, Path(folder) / f"{part}.{'conll' if target in TAGGING else 'csv'}")
                    for part, rows in parts(target).items()
                }
                for twin in (name == "yes" for name in chosen.twins.split(",")):
                    for kind in chosen.kinds.split(","):
                        key = {"target": target, "kind": kind, "seed": seed, "twin": twin}
                        skip = (twin and kind in ("full", "head")) or (kind == "head" and target not in TAGGING)
                        if skip or any(all(run[k] == v for k, v in key.items()) for run in done()):
                            continue
                        backbone = random_twin(trained, seed) if twin else trained
                        first = seed == 0 and kind == "prompt_tuning" and not twin
                        run = key | one(backbone, target, kind, seed, files, baselines=first)
                        with LOG.open("a") as file:
                            file.write(json.dumps(run) + "\n")
                        print(key, Score.from_dict(run["score"]), f"{run['cpu_s']} CPU s", flush=True)


if __name__ == "__main__":
    main()
