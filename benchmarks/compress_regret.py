"""How much a predicted size of a prompt loses against XPrompt's full search, which trains again at every ratio.

    python benchmarks/compress_regret.py --tasks questions,reviews --model softprompt/tiny --out regret.json

For each task a prompt is trained, `softprompt.prune` searches token ratios (dev decides), and every predictor of
`softprompt.compress.ratio`, and the size that is measured on dev without training, names one of its sizes. Regret is
the test score of the search's choice minus that of the size that was named, both trained again; the seconds of the
search and of the one pass stand beside. What `softprompt compress` does by default should be what is least here.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone, load_backbone
from softprompt.compress import compress
from softprompt.demo import run as demo
from softprompt.files import write_atomically
from softprompt.metrics import find_metric
from softprompt.plan import make_plan
from softprompt.pruning import Candidate, prune
from softprompt.training import train
from softprompt.vectors import measure


def one(task: str, backbone: Backbone, folder: Path, settings: Sequence[str]) -> dict[str, Any]:
    """The regret of every way to name a size, on one task of the demo."""
    recipe = demo.recipe(task, backbone.name, ["method.name=prompt_tuning", "task.head=verbalizer", *settings])
    plan = make_plan(recipe, backbone)
    metric = plan.recipe.task.metric
    made = train(recipe, folder / task, backbone=backbone)
    began = time.monotonic()
    searched = prune(folder / task, pieces=1, backbone=backbone)
    search_seconds = time.monotonic() - began
    began = time.monotonic()
    found = compress(Artifact.load(made.artifact).bind(backbone), plan.dev, metric, how="prune")
    pass_seconds = time.monotonic() - began
    sizes = found.predicted | {"measured": found.chosen.keep, "search": searched.chosen.vectors}
    sign = 1 if find_metric(metric).higher_is_better else -1
    best = score(searched.chosen, backbone, plan.test, metric)
    named = {way: nearest(searched.candidates, size) for way, size in sizes.items()}
    regret = {way: sign * (best - score(one, backbone, plan.test, metric)) for way, one in named.items()}
    sizes_named = {way: {"wanted": sizes[way], "nearest": one.vectors} for way, one in named.items()}
    return {
        "metric": metric,
        "test": len(plan.test),
        "best": best,
        "regret": regret,
        "sizes": sizes_named,
        "seconds": {"search": search_seconds, "compress": pass_seconds},
    }


def nearest(candidates: Sequence[Candidate], size: int) -> Candidate:
    """The candidate of the search whose size is nearest to the one that was named."""
    return min(candidates, key=lambda candidate: abs(candidate.vectors - size))


def score(candidate: Candidate, backbone: Backbone, examples: Any, metric: str) -> float:
    """The test score of a candidate, after it was trained again."""
    found = measure(Artifact.load(candidate.left.artifact).bind(backbone), examples, metric)
    assert found.score is not None
    return found.score.value


def main() -> None:
    """Run the tasks that were asked for and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default="questions,intents,reviews")
    parser.add_argument("--model", default=demo.MODEL)
    parser.add_argument("--runs", default="runs/compress_regret")
    parser.add_argument("--out", default="compress_regret.json")
    parser.add_argument("--set", action="append", default=[], help="section.key=value of every recipe")
    given = parser.parse_args()
    backbone = load_backbone(given.model)
    results = {task: one(task, backbone, Path(given.runs), given.set) for task in given.tasks.split(",")}
    write_atomically(Path(given.out), json.dumps({"model": given.model, "tasks": results}, indent=1).encode())


if __name__ == "__main__":
    main()
