"""Visual prompt tuning on MNIST: deep and shallow against a linear probe, the head alone and full fine-tuning.

    python -m scripts.pretrain_vit.train VIT && python benchmarks/vpt.py VIT [--seeds 0,1,2] [--epochs 8]

The backbone has seen drawn letters, shapes and textures, no digit and no handwriting. Of the 10,000 images in
../shared/data/mnist_t10k, 1,000 are trained on, 200 are dev, 2,000 are the test; the parts are drawn once. The epoch is
chosen on dev, and so is the rate of comparators (at the first seed). Writes benchmarks/results/vpt.json.
"""

import argparse
import json
import platform
import random
import struct
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import transformers
from results import combined, show

from softprompt import load_backbone
from softprompt.backbones import Backbone
from softprompt.comparators import fine_tune
from softprompt.data import read
from softprompt.evaluate import score
from softprompt.example import Raster
from softprompt.metrics import Score
from softprompt.plan import make_plan
from softprompt.recipe import Recipe, make_recipe
from softprompt.training import train

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT.parent / "shared" / "data" / "mnist_t10k" / "t10k-images-idx3-ubyte.gz"
RESULTS = ROOT / "benchmarks" / "results" / "vpt.json"
SIZES = {"train": 1000, "dev": 200, "test": 2000}
LENGTH = 10
METHODS = {"vpt deep": {"deep": True}, "vpt shallow": {"deep": False}}
COMPARED = ("head", "full")
Scores = dict[str, list[dict[str, Any]]]


def write_parts(folder: Path) -> dict[str, str]:
    """Train, dev and test as idx files."""
    examples = read(SOURCE).examples
    random.Random(0).shuffle(examples)
    found, at = {}, 0
    for part, size in SIZES.items():
        chosen = examples[at : at + size]
        at += size
        rasters = [example.image for example in chosen if isinstance(example.image, Raster)]
        side = (rasters[0].height, rasters[0].width)
        images = struct.pack(">4B3I", 0, 0, 8, 3, size, *side) + b"".join(raster.pixels for raster in rasters)
        labels = struct.pack(">4BI", 0, 0, 8, 1, size) + bytes(int(str(example.label)) for example in chosen)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)
        found[part] = str(folder / f"{part}-images-idx3-ubyte")
    return found


def recipe(files: dict[str, str], model: str, options: dict[str, Any], seed: int, chosen: argparse.Namespace) -> Recipe:
    optim = {} if chosen.lr is None else {"lr": chosen.lr}
    return make_recipe(
        {
            "backbone": {"name": model},
            "data": files,
            "method": {"name": "vpt", "length": LENGTH, "options": options},
            "optim": optim,
            "train": {"epochs": chosen.epochs, "seed": seed, "threads": 1},
        }
    )


def prompts(backbone: Backbone, made: Recipe, name: str, folder: Path) -> dict[str, dict[str, Any]]:
    """One run of a prompt, and the baselines of its report."""
    cpu = time.process_time()
    result = train(made, folder, backbone=backbone)
    report = result.report
    found = {
        name: {
            "score": report.scores[0].as_dict(),
            "dev": max(event["accuracy"] for event in report.dev),
            "parameters": report.parameters,
            "bytes": result.artifact.stat().st_size,
            "cpu_s": round(time.process_time() - cpu, 1),
        }
    }
    return found | {key: {"score": value.as_dict()} for key, value in report.baselines.items()}


def compared(backbone: Backbone, made: Recipe, kind: Any, rate: float | None) -> dict[str, Any]:
    """One comparator, at the rate given or at the one that dev chooses."""
    plan, cpu = make_plan(made, backbone), time.process_time()
    found = fine_tune(plan, backbone, kind=kind, lr=rate)
    accuracy = score(plan.kind, "accuracy", found.answers, plan.test)
    return {"score": accuracy.as_dict(), **found.facts(), "cpu_s": round(time.process_time() - cpu, 1)}


def measure(backbone: Backbone, model: str, chosen: argparse.Namespace) -> Scores:
    runs: Scores = defaultdict(list)
    rates: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = write_parts(Path(folder))
        for seed in [int(text) for text in chosen.seeds.split(",")]:
            for name, options in METHODS.items():
                made = recipe(files, model, options, seed, chosen)
                for key, value in prompts(backbone, made, name, Path(folder) / f"{name}-{seed}").items():
                    if key == name or name == "vpt deep":  # baselines are the same for both, but for the untrained
                        runs[key].append(value | {"seed": seed})
                print(name, seed, runs[name][-1], flush=True)
            for kind in COMPARED:
                runs[kind].append(compared(backbone, made, kind, rates.get(kind)) | {"seed": seed})
                rates[kind] = runs[kind][-1]["lr"]
                print(kind, seed, runs[kind][-1], flush=True)
    return dict(runs)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", help="a vision transformer, as scripts.pretrain_vit.train saves it")
    arguments.add_argument("--seeds", default="0,1,2")
    arguments.add_argument("--epochs", type=int, default=8)
    arguments.add_argument("--lr", type=float, help="rate of the prompts; auto if not given")
    chosen = arguments.parse_args()
    if not SOURCE.exists():
        raise SystemExit(f"no images: {SOURCE.relative_to(ROOT.parent)} is absent beside the repository")
    torch.set_num_threads(1)
    runs = measure(load_backbone(chosen.model), chosen.model, chosen)
    table = {name: show(combined([Score.from_dict(run["score"]) for run in group])) for name, group in runs.items()}
    facts = Path(chosen.model) / "pretraining.json"
    RESULTS.write_text(
        json.dumps(
            {
                "command": f"python benchmarks/vpt.py VIT --seeds {chosen.seeds} --epochs {chosen.epochs}",
                "machine": f"{platform.machine()}, 1 thread",
                "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
                "backbone": json.loads(facts.read_text()) if facts.exists() else {},
                "examples": SIZES,
                "accuracy": table,
                "runs": runs,
            },
            indent=1,
        )
        + "\n"
    )
    for name, shown in table.items():
        print(f"{name:<18} {shown}")


if __name__ == "__main__":
    main()
