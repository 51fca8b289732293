"""Prompts that are text, on real tasks with the embedded backbone: every strategy and random search at equal cost.

    python benchmarks/search.py [--tasks trec,sst2] [--strategies gcg,random] [--seeds 0,1,2] [--budget 10000] [--page]

Reads ../shared/data. Does the searches that benchmarks/results/search.jsonl does not have yet for the weights and the
protocol at hand, so it can be stopped and repeated. `--page` writes the table of docs/search.md from that file. The
best prompt of a search is chosen on dev; test is asked once, for what was chosen, and chooses nothing. Beside it stand
no prompt, a question written by hand, and the instruction that grips begins at, all without any search.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
from results import DATA, ROOT
from runs import Run, done, facts, known, note, numbers, put, split, versions
from tasks import write
from transfer_tasks import rows

from softprompt import load_backbone
from softprompt.backbones import Backbone
from softprompt.backbones.embedded import TINY
from softprompt.evaluate import score
from softprompt.metrics import paired
from softprompt.plan import Plan, make_plan
from softprompt.recipe import Recipe, make_recipe
from softprompt.search import STRATEGIES, Candidates, Ledger, Scorer, Settings, adapted, first, instruction, strategy_of
from softprompt.search.candidates import Ids
from softprompt.search.loop import seek
from softprompt.untrained import build

LOG = ROOT / "benchmarks" / "results" / "search.jsonl"
PAGE = ROOT / "docs" / "search.md"
TRAIN, DEV, TEST, LENGTH = 1000, 200, 1000, 5  # rows, and tokens of a prompt
TEMPLATE = "{text}\n{soft} {mask}"
QUESTIONS = {  # written by hand, before anything was searched: words that are common in front of such answers
    "trec": "question type:",
    "sst2": "sentiment:",
    "cr": "sentiment:",
}
BUDGET, EXAMPLES, SCORED = 10_000, 16, 100  # passes; examples of a step; dev examples that choose the best
FIXED = ("no prompt", "by hand", "the instruction")


def recipe(task: str, folder: Path) -> Recipe:
    """The task over files in a folder: the first rows are dev, the next are trained on."""
    whole = rows(task, TEST)
    parts = {"dev": whole["train"][:DEV], "train": whole["train"][DEV : DEV + TRAIN], "test": whole["test"]}
    files = {name: write(part, ("text", "label"), folder / f"{name}.csv") for name, part in parts.items()}
    values = {
        "backbone": {"name": TINY},
        "data": files | {"text": ["text"], "label": "label"},
        "task": {"kind": "classification", "head": "verbalizer", "template": TEMPLATE, "metric": "accuracy"},
        "train": {"threads": 1},
    }
    return adapted(make_recipe(values), LENGTH)


def tested(candidates: Candidates, ids: Ids, plan: Plan) -> Run:
    """The score of a prompt on test, and which answers are right."""
    answers = [prediction.answer for prediction in candidates.worded(ids).predict(plan.test)]
    right = [answer == example.label for answer, example in zip(answers, plan.test, strict=True)]
    made = score(plan.kind, "accuracy", answers, plan.test).as_dict()
    return {"score": made, "right": "".join(str(int(one)) for one in right)}


def searched(strategy: str, seed: int, chosen: argparse.Namespace, candidates: Candidates, plan: Plan) -> Run:
    """One search, and what it found."""
    began, kind = time.process_time(), strategy_of(strategy)
    at = first(None, candidates, plan, kind, candidates.prompt.backbone, seed)
    made = Settings(strategy, chosen.budget, at, seed, kind.count, chosen.examples, chosen.scored)
    with tempfile.TemporaryDirectory() as folder:
        found = seek(kind, Scorer(candidates, Ledger(chosen.budget)), plan, made, Path(folder), lambda event: None)
    run: Run = {"text": candidates.text(found.best), "start": candidates.text(at), "dev": found.key}
    run |= {"passes": vars(found.ledger), "steps": found.step, "dev_scored": len(found.history)}
    run["cpu_s"] = round(time.process_time() - began, 1)
    return run | tested(candidates, found.best, plan)


def protocol(task: str, chosen: argparse.Namespace, backbone: Backbone) -> Run:
    return {
        "task": task,
        "template": TEMPLATE,
        "train": TRAIN,
        "test": TEST,
        "budget": chosen.budget,
        "examples": chosen.examples,
        "scored": chosen.scored,
        "backbone": backbone.fingerprint,
    }


def everything(chosen: argparse.Namespace, backbone: Backbone) -> None:
    """All runs that are lacking, seed by seed, so that a table can be made early."""
    for seed in chosen.seeds:
        for task in chosen.tasks:
            key = protocol(task, chosen, backbone)
            with tempfile.TemporaryDirectory() as folder:
                plan = make_plan(recipe(task, Path(folder)), backbone)
                candidates = Candidates(build(plan, backbone).eval())
                for name, text in zip(FIXED, ("", QUESTIONS[task], instruction(plan)), strict=True):
                    if not known(chosen.log, key | {"method": name}):
                        run = tested(candidates, candidates.read(text) if text else (), plan)
                        note(chosen.log, key | {"method": name, "seed": 0, "text": text} | run | facts(backbone))
                for strategy in chosen.strategies:
                    own = key | {"method": strategy, "seed": seed}
                    if not known(chosen.log, own):
                        run = searched(strategy, seed, chosen, candidates, plan)
                        note(chosen.log, own | run | facts(backbone))


def right(group: list[Run]) -> list[float]:
    """For each test example, the share of runs that answer it rightly."""
    return [statistics.fmean(map(int, marks)) for marks in zip(*(run["right"] for run in group), strict=True)]


def gain(group: list[Run], other: list[Run]) -> str:
    """How far the first runs are ahead of others, in points, ± and p over examples, averaged over seeds of both."""
    if group[0]["method"] not in FIXED and other and other[0]["method"] not in FIXED:
        both = {run["seed"] for run in group} & {run["seed"] for run in other}
        group, other = ([run for run in runs if run["seed"] in both] for runs in (group, other))
    if not group or not other:
        return "-"
    found = paired(right(group), right(other))
    text = f"{100 * found.difference:+.1f} ±{100 * found.error:.1f} (p {found.p:.1g})"
    return f"**{text}**" if found.p < 0.05 and found.difference > 0 else text


def table(runs: list[Run], tasks: list[str]) -> str:
    """A line a task and strategy."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run["task"], run["method"]].append(run)
    lines = ["| task | strategy | test | seeds: test, dev | over no prompt | over random search | the best on dev |"]
    lines.append(f"|{' --- |' * 7}")
    for task in tasks:
        for name in (*FIXED, "random", *(one for one in STRATEGIES if one != "random")):
            group = sorted(groups.get((task, name), []), key=lambda run: run["seed"])
            if not group:
                continue
            scores = [100 * run["score"]["value"] for run in group]
            pairs = zip(scores, group, strict=True)
            each = "; ".join(f"{value:.1f}, {100 * run['dev'][0]:.1f}" for value, run in pairs if "dev" in run)
            best = max(group, key=lambda run: tuple(run.get("dev", [0])))
            shown = f"`{best['text'].strip()}`" if best["text"] else "-"
            title = f"*{name}*" if name in FIXED else f"`{name}`"
            over = [gain(group, groups[task, other]) if name != other else "-" for other in ("no prompt", "random")]
            cells = [task, title, f"{statistics.fmean(scores):.1f}", each or "-", *over, shown.replace("|", "\\|")]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(chosen: argparse.Namespace, backbone: Backbone) -> str:
    """The table of the protocol and the weights at hand, with what it was made with."""
    keys = [protocol(task, chosen, backbone) for task in chosen.tasks]
    runs = [run for run in done(chosen.log) if any(all(run.get(k) == v for k, v in key.items()) for key in keys)]
    if not runs:
        raise SystemExit(f"no runs of these weights and this protocol in {chosen.log}")
    spent = sum(run.get("cpu_s", 0) for run in runs) / 60
    rows_of = {run["task"]: len(run["right"]) for run in runs}
    sizes, shown = ", ".join(f"{task} {count}" for task, count in rows_of.items()), TEMPLATE.replace("\n", "\\n")
    return (
        f"`{shown}` with {LENGTH} tokens ({chosen.budget:,} passes, {chosen.examples} examples a step of {TRAIN:,} "
        f"training rows, the best by {chosen.scored} dev rows); test rows: {sizes}. Points of accuracy; the gains are "
        f"means over seeds, ± and p from a paired test over examples (bold: p < 0.05). Weights "
        f"{backbone.fingerprint[:12]}, {versions(runs)}, {runs[0]['machine']}; {spent:.0f} core-minutes."
        f"\n\n{table(runs, chosen.tasks)}"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--tasks", type=split, default=list(QUESTIONS))
    arguments.add_argument("--strategies", type=split, default=list(STRATEGIES))
    arguments.add_argument("--seeds", type=numbers, default=[0, 1])
    arguments.add_argument("--budget", type=int, default=BUDGET)
    arguments.add_argument("--examples", type=int, default=EXAMPLES)
    arguments.add_argument("--scored", type=int, default=SCORED, help="dev examples that choose the best")
    arguments.add_argument("--log", type=Path, default=LOG)
    arguments.add_argument("--page", action="store_true")
    chosen = arguments.parse_args()
    if not DATA.exists():
        raise SystemExit(f"no real data: {DATA.relative_to(ROOT.parent)} is absent beside the repository")
    torch.set_num_threads(1)
    backbone = load_backbone(TINY)
    if chosen.page:
        put(PAGE, "search", page(chosen, backbone))
        return
    everything(chosen, backbone)


if __name__ == "__main__":
    main()
