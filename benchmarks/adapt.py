"""The five forms of `adapt` on one source prompt, beside the source trained on as it is, and no source at all.

    python benchmarks/adapt.py [--shots 16,32] [--seeds 0,1,2,3,4] [--page]

Reads ../shared/data and the source prompts of `transfer.py` (made where they are not in build/transfer). Each target
has one source, of a task that is near to it by what is asked. All members of a cell train in one pass on one budget;
dev chooses the state, test chooses nothing. Runs go to benchmarks/results/adapt.jsonl, and `--page` writes
docs/methods/adapt.md. About 22 minutes on one core.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from results import DATA, ROOT
from runs import Run, done, facts, known, numbers, put, versions
from transfer import Quick, keep, outcome, recipe, source, together
from transfer_page import around
from transfer_tasks import few

from softprompt import load_backbone
from softprompt.backbones import Backbone
from softprompt.backbones.embedded import TINY
from softprompt.recipe import Recipe
from softprompt.sections import MethodSection
from softprompt.transfer.sources import starting_from

LOG = ROOT / "benchmarks" / "results" / "adapt.jsonl"
PAGE = ROOT / "docs" / "methods" / "adapt.md"
PAIRS = {"cr": "sst2", "sst2": "cola", "trec": "clinc"}  # the source of each target
FORMS = ("dense", "low_rank", "bottleneck", "multiplicative", "gated")
PROTOCOL = {"steps": 30, "epochs": 4, "test": 300, "source_rows": 1000, "source_steps": 120}


def cell(task: str, shots: int, seed: int, backbone: Backbone) -> Run:
    """A target from scratch, from its source as it is, and from the source by every form of change."""
    began = time.process_time()
    one = source(PAIRS[task], argparse.Namespace(**PROTOCOL), backbone)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        parts = few(task, shots, seed, PROTOCOL["test"])
        steps = max(PROTOCOL["steps"], PROTOCOL["epochs"] * -(-len(parts["train"]) // 16))
        base = recipe(parts, place / "data", seed, steps)
        starts = {"scratch": base, "source": starting_from(base, one.path)}
        starts |= {form: starting_from(formed(base, form), one.path) for form in FORMS}
        members = together(starts, place, backbone)
        found = {member.name: outcome(member) | {"trained": trained(member)} for member in members}
    return {"prompts": found, "n": len(parts["test"]), "cpu_s": round(time.process_time() - began, 1)}


def formed(base: Recipe, form: str) -> Recipe:
    return base.model_copy(
        update={"method": MethodSection(name="adapt", length=base.method.length, options={"form": form})}
    )


def trained(member: Quick) -> int:
    return sum(weight.numel() for weight in member.prompt.method.parameters() if weight.requires_grad)


def page(runs: list[Run]) -> str:
    """The gain over scratch, in points, for every target and size."""
    names = ("source", *FORMS)
    counts = {name: runs[-1]["prompts"][name]["trained"] for name in names}
    heads = " | ".join(f"{'source, as it is' if name == 'source' else name} ({counts[name]:,})" for name in names)
    lines = [f"| target | source | a class | scratch | {heads} |", f"|{' --- |' * (4 + len(names))}"]
    for task, shots in dict.fromkeys((run["task"], run["shots"]) for run in runs):
        own = [run["prompts"] for run in runs if (run["task"], run["shots"]) == (task, shots)]
        scratch = 100 * sum(one["scratch"]["test"] for one in own) / len(own)
        gains = [
            around([one[name]["test"] - one["scratch"]["test"] for one in own if "test" in one[name]]) for name in names
        ]
        lines.append(f"| {task} | {PAIRS[task]} | {shots} | {scratch:.1f} | {' | '.join(gains)} |")
    seeds = len({run["seed"] for run in runs})
    said = (
        f"`benchmarks/adapt.py`, {seeds} seeds; {PROTOCOL['steps']} steps or {PROTOCOL['epochs']} epochs, whichever is"
    )
    said += (
        f" more; test on up to {PROTOCOL['test']} examples; {versions(runs)}. Accuracy from scratch, and points over it"
    )
    said += ", ± over seeds; in brackets the numbers that are trained:"
    return said + "\n\n" + "\n".join(lines)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--shots", type=numbers, default=[16, 32])
    arguments.add_argument("--seeds", type=numbers, default=[0, 1, 2, 3, 4])
    arguments.add_argument("--page", action="store_true", help="write docs/methods/adapt.md from what was measured")
    chosen = arguments.parse_args()
    if chosen.page:
        put(PAGE, "adapt", page(done(LOG)))
        return
    if not DATA.exists():
        raise SystemExit(f"no real data: {DATA.relative_to(ROOT.parent)} is absent beside the repository")
    torch.set_num_threads(1)
    backbone = load_backbone(TINY)
    for seed in chosen.seeds:
        for shots in chosen.shots:
            for task in PAIRS:
                key = {
                    "kind": "adapt",
                    "backbone": backbone.fingerprint,
                    "task": task,
                    "shots": shots,
                    "seed": seed,
                } | PROTOCOL
                if not known(LOG, key):
                    keep(LOG, key | cell(task, shots, seed, backbone) | facts(backbone))


if __name__ == "__main__":
    main()
