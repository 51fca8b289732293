"""Exercises of a raw text have true answers, no document is in two parts, and their prompt is a start for others."""

import json
import random
import re
from collections import Counter

import pytest

from softprompt.artifact import Artifact
from softprompt.core import Example
from softprompt.errors import SoftpromptError
from softprompt.plan import make_plan
from softprompt.sections import DataSection, TaskSection
from softprompt.transfer.paired import losses
from softprompt.transfer.ppt import divided, labels_of, pretrain_on_text
from softprompt.transfer.rawtext import LETTERS, exercises, read_documents
from softprompt.transfer.sources import placed
from softprompt.untrained import build

WORD = re.compile(r"d(\d+)s(\d+)")


def documents(count: int = 12, sentences: int = 5) -> list[list[str]]:
    """Sentences that say which they are."""
    return [[f"w{10 + d} w{30 + s} d{d}s{s}." for s in range(sentences)] for d in range(count)]


def places(text: str) -> list[tuple[int, int]]:
    return [(int(d), int(s)) for d, s in WORD.findall(text)]


def test_the_answer_of_a_pair_is_where_its_second_sentence_stands() -> None:
    made = exercises(documents(), ["pair"], 40, seed=1)
    assert len(made) == 40
    for text, answer in made:
        (d, s), (e, t) = places(text)
        wanted = "no" if d != e else "yes" if t == s + 1 else "maybe"
        assert answer == wanted
        assert abs(t - s) > 1 or answer != "maybe"
    assert min(Counter(answer for _, answer in made).values()) > 5
    assert {answer for _, answer in exercises(documents(sentences=2), ["pair"], 40, seed=1)} == {"yes", "no"}


def test_the_answer_of_a_choice_is_the_letter_of_the_next_sentence_alone() -> None:
    made = exercises(documents(), ["choice"], 40, seed=1, options=3)
    for text, answer in made:
        (d, s), *listed = places(text)
        assert listed[LETTERS.index(answer)] == (d, s + 1)
        assert listed.count((d, s + 1)) == 1
        assert sum(e == d for e, _ in listed) == 2, "the next one, and another of the same document"
    assert set("abc") == {answer for _, answer in made}


def test_a_text_is_set_once_and_the_same_seed_sets_the_same() -> None:
    twice = exercises(documents(), ["pair", "choice"], 30, seed=3)
    assert twice == exercises(documents(), ["pair", "choice"], 30, seed=3)
    assert len({text for text, _ in twice}) == len(twice) == 60
    assert twice != exercises(documents(), ["pair", "choice"], 30, seed=4)


def test_documents_are_divided_before_exercises_are_made() -> None:
    parts = divided(documents(40), seed=0)
    assert {name: len(part) for name, part in parts.items()} == {"train": 32, "dev": 4, "test": 4}
    seen = [{places(one)[0][0] for part in some for one in part} for some in parts.values()]
    assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]


def test_documents_are_what_empty_lines_part(tmp_path) -> None:
    text = "\n \n".join("One two three. Four five\nsix! No. Seven eight nine?" for _ in range(11))
    (tmp_path / "t.txt").write_text(text + "\n\nA single sentence here.\n")
    found = read_documents([tmp_path / "t.txt"])
    assert found == [["One two three.", "Four five six!", "Seven eight nine?"]] * 11
    (tmp_path / "short.txt").write_text("One two three. Four five six.")
    for path in ("short.txt", "absent.txt"):
        with pytest.raises(SoftpromptError, match="SP-E714"):
            read_documents([tmp_path / path])


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "raw.txt"
    rng = random.Random(0)

    def sentence() -> str:
        return " ".join(f"w{rng.randint(10, 90)}" for _ in range(4)) + " ."

    path.write_text("\n\n".join(" ".join(sentence() for _ in range(4)) for _ in range(20)))
    return path


def test_single_sentences_take_the_label_that_a_prompt_is_sure_of(bench, text) -> None:
    (near,) = bench.sources("near")
    bound = near.artifact.bind(bench.backbone)
    sentences = [one for document in read_documents([text]) for one in document]
    chances = [max(one.scores.values()) for one in bound.predict([Example({"text": one}) for one in sentences])]
    limit = sorted(chances)[len(chances) // 2]
    told = labels_of(bound, limit)(sentences)
    assert [label is not None for label in told] == [chance >= limit for chance in chances]
    made = exercises(read_documents([text]), ["single"], 1000, 0, labeller=labels_of(bound, limit))
    assert dict(made) == {one: label for one, label in zip(sentences, told, strict=True) if label is not None}


def test_a_prompt_from_raw_text_is_measured_and_started_from(bench, text, tmp_path) -> None:
    recipe = bench.recipe("train.steps=2")
    given = {"formats": ["pair", "choice", "single"], "count": 20, "options": 3, "backbone": bench.backbone}
    (near,) = bench.sources("near")
    made = pretrain_on_text(recipe, [text], tmp_path / "ppt", labeller=near, sure=0.0, **given)
    rows = [json.loads(line) for line in (tmp_path / "ppt" / "train.jsonl").read_text().splitlines()]
    assert Counter(row["label"] for row in rows) == Counter(made.answers)
    assert {"yes", "no", "a", "w5"} <= made.answers.keys()
    plan = make_plan(bench.recipe(), bench.backbone)
    assert placed(plan, made.left.artifact, bench.backbone).method.length == 4
    files = {part: str(tmp_path / "ppt" / f"{part}.jsonl") for part in ("train", "dev", "test")}
    update = {"data": DataSection(**files), "task": TaskSection(kind="generation")}
    own = make_plan(recipe.model_copy(update=update), bench.backbone)
    before = losses(build(own, bench.backbone), own.dev, 16)
    after = losses(Artifact.load(made.left.artifact).bind(bench.backbone), own.dev, 16)
    assert made.gain.difference == pytest.approx((sum(before) - sum(after)) / len(before), rel=1e-3, abs=1e-6)


def test_formats_that_cannot_be_set_are_refused(bench, text, tmp_path) -> None:
    near = bench.sources("near")[0]
    for given in (
        {"formats": ["pairs"]},
        {"formats": []},
        {"formats": ["single"]},
        {"formats": ["pair"], "labeller": near},
        {"formats": ["choice"], "options": 9},
    ):
        with pytest.raises(SoftpromptError, match="SP-E715"):
            pretrain_on_text(bench.recipe(), [text], tmp_path / "x", backbone=bench.backbone, **given)
