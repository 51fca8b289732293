"""The experiments of docs/lab: data, `softprompt compare` on every recipe, its report, and whether the claim held.

    python benchmarks/lab.py [start depth ...] [--page]

Reads ../shared/data. Runs the experiments that are named (all, if none is) under runs/lab, where a comparison that was
stopped goes on, and puts each report into docs/lab/NAME. `--page` writes the table of docs/lab/README.md from the
reports that lie there. A claim is a contrast of test scores, seed by seed: it holds where the mean is above 0 and
Student's two-sided p is below 0.05; "steady" compares mean distances from the median of all runs of a side (Brown and
Forsythe 1974), as Welch does. Nothing is chosen on test.
"""

import argparse
import json
import shlex
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from experiments import EXPERIMENTS, GAP_SEEDS, Side, gap_run
from results import DATA, ROOT, parts, write
from runs import put
from transformers import LlamaForCausalLM
from verdicts import welch

from softprompt import load_backbone
from softprompt.artifact import Artifact
from softprompt.backbones.embedded import TINY
from softprompt.cli import main as softprompt
from softprompt.data import read
from softprompt.lab.protocol import contender, folder_of
from softprompt.lab.verdict import paired_t

HOME, PAGE, PLACE = ROOT / "docs" / "lab", ROOT / "docs" / "lab" / "README.md", Path("runs/lab")
ROWS, TEST = 300, 400  # of the data that are written
BINS = 10  # of the calibration error
LEFT = ("numbers.json", "report.html", "runs.csv", "trials.csv", "pairs.csv", "seconds.csv", "table.tex", "figure.png")
Numbers = dict[str, Any]


def prepare() -> None:
    """The data of TREC, SST-2 and CR as files, and the twin with random weights."""
    for task in ("trec", "sst2", "cr"):
        folder = PLACE / "data" / task
        if not (folder / "test.csv").exists():
            folder.mkdir(parents=True, exist_ok=True)
            for part, rows in parts(task, ROWS, TEST).items():
                write(rows, folder / f"{part}.csv")
    if not (PLACE / "random" / "config.json").exists():
        backbone = load_backbone(TINY)
        torch.manual_seed(0)
        LlamaForCausalLM(backbone.model.config).save_pretrained(PLACE / "random")
        backbone.tokenizer.save_pretrained(PLACE / "random")


def comparisons(name: str) -> list[tuple[str, Path, Path]]:
    """The command of every comparison of an experiment, the folder it runs in, and the one its report goes to."""
    found = [command for command in EXPERIMENTS[name].commands if command.startswith("compare")]
    ends = [f"-{i}" if i > 1 else "" for i in range(1, len(found) + 1)]
    return [(c, PLACE / f"{name}{end}", HOME / f"{name}{end}") for c, end in zip(found, ends, strict=True)]


def run(name: str) -> None:
    """Everything that an experiment needs, then its comparisons; their reports are copied."""
    for command in EXPERIMENTS[name].commands:
        folder = Path(command.split()[-1])
        if not command.startswith("compare") and not (folder / "report.json").exists():
            call(f"resume {folder}" if folder.exists() else command)
    for command, place, report in comparisons(name):
        call(f"{command} --run {place}")
        report.mkdir(parents=True, exist_ok=True)
        for file in LEFT:
            if (place / file).exists():
                shutil.copyfile(place / file, report / file)
    if (kind := EXPERIMENTS[name].kind) in READ:
        (HOME / name).mkdir(exist_ok=True)
        numbers_of(name).write_text(json.dumps(READ[kind](name), indent=1) + "\n")


def numbers_of(name: str) -> Path:
    """The file of what is read from the runs of an experiment, beside what its reports say."""
    return HOME / name / f"{EXPERIMENTS[name].kind}.json"


def call(command: str) -> None:
    print(f"softprompt {command}", flush=True)
    if softprompt(shlex.split(command)):
        raise SystemExit(1)


def calibration(name: str) -> dict[str, dict[str, float]]:
    """The calibration error of every run on test, by method and seed."""
    found: dict[str, dict[str, float]] = {}
    for _, task, method in (*EXPERIMENTS[name].plus, *EXPERIMENTS[name].minus):
        for folder in sorted((PLACE / name / "runs" / task / "all" / folder_of(method)).glob("seed-*")):
            artifact = Artifact.load(folder / "prompt.safetensors")
            prompt = artifact.bind(load_backbone(TINY))
            examples = read(str(PLACE / name / "data" / task / "test.jsonl"), labels=artifact.card.task.labels).examples
            pairs = [
                (max(p.scores.values()), float(p.answer == e.label))
                for p, e in zip(prompt.predict(examples), examples, strict=True)
            ]
            found.setdefault(method, {})[folder.name.removeprefix("seed-")] = expected_error(pairs)
    return found


