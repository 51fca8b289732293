"""The parts of a few-shot run: K examples a class to train on, as many others to choose by, and the test untouched.

Gao, Fisch, Chen 2021, "Making Pre-trained Language Models Better Few-shot Learners", arXiv:2012.15723 (LM-BFF), section
3: 16 examples a class, a dev set as large as the training set, five fixed samples. A large dev set would not be
few-shot, so one in a file is refused.
"""

import random
from collections.abc import Mapping, Sequence

from softprompt.core import Example
from softprompt.data import Dataset, split
from softprompt.data.checks import alike, by_class
from softprompt.errors import DataError, RecipeError
from softprompt.sections import DataSection

SEEDS = (13, 21, 42, 87, 100)  # of LM-BFF's samples

Parts = tuple[list[Example], list[Example], list[Example]]


def few_shot(section: DataSection, data: Dataset, parts: Mapping[str, Dataset]) -> Parts:
    """Train, dev and test of `data.few_shot` examples a class; `data.seed` decides which, and never what is tested.

    Without a test file, the test share of `data.split` is set aside first, alike for every seed. Raises `RecipeError`
    SP-E751 for settings that contradict the protocol, `DataError` SP-E750 for a class of too few examples.
    """
    assert section.few_shot is not None
    refuse(section, data, parts)
    pool, share = data.examples, section.split[2]
    test = parts["test"].examples if "test" in parts else []
    if "test" not in parts and share:
        pool, test = split(data, [1 - share, share], 0)
    train, dev = sample(pool, section.few_shot, section.seed)
    return train, dev, test


def refuse(section: DataSection, data: Dataset, parts: Mapping[str, Dataset]) -> None:
    """Raise `RecipeError` SP-E751 where something else decides the parts too, or there are no classes."""
    found = "data.shots" if section.shots else "data.dev, a file," if "dev" in parts else ""
    if found:
        expected = "train and dev of one size, both drawn from data.train"
        raise RecipeError("SP-E751", f"{found} beside data.few_shot", expected, f"leave {found.split(',')[0]} out")
    if data.kind != "classification":
        do = "leave data.few_shot out, and give few rows"
        raise RecipeError("SP-E751", f"data.few_shot for {data.kind}", "classes", do)


def sample(examples: Sequence[Example], k: int, seed: int) -> tuple[list[Example], list[Example]]:
    """`k` examples of each class and `k` others of each, no two with the same input up to case and white space.

    Both in file order. Raises `DataError` SP-E750 for classes of fewer than 2 `k` different examples.
    """
    seen: dict[object, Example] = {}
    for example in examples:
        seen.setdefault(alike(example), example)
    classes = by_class(seen.values())
    short = {name: len(members) for name, members in classes.items() if len(members) < 2 * k}
    if short:
        told = ", ".join(f"{count} of class {name[:30]!r}" for name, count in list(short.items())[:5])
        found = f"{told}{' and others' if len(short) > 5 else ''} (different examples)"
        do = f"add examples, or use --few-shot {min(short.values()) // 2 or 1} or fewer"
        raise DataError("SP-E750", found, f"{2 * k} of each: {k} to train on and {k} for dev", do)
    rng = random.Random(seed)
    drawn = {name: rng.sample(members, 2 * k) for name, members in classes.items()}
    chosen = [{id(example) for own in drawn.values() for example in own[at : at + k]} for at in (0, k)]
    train, dev = ([example for example in examples if id(example) in one] for one in chosen)
    return train, dev


__all__ = ["SEEDS", "few_shot", "sample"]
