"""What only shows over many rows: labels outside the set, duplicates, lonely classes, leakage."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from softprompt.data.dataset import Dataset, Table, TaskKind
from softprompt.data.problem import Problem, quote
from softprompt.data.rows import NULLS, Built
from softprompt.errors import near

if TYPE_CHECKING:
    from softprompt.example import Example

COMPARISONS: Final = 20_000  # of labels for near misses, at some 20 microseconds each
EXCERPT: Final = 40  # characters of another row's place


def content(example: "Example") -> Hashable:
    """What makes two examples the same input: all texts in order, or the bytes of the image."""
    texts = tuple(example.fields.values())
    return (texts, hashlib.sha256(example.image.read_bytes()).digest()) if example.image else texts


def _loose(text: str) -> str:
    return " ".join(text.casefold().split())


def _tags(example: "Example") -> tuple[str, ...]:
    label = example.label
    return label if isinstance(label, tuple) else (label,) if isinstance(label, str) else ()


def settle_labels(built: Built, table: Table, column: str, given: Sequence[str] | None) -> tuple[str, ...]:
    """The set of labels; rows with a label outside it, or that differs only in case or space, are taken out.

    Without a `given` set, the commonest spelling of a label is the right one.
    """
    counts = Counter(tag for example in built.examples for tag in _tags(example))
    right: dict[str, str] = {}
    for tag in given or [tag for tag, _ in counts.most_common()]:
        right.setdefault(_loose(tag), tag)
    allowed = set(given) if given is not None else set(right.values())
    if not counts.keys() <= allowed:
        outside = counts.keys() - allowed
        hints = list(right.values()) if len(outside) * len(right) <= COMPARISONS else []
        _take_out(built, table, column, {tag: _outside(tag, right, hints) for tag in outside})
    return tuple(given) if given is not None else tuple(sorted(allowed))


def _outside(tag: str, right: dict[str, str], hints: list[str]) -> tuple[str, str, str, str]:
    """Code, found, expected and remedy for a label that is not in the set."""
    same = right.get(_loose(tag))
    if same is not None:
        do = f"write {quote(same)}, or list both in --set task.labels=[...]"
        return "SP-E125", f"label {quote(tag)}", f"{quote(same)} (only case or space differ)", do
    shown = list(right.values())
    more = f", ... ({len(shown)} labels)" if len(shown) > 8 else ""
    hint = near(tag[:100], hints)
    expected = f"one of: {', '.join(label[:40] for label in shown[:8])}{more}"
    return "SP-E124", f"label {quote(tag)}", expected, f"correct the label{hint}, or add it to data.labels"


def _take_out(built: Built, table: Table, column: str, outside: dict[str, tuple[str, str, str, str]]) -> None:
    keep: list[int] = []
    for at, (example, line) in enumerate(zip(built.examples, built.lines, strict=True)):
        wrong = [(word, tag) for word, tag in enumerate(_tags(example)) if tag in outside]
        if not wrong:
            keep.append(at)
            continue
        built.bad += 1
        for word, tag in wrong:
            where = table.where(line + table.step * word, column) if line else example.where
            built.problems.append(Problem(where, *outside[tag]))
    built.examples = [built.examples[at] for at in keep]
    built.lines = [built.lines[at] for at in keep]


def examine(built: Built, kind: TaskKind, labels: Sequence[str], name: str, *, given: bool) -> list[Problem]:
    """Findings over all sound rows: duplicates, contradictions, class counts."""
    problems = _duplicates(built.examples, kind)
    if kind == "classification" and built.examples:
        problems += _classes(Counter(str(example.label) for example in built.examples), labels, name, given=given)
    return problems


def _duplicates(examples: "Sequence[Example]", kind: TaskKind) -> list[Problem]:
    """Repeated rows, and rows of one text with different labels: warnings, because annotators do disagree.

    Several answers to one input are normal in generation and no contradiction there.
    """
    first: dict[Hashable, Example] = {}
    problems = []
    for example in examples:
        earlier = first.setdefault(content(example), example)
        if earlier is example:
            continue
        if earlier.label == example.label:
            found, do = (
                f"the same row as {_seen_from(example, earlier)}",
                "remove one, unless both are meant",
            )
            problems.append(Problem(example.where, "SP-W102", found, "each row once", do, "warning"))
        elif kind != "generation":
            labels = (
                f"label {_brief(example.label)}, but {_brief(earlier.label)}" if kind != "tagging" else "other tags"
            )
            found = f"{labels} {'than' if kind == 'tagging' else 'at'} {_seen_from(example, earlier)}"
            do = "decide which label is right"
            problems.append(Problem(example.where, "SP-W103", found, "one label a text", do, "warning"))
    return problems


def _brief(label: object) -> str:
    shown = quote(label)
    return shown if len(shown) <= 16 else f"{shown[:12]}...{shown[-1]}"


def _seen_from(example: "Example", earlier: "Example") -> str:
    """Where the earlier example is: its line, where both are in the same file."""
    file, _, line = earlier.where.rpartition(":")
    return f"line {line}" if file and example.where.startswith(f"{file}:") else _short(earlier.where)


def _short(where: str) -> str:
    return where if len(where) <= EXCERPT else f"...{where[-EXCERPT + 3 :]}"


def _classes(counts: Counter[str], labels: Sequence[str], name: str, *, given: bool) -> list[Problem]:
    problems = []
    if len(counts) == 1:
        found = f"one class only, {quote(next(iter(counts)))}"
        do = "add rows of another class, or name the label column with --set data.label=..."
        problems.append(Problem(name, "SP-E130", found, "two classes or more", do, "warning" if given else "error"))
    frequent = [label for label in labels if counts[label] > 1]
    hints = frequent if len(frequent) * (len(counts) - len(frequent)) <= COMPARISONS else []
    for label, count in sorted(counts.items()):
        if count < 2 and not given:
            do = f"add rows, or correct the label{near(label[:100], hints)}"
            found = f"one row of class {quote(label)}"
            problems.append(Problem(name, "SP-W104", found, "two rows a class or more", do, "warning"))
        if label.strip() != label:
            do = "take the space off if it is not meant"
            problems.append(Problem(name, "SP-W106", quote(label), "a label without space around", do, "warning"))
        if label.lower() in NULLS - {"none"}:
            found, do = f"{count} rows of class {quote(label)}", "remove them if the label is missing"
            problems.append(Problem(name, "SP-W101", found, "a label (it is kept as one)", do, "warning"))
    return problems


def rare_keys(table: Table, absent: object) -> list[Problem]:
    """A warning for each object with a key that fewer than half of the objects have."""
    problems = []
    for at, name in enumerate(table.header):
        having = [line for line, cells in zip(table.lines, table.rows, strict=True) if cells[at] is not absent]
        if len(having) * 2 < len(table.rows):
            found, do = f"a field {quote(name)}", "correct the name, or leave it: it is not read"
            expected = "the fields of the other rows"
            problems += [Problem(table.where(line), "SP-W105", found, expected, do, "warning") for line in having]
    return problems


def leakage(train: "Dataset | Iterable[Example]", evaluation: "Dataset | Iterable[Example]") -> list[Problem]:
    """An error for each evaluation example whose input is in the training data too, up to case and white space."""
    seen: dict[Hashable, str] = {}
    for example in train.examples if isinstance(train, Dataset) else train:
        seen.setdefault(alike(example), example.where)
    problems = []
    for example in evaluation.examples if isinstance(evaluation, Dataset) else evaluation:
        known = seen.get(alike(example))
        if known is not None:
            do = "remove it from one of the two files"
            found = f"an example that is also trained on ({_short(known)})"[:80]
            problems.append(Problem(example.where, "SP-E131", found, "examples not in the training data", do))
    return problems


def alike(example: "Example") -> Hashable:
    """What makes two examples so similar that one tells the other: the input, up to case and white space."""
    if example.image:
        return content(example)
    return tuple(_loose(text if isinstance(text, str) else " ".join(text)) for text in example.fields.values())


def by_class(examples: "Iterable[Example]") -> "dict[str, list[Example]]":
    """Examples by class name, classes sorted."""
    classes: defaultdict[str, list[Example]] = defaultdict(list)
    for example in examples:
        classes[str(example.label)].append(example)
    return dict(sorted(classes.items()))
