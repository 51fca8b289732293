"""How far a prompt may move: dev accuracy on TREC by rate, for the two ways in which prompts enter.

    python benchmarks/rates.py

stories260K (causal, 260,032 parameters), 1,000 training rows, 4 epochs, seed 0, accuracy on 200 dev rows. These runs
chose the `travel` of the methods, so their numbers are no results; those of benchmarks/results.py are.
"""

import json
import tempfile
from pathlib import Path

import torch
from results import MODELS, parts, write

from softprompt.backbones import load_backbone
from softprompt.recipe import make_recipe
from softprompt.training import train

RATES = (0.005, 0.02, 0.06, 0.2, 0.5)


def main() -> None:
    torch.set_num_threads(1)
    backbone = load_backbone(MODELS / "stories260K")
    found: dict[str, dict[float, float]] = {"prefix": {}, "prompt_tuning": {}}
    with tempfile.TemporaryDirectory() as folder:
        files = {part: write(rows, Path(folder) / f"{part}.csv") for part, rows in parts("trec").items()}
        for method, scores in found.items():
            for rate in RATES:
                recipe = make_recipe(
                    {
                        "backbone": {"name": str(MODELS / "stories260K")},
                        "data": files,
                        "task": {"head": "classifier"},
                        "method": {"name": method},
                        "optim": {"lr": rate},
                        "train": {"epochs": 4, "threads": 1},
                    }
                )
                result = train(recipe, Path(folder) / f"{method}-{rate}", backbone=backbone)
                scores[rate] = max(event["accuracy"] for event in result.report.dev)
                print(f"{method:<14} {rate:<6} {scores[rate]:.3f}", flush=True)
    path = Path(__file__).parent / "results" / "rates.json"
    path.write_text(json.dumps({"command": "python benchmarks/rates.py", "dev_accuracy": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
