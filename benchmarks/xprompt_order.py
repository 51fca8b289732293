"""Is the importance of XPrompt worth anything: its mask against random and reversed masks of the same size.

    python benchmarks/xprompt_order.py [--seeds 0,1,2] [--ratios 0.5,0.8] [--rows 500] [--epochs 3] [--save FILE]

TREC with the embedded backbone. A prompt is trained; the most important vectors, as many random ones, or the least
important ones are kept, rewound and trained again, at each ratio. Test scores right after pruning and after training
again, mean ± over seeds. Nothing is chosen on the test examples. benchmarks/claims.py does the same, resumably.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import torch
from methods import judged
from results import DATA
from runs import Run, facts, mean, numbers
from tasks import TASKS, Task, recipe
from verdicts import Found, Verdict, chain

from softprompt import load_backbone
from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.backbones.embedded import TINY
from softprompt.plan import Plan
from softprompt.prompt import Prompt
from softprompt.pruning import Search, importance, narrowed, strongest
from softprompt.stages import stage
from softprompt.training import reopen

MASKS = ("important", "random", "reversed")
MOMENTS = ("pruned", "trained again")
RATIOS = (0.5, 0.8)
VARIANTS = ("whole", *(f"{mask} {ratio:g} {moment}" for mask in MASKS for ratio in RATIOS for moment in MOMENTS))


def tested(prompt: Prompt, plan: Plan) -> Run:
    """The deciding metric on the test examples."""
    return judged(plan, [prediction.answer for prediction in prompt.predict(plan.test)])


def orders(real: torch.Tensor, seed: int) -> dict[str, torch.Tensor]:
    """By what each mask keeps: importance [P, 1], chance, and importance turned around."""
    chance = torch.rand(real.shape, generator=torch.Generator().manual_seed(seed))
    return dict(zip(MASKS, (real, chance, -real), strict=True))


def one(task: Task, backbone: Backbone, seed: int, ratios: tuple[float, ...] = RATIOS) -> dict[str, Run]:
    """One seed: test scores of the run, and of every mask of every ratio, by a name such as "random 0.5 pruned"."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = stage(recipe("trec", task, seed, folder), folder / "run", backbone=backbone)
        plan, _ = reopen(folder / "run", backbone)
        artifact = Artifact.load(first.artifact)
        found = {"whole": tested(artifact.bind(backbone), plan)}
        search = Search(plan, artifact, backbone, folder, 1, lambda event: None)
        everything = torch.ones(len(search.vectors), 1, dtype=torch.bool)
        by = orders(importance(search.rewound(everything), plan.train, 1), seed)
        for kind, scores in by.items():
            search = Search(plan, artifact, backbone, folder / kind, 1, lambda event: None)
            for ratio in ratios:
                mask = narrowed(everything, strongest(scores, ratio))
                again = Artifact.load(search.retrained(mask).artifact).bind(backbone)
                made = (search.rewound(mask), again)
                for moment, prompt in zip(MOMENTS, made, strict=True):
                    found[f"{kind} {ratio:g} {moment}"] = tested(prompt, plan)
    return found


def judge(found: Found) -> list[Verdict]:
    """The ordering of masks at both moments, and whether the best mask is better than none."""
    verdicts = []
    for ratio in RATIOS:
        for moment in MOMENTS:
            one = chain(found, [f"{mask} {ratio:g} {moment}" for mask in MASKS], list(MASKS))
            verdicts.append(replace(one, numbers=f"{ratio:.0%} of the vectors removed, {moment}: {one.numbers}"))
        one = chain(found, [f"important {ratio:g} trained again", "whole"], ["XPrompt", "prompt tuning"])
        verdicts.append(replace(one, numbers=f"{ratio:.0%} removed: {one.numbers}"))
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    parser.add_argument("--ratios", type=lambda text: tuple(map(float, text.split(","))), default=RATIOS)
    parser.add_argument("--rows", type=int, default=500, help="training rows")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--test", type=int, default=500, help="test rows")
    parser.add_argument("--save", type=Path, help="a JSON file for all that was found")
    chosen = parser.parse_args()
    if not DATA.exists():
        raise SystemExit("no real data beside the repository")
    task = Task(chosen.rows, chosen.epochs, chosen.test, TASKS["trec"].recipe)
    backbone, found = load_backbone(TINY), defaultdict(list)
    for seed in chosen.seeds:
        for variant, run in one(task, backbone, seed, chosen.ratios).items():
            found[variant].append(run)
            print(seed, variant, mean([run]), flush=True)
    for variant, runs in found.items():
        print(f"{variant:<28} {mean(runs)}")
    if chosen.save:
        settings = {name: value for name, value in vars(chosen).items() if name != "save"}
        chosen.save.write_text(json.dumps(facts(backbone) | {"settings": settings, "runs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
