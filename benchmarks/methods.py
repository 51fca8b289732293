"""Every text method of the registry on SST-2, TREC and E2E with the embedded backbone, default options, three seeds.

    python benchmarks/methods.py [--tasks sst2,trec,e2e] [--methods prefix] [--seeds 0,1,2] [--page]

Reads ../shared/data. Does the runs that benchmarks/results/methods.jsonl does not have yet for the weights and the
protocol at hand, so it can be stopped and repeated, and several may run side by side on different seeds. `--page`
writes the table of docs/results.md from that file. Nothing is chosen on the test examples: rates, lengths and options
are the defaults, the epoch is chosen on dev. `--rows`, `--epochs`, `--test` and `--log` are for trying the script out.
"""

import argparse
import itertools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from results import DATA, ROOT
from runs import Run, done, facts, known, mean, note, numbers, put, split, versions
from tasks import TASKS, Task, e2e, recipe

from softprompt import load_backbone
from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.backbones.embedded import TINY
from softprompt.baselines import majority, probe, zero_shot
from softprompt.cli.survey import by_kind
from softprompt.errors import SoftpromptError
from softprompt.evaluate import references
from softprompt.methods import find, names
from softprompt.metrics import find_metric
from softprompt.plan import Plan, make_plan
from softprompt.pruning import prune
from softprompt.recipe import Recipe
from softprompt.stages import stage
from softprompt.untrained import build

LOG = ROOT / "benchmarks" / "results" / "methods.jsonl"
PAGE = ROOT / "docs" / "results.md"
BASELINES = ("majority", "zero-shot", "linear probe")


def judged(plan: Plan, answers: list[Any]) -> Run:
    """The deciding metric on test; for classes also which answers are right, for paired comparisons."""
    wanted = references(plan.kind, plan.test)
    if plan.kind == "generation":
        wanted = [e2e()[str(example.fields["input"])] for example in plan.test]
    made: Run = {"score": find_metric(plan.recipe.task.metric)(answers, wanted).as_dict()}
    if plan.kind == "classification":
        made["right"] = "".join(str(int(a == b)) for a, b in zip(answers, wanted, strict=True))
    return made


def plain(made: Recipe, folder: Path, backbone: Backbone) -> Path:
    """One training, as the recipe says."""
    return stage(made, folder / "run", backbone=backbone).artifact


def pruned(made: Recipe, folder: Path, backbone: Backbone) -> Path:
    """XPrompt as documented: prompt tuning, half of the vectors pruned, then half of the pieces; dev chooses."""
    first = made.model_copy(update={"method": made.method.model_copy(update={"name": "prompt_tuning"})})
    stage(first, folder / "run", backbone=backbone)
    return prune(folder / "run", ratios=(0.5,), backbone=backbone).artifact


ROUTES: dict[str, Callable[[Recipe, Path, Backbone], Path]] = {"xprompt": pruned}  # all others: plain


