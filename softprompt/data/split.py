"""Stratified splits and k-shot samples, the same for the same seed, with duplicates kept on one side."""

import math
import random
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from softprompt.data.checks import alike, by_class, content
from softprompt.data.dataset import Dataset
from softprompt.errors import DataError

if TYPE_CHECKING:
    from softprompt.example import Example


def split(data: "Dataset | Sequence[Example]", fractions: Sequence[float], seed: int) -> "tuple[list[Example], ...]":
    """One list a fraction, each in file order; fractions sum to 1. Each class is shared out in proportion.

    Examples with the same input, up to case and white space, stay together; a class of which there is one goes to the
    first part.
    Raises DataError for fractions that make no sense, and where a part would be empty.
    """
    examples = _examples(data)
    total = math.fsum(fractions)
    if not fractions or not all(fraction >= 0 for fraction in fractions) or not math.isclose(total, 1, abs_tol=1e-6):
        do = "use fractions such as 0.8, 0.1, 0.1"
        raise DataError("SP-E133", f"fractions {list(fractions)}", "shares of at least 0 that sum to 1", do)
    rng = random.Random(seed)
    parts: list[list[int]] = [[] for _ in fractions]
    seen = 0
    for groups in _strata(examples, _classes(data)):
        rng.shuffle(groups)
        for group in groups:
            # The part that is furthest behind its share takes the next one; carried over the classes,
            # so that a hundred classes of two rows still fill the smaller parts.
            seen += len(group)
            behind = [fraction * seen - len(part) for fraction, part in zip(fractions, parts, strict=True)]
            alone = len(groups) == 1 and fractions[0] > 0
            parts[0 if alone else max(range(len(parts)), key=behind.__getitem__)].extend(group)
    for fraction, part in zip(fractions, parts, strict=True):
        if fraction > 0 and not part:
            found = f"{len(examples)} rows, none of them left for a share of {fraction:g}"
            raise DataError("SP-E132", found, "rows for every part", "add rows, or change the fractions")
    return tuple([examples[at] for at in sorted(part)] for part in parts)


def k_shot(data: "Dataset | Sequence[Example]", k: int, seed: int) -> "list[Example]":
    """Sample k examples of each class with different inputs, in file order. Raises DataError for a class of fewer."""
    examples = _examples(data)
    if k < 1:
        raise DataError("SP-E133", f"k = {k}", "1 or more examples a class", "choose k of 1 or more")
    if not all(isinstance(example.label, str) for example in examples):
        raise DataError("SP-E133", "labels that are not classes", "class names", "k-shot samples need classification")
    rng = random.Random(seed)
    chosen: set[int] = set()
    for name, members in by_class(examples).items():
        different = list({content(example): example for example in reversed(members)}.values())[::-1]
        if len(different) < k:
            found = f"{len(different)} different examples of class '{name[:30]}'"
            raise DataError("SP-E132", found, f"at least {k}", f"add examples, or choose k <= {len(different)}")
        chosen.update(id(example) for example in rng.sample(different, k))
    return [example for example in examples if id(example) in chosen]


def _examples(data: "Dataset | Sequence[Example]") -> "list[Example]":
    return data.examples if isinstance(data, Dataset) else list(data)


def _classes(data: "Dataset | Sequence[Example]") -> bool:
    """Whether labels are classes; for bare examples, whether they are names that recur."""
    if isinstance(data, Dataset):
        return data.kind == "classification"
    names = {example.label for example in data}
    return len(names) <= len(data) / 2 and all(isinstance(name, str) for name in names)


def _strata(examples: "list[Example]", classes: bool) -> list[list[list[int]]]:
    """Indices grouped by input, the groups collected by class; one stratum where labels are not classes."""
    groups: defaultdict[Hashable, list[int]] = defaultdict(list)
    for at, example in enumerate(examples):
        groups[alike(example)].append(at)
    labels = [example.label for example in examples]
    strata: defaultdict[str, list[list[int]]] = defaultdict(list)
    for group in groups.values():
        strata[str(labels[group[0]]) if classes else ""].append(group)
    return [strata[name] for name in sorted(strata)]
