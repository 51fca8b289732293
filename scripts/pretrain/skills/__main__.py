"""Print examples and totals of the pretraining skills: python -m scripts.pretrain.skills --show 3."""

import argparse
from collections import Counter
from pathlib import Path

from scripts.pretrain.skills import skills
from scripts.pretrain.sources import Skill


def main() -> None:
    """Show a few examples of each task, then bytes by task and by source."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--extra", type=Path, default=Path("runs/extra"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=3, help="examples of each task")
    arguments = parser.parse_args()
    tasks: Counter[str] = Counter()
    origins: Counter[str] = Counter()
    shown: dict[str, list[Skill]] = {}
    for count, skill in enumerate(skills(arguments.data, arguments.extra, arguments.seed)):
        size = len((skill.prompt + skill.answer).encode())
        tasks[skill.task] += size
        origins[skill.source] += size
        examples = shown.setdefault(skill.task, [])
        if len(examples) < arguments.show and (not examples or count % 7 == 0):
            examples.append(skill)
    for task, examples in shown.items():
        print(f"== {task}")
        for skill in examples:
            print(f"{skill.prompt}[{skill.answer}]\n---")
    for title, counter in (("task", tasks), ("source", origins)):
        print(f"\nbytes by {title} (all: {sum(counter.values()):,})")
        for name, size in counter.most_common():
            print(f"{size:>12,}  {size / sum(counter.values()):6.1%}  {name}")


if __name__ == "__main__":
    main()