def trained(made: Recipe, backbone: Backbone, route: Callable[[Recipe, Path, Backbone], Path] = plain) -> Run:
    """Train, answer the test examples once: score, size and time."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        plan, began = make_plan(made, backbone), time.process_time()
        path = route(made, Path(name), backbone)
        cpu = time.process_time() - began
        prompt = Artifact.load(path).bind(backbone)
        answers = [prediction.answer for prediction in prompt.predict(plan.test)]
        size = path.stat().st_size
    return judged(plan, answers) | {
        "parameters": sum(weight.numel() for weight in build(plan, backbone).parameters()),
        "bytes": size,
        "lr": plan.recipe.optim.lr,
        "cpu_s": round(cpu, 1),
        "cpu_test_s": round(time.process_time() - began - cpu, 1),
    }


def beside(made: Recipe, backbone: Backbone) -> dict[str, Run]:
    """The baselines of a task, which no method and no seed changes."""
    plan = make_plan(made, backbone)
    prompt = build(plan, backbone)
    found = {
        "majority": majority(plan, plan.test),
        "zero-shot": zero_shot(prompt, plan.test),
        "linear probe": probe(prompt, plan, plan.test),
    }
    return {name: judged(plan, answers) for name, answers in found.items() if answers is not None}


def text_methods() -> list[str]:
    """The methods that say that they work with a causal model."""
    return [name for name in names() if "causal" in by_kind(find(name))]


def borrowed(target: str, seed: int, tasks: dict[str, Task], folder: Path, backbone: Backbone) -> list[str]:
    """Plain prompts of the other tasks, trained by the same protocol once per seed, and kept in `folder`."""
    found = []
    for name in [name for name in tasks if name != target]:
        kept = folder / f"{name}-{seed}.safetensors"
        if not kept.exists():
            made = recipe(name, tasks[name], seed, folder / f"source-{name}-{seed}", method={"name": "prompt_tuning"})
            stage(made, folder / f"run-{name}-{seed}", backbone=backbone).artifact.rename(kept)
        found.append(str(kept))
    return found


def protocol(name: str, task: Task, backbone: Backbone) -> Run:
    """What tells the runs of one protocol and of one set of weights from others."""
    return {"task": name, "rows": task.rows, "epochs": task.epochs, "test": task.test, "backbone": backbone.fingerprint}


def everything(chosen: argparse.Namespace, backbone: Backbone) -> list[str]:
    """All runs that are lacking, and the errors of those that could not be done."""
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for seed, name in itertools.product(chosen.seeds, chosen.tasks):
            failed += lacking(name, seed, chosen, backbone, Path(folder))
    return failed


def lacking(name: str, seed: int, chosen: argparse.Namespace, backbone: Backbone, folder: Path) -> list[str]:
    """The runs of one task and seed that are lacking, and the errors of those that could not be done."""
    task, key, failed = chosen.protocol[name], protocol(name, chosen.protocol[name], backbone), []
    data = folder / f"{name}-{seed}"
    if not all(known(chosen.log, key | {"method": method}) for method in BASELINES[:2]):
        for method, run in beside(recipe(name, task, 0, data), backbone).items():
            note(chosen.log, key | {"method": method} | run | facts(backbone))
    for method in chosen.methods:
        own = key | {"method": method, "seed": seed}
        if known(chosen.log, own):
            continue
        try:
            sources = borrowed(name, seed, chosen.protocol, folder, backbone) if find(method).borrows else []
            made = recipe(name, task, seed, data, method={"name": method}, init={"sources": sources})
            run = trained(made, backbone, ROUTES.get(method, plain))
        except SoftpromptError as error:
            failed.append(f"{name}, {method}: {error}")
            print(failed[-1], flush=True)
            continue
        note(chosen.log, own | run | facts(backbone))
    return failed


def table(runs: Iterable[Run], tasks: Iterable[str]) -> str:
    """A Markdown table: a line for each baseline and method, mean ± over seeds of every task."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run["method"], run["task"]].append(run)
    tasks = [task for task in tasks if any(key[1] == task for key in groups)]
    metrics = {
        task: next(group[0]["score"]["name"] for key, group in groups.items() if key[1] == task) for task in tasks
    }
    head = [
        "method",
        "trained",
        *(f"{task}, {metrics[task]}" for task in tasks),
        f"CPU s ({', '.join(tasks)})",
        "seeds",
    ]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    methods = [*BASELINES, *sorted({method for method, _ in groups} - {*BASELINES})]
    for method in methods:
        mine = [groups.get((method, task), []) for task in tasks]
        if not any(mine):
            continue
        cells = [mean(group) if group else "-" for group in mine]
        if method in BASELINES:
            lines.append(f"| *{method}* | - | {' | '.join(cells)} | - | - |")
            continue
        size = next(group[0]["parameters"] for group in mine if group)
        cpu = ", ".join(f"{sum(run['cpu_s'] for run in g) / len(g):.0f}" if g else "-" for g in mine)
        seeds = "/".join(dict.fromkeys(str(len(group)) for group in mine))
        lines.append(f"| {method} | {size:,} | {' | '.join(cells)} | {cpu} | {seeds} |")
    return "\n".join(lines)


def page(chosen: argparse.Namespace, backbone: Backbone) -> str:
    """The table of the protocol and the weights at hand, with what it was made with."""
    keys = [protocol(name, chosen.protocol[name], backbone) for name in chosen.tasks]
    runs = [run for run in done(chosen.log) if any(all(run.get(k) == v for k, v in key.items()) for key in keys)]
    if not runs:
        raise SystemExit(f"no runs of these weights and this protocol in {chosen.log}")
    left = [name for name in names() if name not in text_methods()]
    made = [f"{name}: {t.rows} rows, {t.epochs} epochs, {t.test} test" for name, t in chosen.protocol.items()]
    spent = sum(run.get("cpu_s", 0) + run.get("cpu_test_s", 0) for run in runs) / 60
    return "\n".join(
        [
            f"{'; '.join(made)}. Weights {backbone.fingerprint[:12]}, {versions(runs)}, {runs[0]['machine']}; "
            f"{len(runs)} runs, {spent:.0f} core-minutes. Left out, being for images: {', '.join(left) or 'none'}. "
            f"{' and '.join(name for name in names() if find(name).borrows)} read plain prompts of the other tasks in "
            f"the table, of the same seed, whose training is not in their time.",
            "",
            table(runs, chosen.tasks),
        ]
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=split, default=list(TASKS))
    parser.add_argument("--methods", type=split, default=text_methods())
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, help="training rows of every task")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--test", type=int, help="test rows of every task")
    parser.add_argument("--log", type=Path, default=LOG, help="another file of results")
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--show", action="store_true", help="only print what the page would say")
    chosen = parser.parse_args()
    changed = {name: value for name in ("rows", "epochs", "test") if (value := getattr(chosen, name)) is not None}
    chosen.protocol = {name: replace(TASKS[name], **changed) for name in chosen.tasks}
    return chosen


def main() -> None:
    chosen = arguments()
    backbone = load_backbone(TINY)
    if chosen.show:
        print(page(chosen, backbone))
    elif chosen.page:
        put(PAGE, "methods", page(chosen, backbone))
    elif not DATA.exists():
        raise SystemExit(f"no real data: {DATA.relative_to(ROOT.parent)} is absent beside the repository")
    elif failed := everything(chosen, backbone):
        raise SystemExit(f"{len(failed)} runs failed:\n" + "\n".join(failed))


if __name__ == "__main__":
    main()
