"""Span F1 of BIO tags, counted as the CoNLL-2000 script `conlleval` counts, and accuracy over tags."""

from collections.abc import Iterable, Sequence

from softprompt.errors import SoftpromptError
from softprompt.metrics.checks import check_known, check_lengths, check_texts
from softprompt.metrics.resampling import Tally, ratio, sum_tally

Span = tuple[str, int, int]  # type, first word, word after the last
Tags = Sequence[Sequence[str]]  # one tag a word, for each sentence


def spans(tags: Sequence[str]) -> list[Span]:
    """The spans of one sentence: B- always opens one, I- opens one where it does not go on with the same type.

    A bare B or I has type `_`. Raises SP-E603 at a tag that is not O, B or I.
    """
    found: list[Span] = []
    name: str | None = None  # of the open span
    start = 0
    for i, tag in enumerate((*tags, "O")):
        prefix, kind = _split(tag)
        if prefix == "I" and kind == name:
            continue
        if name is not None:
            found.append((name, start, i))
        name, start = (None, i) if prefix == "O" else (kind, i)
    return found


def span_f1(predictions: Tags, references: Tags, labels: Sequence[str] | None = None) -> Tally:
    """F1 over spans of all sentences together (micro); a span counts where type and both ends are right."""
    _check(predictions, references, labels)
    rows = []
    for said_tags, true_tags in zip(predictions, references, strict=True):
        said, true = frozenset(spans(said_tags)), frozenset(spans(true_tags))
        rows.append((len(said & true), len(said) + len(true)))
    return sum_tally(rows, lambda sums: ratio(2 * sums[:, 0], sums[:, 1]))


def token_accuracy(predictions: Tags, references: Tags, labels: Sequence[str] | None = None) -> Tally:
    """The share of equal tags over the words of all sentences; any tags, not only BIO."""
    _check(predictions, references, labels)
    rows = [
        (sum(p == r for p, r in zip(said, true, strict=True)), len(true))
        for said, true in zip(predictions, references, strict=True)
    ]
    return sum_tally(rows, lambda sums: ratio(sums[:, 0], sums[:, 1]))


def is_bio(tags: Iterable[str]) -> bool:
    """Whether every tag is O, B, I, B-type or I-type, and not all are O."""
    prefixes = {tag.partition("-")[0] if tag != "O" else "" for tag in tags}
    return bool(prefixes & {"B", "I"}) and prefixes <= {"B", "I", ""}


def _split(tag: str) -> tuple[str, str]:
    prefix, _, kind = tag.partition("-")
    if prefix not in ("B", "I") and tag != "O":
        do = "correct the tag, or use token_accuracy for tags without spans"
        raise SoftpromptError("SP-E603", f"tag {tag!r}", "O, B-type or I-type", do)
    return prefix, kind or "_"


def _check(predictions: Tags, references: Tags, labels: Sequence[str] | None) -> None:
    for i, (said, true) in enumerate(zip(predictions, references, strict=True)):
        for tags, what in ((said, "prediction"), (true, "reference")):
            if isinstance(tags, str):  # "BIO" would pass as three tags
                raise SoftpromptError("SP-E603", f"text {tags!r}", "one tag a word", "split it", where=f"{what} {i}")
            check_texts(tags, f"{what} {i}, word")
            check_known(tags, labels, f"{what} {i}, word")
        check_lengths(said, true, where=f"sentence {i}")
