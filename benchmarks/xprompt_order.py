"""Is the importance of XPrompt worth anything: its mask against random and reversed masks of the same size.

    python benchmarks/xprompt_order.py [--backbone minilm] [--task trec] [--seeds 0,1,2] [--length 20] [--save]

A prompt is trained; the most important vectors, as many random ones, or the least important ones are kept, rewound and
trained again, at each `--ratios`. Test scores right after pruning (with the trained head of the run) and after training
again, mean ± over seeds. Nothing is chosen on the test examples. `--save` writes benchmarks/results/xprompt_order.json.
"""

import argparse
import json
import platform
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import transformers
from results import DATA, combined, model_path, parts, show, write

from softprompt import load_backbone
from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.evaluate import scores
from softprompt.metrics import Score
from softprompt.plan import Plan
from softprompt.prompt import Prompt
from softprompt.pruning import Search, importance, narrowed, strongest
from softprompt.recipe import make_recipe
from softprompt.stages import left
from softprompt.training import reopen, train

HERE = Path(__file__).parent
MASKS = ("important", "random", "reversed")
Found = dict[tuple[str, str], list[Score]]  # test scores of every seed, by mask and moment


def tested(prompt: Prompt, plan: Plan) -> Score:
    """The deciding metric on the test examples."""
    return scores(prompt, plan.test, plan.recipe.task.metric, prompt.predict(plan.test))[0]


def recipe(chosen: argparse.Namespace, files: dict[str, str], seed: int) -> Any:
    return make_recipe(
        {
            "backbone": {"name": model_path(chosen.backbone)},
            "data": files,
            "task": {"head": "classifier"},  # neither model can answer in words
            "method": {"name": "prompt_tuning", "length": chosen.length},
            "train": {"epochs": chosen.epochs, "seed": seed, "threads": 1},
        }
    )


def one(backbone: Backbone, chosen: argparse.Namespace, seed: int, found: Found) -> None:
    """One seed: the run, its scores, and every mask of every ratio."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = parts(chosen.task, chosen.rows, chosen.test)
        files = {part: write(rows, folder / f"{part}.csv") for part, rows in made.items()}
        train(recipe(chosen, files, seed), folder / "run", backbone=backbone)
        plan, _ = reopen(folder / "run", backbone)
        artifact = Artifact.load(left(folder / "run").artifact)
        found["prompt tuning", "trained"].append(tested(artifact.bind(backbone), plan))
        everything = torch.ones(chosen.length, 1, dtype=torch.bool)
        whole = Search(plan, artifact, backbone, folder, 1, lambda event: None)
        real = importance(whole.rewound(everything), plan.train, 1)
        order = {
            "important": real,
            "random": torch.rand(real.shape, generator=torch.Generator().manual_seed(seed)),
            "reversed": -real,
        }
        for kind, by in order.items():
            search = Search(plan, artifact, backbone, folder / kind, 1, lambda event: None)
            for ratio in chosen.ratios:
                mask = narrowed(everything, strongest(by, ratio))
                found[f"{kind}, {ratio:g} removed", "pruned"].append(tested(search.rewound(mask), plan))
                again = Artifact.load(search.retrained(mask).artifact).bind(backbone)
                found[f"{kind}, {ratio:g} removed", "trained again"].append(tested(again, plan))
                print(
                    seed,
                    kind,
                    ratio,
                    *(found[f"{kind}, {ratio:g} removed", m][-1] for m in ("pruned", "trained again")),
                )


def facts(chosen: argparse.Namespace, found: Found) -> dict[str, Any]:
    """Everything that was found, and with what."""
    rows = []
    for (mask, moment), values in found.items():
        summary = combined(values)
        rows.append({"mask": mask, "moment": moment, "mean": summary.as_dict(), "seeds": [v.value for v in values]})
    return {
        "command": "python benchmarks/xprompt_order.py --save",
        "settings": vars(chosen),
        "machine": f"{platform.machine()}, {platform.processor() or 'CPU'}, 1 thread",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "ordering": {str(ratio): ordering(found, ratio) for ratio in chosen.ratios},
        "rows": rows,
    }


def ordering(found: Found, ratio: float) -> dict[str, bool]:
    """Whether the means stand as in the paper, for both moments."""
    held = {}
    for moment in ("pruned", "trained again"):
        means = [combined(found[f"{kind}, {ratio:g} removed", moment]).value for kind in MASKS]
        held[moment] = means[0] > means[1] > means[2]
    return held


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--task", default="trec")
    parser.add_argument("--seeds", default="0,1,2", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--ratios", default="0.5,0.8", type=lambda text: [float(part) for part in text.split(",")])
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--rows", type=int, default=1000, help="training rows")
    parser.add_argument("--test", type=int, default=600, help="test rows")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/xprompt_order.json")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    if not DATA.exists():
        raise SystemExit("no real data beside the repository")
    backbone, found = load_backbone(model_path(chosen.backbone)), defaultdict(list)
    for seed in chosen.seeds:
        one(backbone, chosen, seed, found)
    for (mask, moment), values in found.items():
        print(f"{mask:<28} {moment:<14} {show(combined(values))}")
    made = facts(chosen, found)
    print("the paper's ordering:", made["ordering"])
    if chosen.save:
        path = HERE / "results" / "xprompt_order.json"
        path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
