"""The data that ships with the demo is what its README says it is."""

import csv
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "softprompt" / "demo" / "data"
SPLITS = ("train", "dev", "test")
ROWS = {
    "questions": (240, 60, 120),
    "intents": (360, 72, 144),
    "orders": (200, 50, 80),
    "reviews": (200, 50, 100),
    "places": (200, 40, 60),
}
CLASSES = {
    "questions": {"person", "place", "number", "definition", "reason", "method"},
    "intents": {
        "card_lost",
        "refund",
        "opening_hours",
        "change_address",
        "late_delivery",
        "cancel_subscription",
        "password_reset",
        "double_charge",
        "invoice_copy",
        "product_broken",
        "speak_to_human",
        "loan_rate",
    },
    "reviews": {"positive", "negative"},
}
TAGS = {"QUANTITY", "ITEM", "SIZE", "PLACE", "TIME"}
FILES = sorted(path for path in DATA.rglob("*") if path.suffix in {".csv", ".conll"})

Row = tuple[str, str]


def table(name: str, split: str) -> list[Row]:
    with (DATA / name / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file, strict=True)
    assert header == (["input", "output"] if name == "places" else ["text", "label"])
    assert {len(row) for row in rows} == {2}
    return [(first, second) for first, second in rows]


def sentences(split: str) -> list[list[Row]]:
    blocks = (DATA / "orders" / f"{split}.conll").read_text(encoding="utf-8").strip().split("\n\n")
    lines = [[line.split("\t") for line in block.split("\n")] for block in blocks]
    assert {len(pair) for block in lines for pair in block} == {2}
    return [[(word, tag) for word, tag in block] for block in lines]


def texts(name: str, split: str) -> list[str]:
    if name == "orders":
        return [" ".join(word for word, _ in sentence) for sentence in sentences(split)]
    return [text for text, _ in table(name, split)]


def spans(sentence: list[Row], kind: str) -> list[str]:
    found: list[str] = []
    for word, tag in sentence:
        if tag == f"B-{kind}":
            found.append(word)
        elif tag == f"I-{kind}":
            found[-1] += f" {word}"
    return found


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold()))


def squeezed(text: str) -> str:
    return "".join(text.casefold().split())


def test_there_is_one_file_for_each_set_and_split_and_all_are_small() -> None:
    expected = {(name, split) for name in ROWS for split in SPLITS}
    assert {(path.parent.name, path.stem) for path in FILES} == expected
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < 200_000


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_files_are_clean_utf8_with_lf_line_ends(path: Path) -> None:
    raw = path.read_bytes()
    text = raw.decode("utf-8", errors="strict")
    assert not raw.startswith(b"\xef\xbb\xbf")
    assert b"\r" not in raw
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert all(character.isprintable() for character in text if character not in "\n\t")


@pytest.mark.parametrize("name", ROWS)
def test_row_counts_are_as_promised_here_and_in_the_readme(name: str) -> None:
    assert tuple(len(texts(name, split)) for split in SPLITS) == ROWS[name]
    line = next(line for line in (DATA / "README.md").read_text(encoding="utf-8").split("\n") if f"`{name}/" in line)
    assert " / ".join(map(str, ROWS[name])) in line
    assert "Apache-2.0" in line


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("split", SPLITS)
def test_every_class_has_the_same_number_of_rows(name: str, split: str) -> None:
    counts = Counter(label for _, label in table(name, split))
    assert set(counts) == CLASSES[name]
    assert len(set(counts.values())) == 1


@pytest.mark.parametrize("name", ROWS)
def test_no_text_occurs_twice_inside_or_across_splits(name: str) -> None:
    counts = Counter(squeezed(text) for split in SPLITS for text in texts(name, split))
    assert [text for text, count in counts.items() if count > 1] == []
    assert "" not in counts


@pytest.mark.parametrize("name", ROWS)
def test_no_two_splits_share_a_near_duplicate(name: str) -> None:
    sets = {split: [words(text) for text in texts(name, split)] for split in SPLITS}
    close = [
        (sorted(a), sorted(b))
        for first, second in combinations(SPLITS, 2)
        for a in sets[first]
        for b in sets[second]
        if len(a & b) > 0.8 * len(a | b)
    ]
    assert close == []


@pytest.mark.parametrize("name", ROWS)
def test_texts_have_no_stray_spaces(name: str) -> None:
    every = [text for split in SPLITS for text in texts(name, split)]
    assert [text for text in every if text != " ".join(text.split())] == []


@pytest.mark.parametrize("split", SPLITS)
def test_order_tags_are_valid_bio_and_every_tag_occurs(split: str) -> None:
    seen: set[str] = set()
    for sentence in sentences(split):
        before = "O"
        for word, tag in sentence:
            assert word
            assert not re.search(r"\s", word)
            assert tag == "O" or (tag[:2] in {"B-", "I-"} and tag[2:] in TAGS), (word, tag)
            assert not tag.startswith("I-") or before[2:] == tag[2:], (word, tag)
            seen.add(tag[2:])
            before = tag
    assert seen - {""} == TAGS


def test_no_item_of_the_test_orders_was_seen_in_training() -> None:
    items = {split: {item for sentence in sentences(split) for item in spans(sentence, "ITEM")} for split in SPLITS}
    assert items["test"]
    assert items["test"] & items["train"] == set()


@pytest.mark.parametrize("split", SPLITS)
def test_inputs_of_places_are_attributes_and_outputs_say_them(split: str) -> None:
    outputs = [output for _, output in table("places", split)]
    assert len({squeezed(output) for output in outputs}) == len(outputs)
    for text, output in table("places", split):
        assert re.fullmatch(r"name\[[^\[\]]+\](, [a-zA-Z ]+\[[^\[\]]+\])+", text), text
        assert output.endswith(".")
        for key, value in re.findall(r"([a-zA-Z ]+)\[([^\]]+)\]", text):
            if key.strip() in {"name", "eatType", "food", "customer rating", "near", "priceRange"}:
                assert value in output, (key, value, output)


def test_no_word_of_a_name_of_the_test_file_was_seen_in_training() -> None:
    names = {
        split: {word for text in texts("places", split) for word in text.split("]")[0].split()[1:]} for split in SPLITS
    }
    assert names["test"]
    assert names["test"] & names["train"] == set()
