"""How much a predicted size of a prompt loses against XPrompt's full search, which trains again at every ratio.

    python benchmarks/compress_regret.py [--tasks trec,sst2,cr,snips,questions,reviews] [--seeds 0,1] [--page]

Reads ../shared/data and the demo's data. On each task a prompt of 20 vectors is trained; the search prunes it at nine
ratios, trains what is left again and keeps what is best on dev; and each way to name a size without training
(`softprompt.compress`) names one from the dev examples. Regret is the search's test score minus that of the named
size, in points: as `softprompt compress` writes it (nothing trained), and trained again as the search does (the
nearest of its sizes). Does the runs that benchmarks/results/compress_regret.jsonl does not have yet for the weights at
hand (`--model softprompt/nano` for the smaller ones), so it can be stopped and repeated, and several may run at once.
`--page` writes the table of docs/compress.md from that file, for every backbone that has all six tasks.

The rule for the default of `softprompt compress`, fixed before the first run: of the ways whose regret as written is
within the half-width of the least, the one that keeps the fewest vectors. ± is Student's, 95 %, over tasks.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from results import DATA, ROOT, Rows, parts, write
from runs import Run, done, facts, known, numbers, put, split, versions
from scipy.stats import t
from tasks import TREC

from softprompt import load_backbone
from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.backbones.embedded import NANO, TINY
from softprompt.compress import compress, prune
from softprompt.core import Example
from softprompt.demo.run import DATA as DEMO
from softprompt.metrics import find_metric
from softprompt.plan import make_plan
from softprompt.pruning import RATIOS, Candidate, Search, best
from softprompt.recipe import Recipe, make_recipe
from softprompt.stages import stage
from softprompt.training import set_threads
from softprompt.vectors import measure, variant, vectors_of

LOG = ROOT / "benchmarks" / "results" / "compress_regret.jsonl"
PAGE = ROOT / "docs" / "compress.md"
SHARED, DEMOS = ("trec", "sst2", "cr", "snips"), ("questions", "reviews")
SNIPS = {"AddToPlaylist": "playlist", "BookRestaurant": "restaurant", "GetWeather": "weather", "PlayMusic": "music"}
SNIPS |= {"RateBook": "rating", "SearchCreativeWork": "work", "SearchScreeningEvent": "movie"}
WORDS = {"trec": TREC, "snips": SNIPS}
ROWS, DEV, TEST = 400, 200, 400  # of the shared tasks
EPOCHS = {"questions": 8, "reviews": 8}
LENGTH = 20
WAYS = ("whole", "measured", "knee", "taylor", "effective-rank", "attention", "gates")


def snips() -> dict[str, Rows]:
    """Rows of the seven intents; an order that is always the same."""
    found: dict[str, Rows] = {}
    for part, count in {"train": ROWS, "valid": DEV, "test": TEST}.items():
        place = DATA / "atis_snips_slots" / "snips" / part
        texts, labels = (
            [line.strip() for line in (place / name).read_text(encoding="utf-8").splitlines()]
            for name in ("seq.in", "label")
        )
        seen = {text for rows in found.values() for text, _ in rows}
        rows = sorted((a, b) for a, b in dict(zip(texts, labels, strict=True)).items() if a not in seen)
        random.Random(1).shuffle(rows)
        found["dev" if part == "valid" else part] = rows[:count]
    return found


def recipe(task: str, seed: int, folder: Path, model: str) -> Recipe:
    """The recipe whose prompt is made smaller."""
    if task in DEMOS:
        data = {part: str(DEMO / task / f"{part}.csv") for part in ("train", "dev", "test")}
    else:
        made = snips() if task == "snips" else parts(task, ROWS, TEST)
        data = {part: write(rows, folder / f"{part}.csv") for part, rows in made.items()}
    return make_recipe(
        {
            "backbone": {"name": model},
            "data": data,
            "task": {"head": "verbalizer"} | ({"words": WORDS[task]} if task in WORDS else {}),
            "method": {"name": "prompt_tuning", "length": LENGTH},
            "train": {"epochs": EPOCHS.get(task, 3), "seed": seed, "threads": 1},
        }
    )


def one(task: str, seed: int, backbone: Backbone, folder: Path) -> Run:
    """Every size that is named on one task, by the search and by the ways that train nothing."""
    asked = recipe(task, seed, folder, backbone.name)
    set_threads(asked)
    plan = make_plan(asked, backbone)
    metric = plan.recipe.task.metric
    whole = stage(asked, folder / "whole", backbone=backbone)
    artifact = Artifact.load(whole.artifact)
    began = time.process_time()
    search = Search(plan, artifact, backbone, folder / "pruned", 1, lambda event: None)
    everything = torch.ones(len(search.vectors), 1, dtype=torch.bool)
    tried = [Candidate("whole", 0.0, everything, whole), *search.tried("tokens", everything, RATIOS)]
    searched = time.process_time()
    found = compress(artifact.bind(backbone), plan.dev, metric, how="prune")
    ended = time.process_time()
    named = {"whole": LENGTH, "measured": found.chosen.keep, **found.predicted}
    sizes = {way: nearest(tried, count) for way, count in named.items()} | {"search": best(tried)}
    scores = {one.vectors: scored(one, backbone, plan.test, metric) for one in sizes.values()}
    return {
        "model": backbone.name,
        "metric": metric,
        "sizes": {way: one.vectors for way, one in sizes.items()} | {f"{way} wanted": n for way, n in named.items()},
        "trained_again": {way: scores[one.vectors] for way, one in sizes.items()},
        "as_written": as_written(artifact, backbone, plan.dev, plan.test, metric, named),
        "dev_of_search": {one.vectors: one.left.dev for one in tried},
        "n": {"train": len(plan.train), "dev": len(plan.dev), "test": len(plan.test)},
        "cpu_s": {"search": round(searched - began, 1), "compress": round(ended - searched, 1)},
    }


def nearest(tried: Sequence[Candidate], size: int) -> Candidate:
    """The candidate of the search whose size is nearest to the one that was named."""
    return min(tried, key=lambda candidate: abs(candidate.vectors - size))


def scored(candidate: Candidate, backbone: Backbone, examples: Sequence[Example], metric: str) -> float:
    """The test score of a candidate, after it was trained again; higher is better."""
    found = measure(Artifact.load(candidate.left.artifact).bind(backbone), examples, metric, draws=2)
    assert found.score is not None
    return found.score.value * (1 if find_metric(metric).higher_is_better else -1)


def as_written(
    artifact: Artifact,
    backbone: Backbone,
    dev: Sequence[Example],
    test: Sequence[Example],
    metric: str,
    named: dict[str, int],
) -> dict[str, float]:
    """The test score of the prompt that is left where so many vectors are kept and nothing is trained."""
    whole = artifact.bind(backbone)
    vectors = vectors_of(whole)
    order = prune.importance(variant(whole, vectors), dev, 1)[:, 0]
    scores: dict[int, float] = {}
    for size in set(named.values()):
        found = measure(prune.tokens(whole, vectors, order, size), test, metric, draws=2)
        assert found.score is not None
        scores[size] = found.score.value * (1 if find_metric(metric).higher_is_better else -1)
    return {way: scores[size] for way, size in named.items()}


def regrets(runs: Sequence[Run], way: str, after: str) -> list[float]:
    """Points that a way loses against the search, the mean over seeds of every task."""
    by_task: dict[str, list[float]] = {}
    for run in runs:
        by_task.setdefault(run["task"], []).append(100 * (run["trained_again"]["search"] - run[after][way]))
    return [statistics.mean(values) for values in by_task.values()]


def plus_minus(values: Sequence[float]) -> tuple[float, float]:
    """Mean and 95 % half-width over tasks; no width for one."""
    if len(values) < 2:
        return statistics.mean(values), float("nan")
    width = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values), float(width)


def winner(runs: Sequence[Run]) -> str:
    """The way that the rule at the top of this file chooses; "whole" is no way to make anything smaller."""
    found = {way: plus_minus(regrets(runs, way, "as_written")) for way in WAYS if way != "whole"}
    least = min(found, key=lambda way: found[way][0])
    close = [way for way in found if found[way][0] <= found[least][0] + found[least][1]]
    return min(close, key=lambda way: (kept(runs, way), found[way][0]))


def kept(runs: Sequence[Run], way: str) -> float:
    """The mean share of the vectors that a way keeps."""
    return statistics.mean(run["sizes"][way if way == "search" else f"{way} wanted"] for run in runs) / LENGTH


def page(runs: Sequence[Run]) -> str:
    """The tables of docs/compress.md, one for every backbone that has all tasks; the larger backbone comes first."""
    by_model = {model: [run for run in runs if run.get("model", TINY) == model] for model in (TINY, NANO)}
    whole = [model for model, own in by_model.items() if {run["task"] for run in own} >= {*SHARED, *DEMOS}]
    lacking = ["No backbone has all six tasks yet, so nothing is decided: the default stays `measured`."]
    return "\n\n".join([table(model, by_model[model]) for model in whole] or lacking)


def table(model: str, runs: Sequence[Run]) -> str:
    """The table of one backbone, and what it says."""
    tasks, seeds = sorted({run["task"] for run in runs}), sorted({run["seed"] for run in runs})
    lines = ["| the number is named by | vectors kept | regret as written | regret trained again |"]
    lines += ["| --- | --- | --- | --- |", f"| the full search | {kept(runs, 'search'):.0%} | | 0 |"]
    for way in WAYS:
        cells = ["{:+.1f} ±{:.1f}".format(*plus_minus(regrets(runs, way, a))) for a in ("as_written", "trained_again")]
        name = "nothing: all are kept" if way == "whole" else f"`{way}`"
        lines.append(f"| {name} | {kept(runs, way):.0%} | {cells[0]} | {cells[1]} |")
    chosen = winner(runs)
    value, error = plus_minus(regrets(runs, chosen, "as_written"))
    cost = [statistics.mean(run["cpu_s"][part] for run in runs) for part in ("search", "compress")]
    told = (
        f"Points of accuracy on test, mean of {len(tasks)} tasks ({', '.join(tasks)}; {len(runs)} runs, seeds "
        f"{', '.join(map(str, seeds))}), ± over tasks; `{model}`, {LENGTH} vectors, {versions(list(runs))}. By "
        f"the rule in the benchmark's first lines the way to choose is **`{chosen}`**: what it writes is {value:+.1f} "
        f"±{error:.1f} points behind the full search, for {cost[1]:.0f} CPU seconds in the place of {cost[0]:.0f}."
    )
    return "\n".join([*lines, "", told])


def main() -> None:
    """Do the runs that are lacking, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=split, default=[*SHARED, *DEMOS])
    parser.add_argument("--seeds", type=numbers, default=[0, 1])
    parser.add_argument("--model", default=TINY)
    parser.add_argument("--log", type=Path, default=LOG)
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    if given.page:
        put(PAGE, "regret", page(done(given.log)))
        return
    backbone = load_backbone(given.model)
    for seed in given.seeds:
        for task in given.tasks:
            key = {"task": task, "seed": seed, "backbone": backbone.fingerprint}
            if not known(given.log, key):
                with TemporaryDirectory() as folder:
                    noted(given.log, key | facts(backbone) | one(task, seed, backbone, Path(folder)))


def noted(log: Path, run: Run) -> None:
    """Add a run to the file and say so."""
    with log.open("a") as file:
        file.write(json.dumps(run) + "\n")
    print(run["task"], run["seed"], run["sizes"], run["cpu_s"], flush=True)


if __name__ == "__main__":
    main()
