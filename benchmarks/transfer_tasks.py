"""Ten tasks of one text and a word as answer, for `transfer.py`: rows to train on, to choose by, and to test on."""

import csv
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from results import DATA, Rows, cr, shuffled, sst2, trec
from tasks import TREC


def tabbed(path: Path, build: Callable[[list[str]], tuple[str, str]], first: int = 0) -> Iterator[tuple[str, str]]:
    for line in path.read_text(encoding="utf-8-sig").splitlines()[first:]:
        yield build(line.split("\t"))


def cola(name: str) -> Iterator[tuple[str, str]]:
    path = DATA / "cola" / f"in_domain_{'dev' if name == 'test' else 'train'}.tsv"
    return tabbed(path, lambda c: (c[3], ("wrong", "right")[int(c[1])]))


def mrpc(name: str) -> Iterator[tuple[str, str]]:
    path = DATA / "mrpc" / f"{'test' if name == 'test' else 'train'}.txt"
    return tabbed(path, lambda c: (f"first: {c[3]} second: {c[4]}", ("no", "yes")[int(c[0])]), 1)


def sick(name: str) -> Iterator[tuple[str, str]]:
    words = {"NEUTRAL": "maybe", "ENTAILMENT": "yes", "CONTRADICTION": "no"}
    path = DATA / "sick" / f"{'test' if name == 'test' else 'train'}.txt"
    return tabbed(path, lambda c: (f"first: {c[1]} second: {c[2]}", words[c[4].strip()]), 1)


def worded(folder: str) -> Callable[[str], Iterator[tuple[str, str]]]:
    def read(name: str) -> Iterator[tuple[str, str]]:
        place = DATA / "atis_snips_slots" / folder / ("test" if name == "test" else "train")
        texts, labels = ((place / file).read_text(encoding="utf-8").splitlines() for file in ("seq.in", "label"))
        return zip(texts, labels, strict=True)

    return read


def clinc(name: str) -> Iterator[tuple[str, str]]:
    found = json.loads((DATA / "clinc150" / "data_full.json").read_text(encoding="utf-8"))
    return ((text, label) for text, label in found["test" if name == "test" else "train"])


def banking(name: str) -> Iterator[tuple[str, str]]:
    with (DATA / "banking77" / f"{'test' if name == 'test' else 'train'}.csv").open(
        encoding="utf-8", newline=""
    ) as file:
        for line in csv.DictReader(file):
            yield line["text"], line["category"]


READERS: dict[str, Callable[[str], Iterable[tuple[str, str]]]] = {
    "sst2": sst2,
    "trec": lambda name: ((text, TREC[label]) for text, label in trec(name)),
    "cola": cola,
    "mrpc": mrpc,
    "sick": sick,
    "cr": cr,
    "atis": worded("atis"),
    "snips": worded("snips"),
    "clinc": clinc,
    "banking": banking,
}
CLASSES = {"atis": 5, "clinc": 10, "banking": 10}  # the most frequent ones alone
TARGETS = ("sst2", "cr", "trec", "cola", "mrpc", "sick")  # of which nothing was in the pretraining of the backbone
SOURCES = ("sst2", "trec", "cola", "mrpc", "sick", "atis", "snips", "clinc", "banking")


def rows(task: str, test: int) -> dict[str, Rows]:
    """Train and test rows in a fixed order; no text of test is in train."""
    whole = {name: {text.strip(): label for text, label in READERS[task](name)} for name in ("train", "test")}
    classes = {label for label, _ in Counter(whole["train"].values()).most_common(CLASSES.get(task))}
    asked = shuffled((text, label) for text, label in whole["test"].items() if text and label in classes)
    left = shuffled((a, b) for a, b in whole["train"].items() if a and b in classes and a not in whole["test"])
    return {"train": left, "test": asked[:test]}


def few(task: str, shots: int, seed: int, test: int) -> dict[str, Rows]:
    """`shots` rows of each class to train on, as many others to choose by, where there are so many.

    A test row that was drawn in other case or spacing (TREC has one) is not asked.
    """
    whole = rows(task, test)
    drawn, by_class = random.Random(seed), defaultdict(list)
    for row in drawn.sample(whole["train"], len(whole["train"])):
        by_class[row[1]].append(row)
    halves = {label: min(shots, len(group) // 2) for label, group in by_class.items()}
    train = [row for label, group in sorted(by_class.items()) for row in group[: halves[label]]]
    dev = [row for label, group in sorted(by_class.items()) for row in group[halves[label] : 2 * halves[label]]]
    seen = {loose(text) for text, _ in train + dev}
    return {"train": train, "dev": dev, "test": [row for row in whole["test"] if loose(row[0]) not in seen]}


def loose(text: str) -> str:
    return " ".join(text.casefold().split())