def gaps(name: str) -> dict[str, dict[str, float]]:
    """How far the prompt is behind full fine-tuning on test, by backbone and seed."""
    found: dict[str, dict[str, float]] = {}
    for _, _, model in (*EXPERIMENTS[name].plus, *EXPERIMENTS[name].minus):
        for seed in GAP_SEEDS:
            report = json.loads(gap_run(model, seed).joinpath("report.json").read_text())
            whole, prompt = report["comparators"]["full fine-tuning"], report["scores"][0]
            found.setdefault(model, {})[str(seed)] = whole["value"] - prompt["value"]
    return found


READ = {"calibration": calibration, "gap": gaps}  # what is smaller where the claim holds


def expected_error(pairs: Sequence[tuple[float, float]]) -> float:
    """Guo et al. 2017, arXiv:1706.04599, equation 3: mean gap of confidence and accuracy over BINS equal bins."""
    bins: dict[int, list[tuple[float, float]]] = {}
    for sure, right in pairs:
        bins.setdefault(min(BINS - 1, int(BINS * sure)), []).append((sure, right))
    return sum(abs(sum(sure - right for sure, right in one)) for one in bins.values()) / len(pairs)


def scores(reports: Sequence[Numbers], side: Side) -> dict[int, float]:
    """Test scores of a side by seed, in points."""
    command, task, method = side
    question = next(q for q in reports[command]["questions"] if q["task"] == task and q["size"] == "all")
    found = next(one for one in question["methods"] if one["method"] == method)
    return {one["seed"]: 100 * one["test"]["value"] for one in found["runs"]}


def verdict(name: str) -> tuple[str, str]:
    """The numbers that decide, and whether the claim held; empty where a report is lacking."""
    asked, files = EXPERIMENTS[name], [report / "numbers.json" for _, _, report in comparisons(name)]
    files += [numbers_of(name)] if asked.kind in READ else []
    if not all(file.exists() for file in files):
        return "", ""
    reports = [json.loads(file.read_text()) for file in files]
    if asked.kind == "steady":
        apart = [distances(reports, side) for side in (asked.minus, asked.plus)]
        value, error = welch(*apart)
        told = " against ".join(f"{statistics.mean(one):.1f} (n = {len(one)})" for one in apart)
        return f"mean distance from the median {told}: {value:+.1f} ±{error:.1f}", held(value, abs(value) > error)
    if asked.kind in READ:
        read = reports.pop()
        plus, minus = ([read[one[2]] for one in side] for side in (asked.minus, asked.plus))  # smaller is better
        plus, minus = ([{int(k): 100 * v for k, v in one.items()} for one in side] for side in (plus, minus))
    else:
        plus, minus = ([scores(reports, one) for one in side] for side in (asked.plus, asked.minus))
    seeds = set.intersection(*(set(one) for one in (*plus, *minus)))
    gaps = [sum(one[seed] for one in plus) - sum(one[seed] for one in minus) for seed in sorted(seeds)]
    value, wide, p = paired_t(gaps)
    return f"{value:+.1f} ±{wide or 0:.1f} points ({len(gaps)} seeds, p = {p or 1:.2g})", held(value, (p or 1) < 0.05)


def held(value: float, sure: bool) -> str:
    if not sure:
        return "not decided: within the ±"
    return "**held**" if value > 0 else "**the other way round**"


def distances(reports: Sequence[Numbers], sides: Sequence[Side]) -> list[float]:
    """How far every run is from the median of all runs of its method, whatever the method fixes."""
    by_method: dict[str, list[float]] = {}
    for side in sides:
        by_method.setdefault(contender(side[2])[0], []).extend(scores(reports, side).values())
    return [abs(value - statistics.median(values)) for values in by_method.values() for value in values]


def page() -> str:
    """The table of docs/lab/README.md."""
    lines = ["| experiment | claim | seen here | verdict |", "| --- | --- | --- | --- |"]
    for name, asked in EXPERIMENTS.items():
        seen, decided = verdict(name)
        links = [f"[report]({report.name}/report.html)" for _, _, report in comparisons(name)]
        links += [f"[numbers]({name}/{asked.kind}.json)"] if asked.kind in READ else []
        reports = ", ".join(links)
        lines.append(
            f"| `{name}` | {asked.claim} | {seen + '; ' + reports if seen else ''} | {decided or 'not run yet'} |"
        )
    lines += ["", "The commands, from the root of the repository:", "", "```text"]
    for name, asked in EXPERIMENTS.items():
        before = [f"softprompt {command}" for command in asked.commands if not command.startswith("compare")]
        lines += [*before, *(f"softprompt {command} --run {place}" for command, place, _ in comparisons(name))]
    return "\n".join([*lines, "```"])


def main() -> None:
    """Run experiments, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(EXPERIMENTS))
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    if given.page:
        put(PAGE, "lab", page())
        return
    if not DATA.exists():
        raise SystemExit(f"no data in {DATA}")
    prepare()
    for name in given.names or EXPERIMENTS:
        run(name)


if __name__ == "__main__":
    main()
