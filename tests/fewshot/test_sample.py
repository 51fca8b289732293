"""The protocol: K of each class to train on, K others to choose by, and a test set that no seed changes."""

from collections import Counter
from pathlib import Path

import pytest
import tiny_runs

from softprompt.core import Example
from softprompt.data.checks import alike
from softprompt.errors import DataError, RecipeError
from softprompt.fewshot.protocol import repeat
from softprompt.fewshot.sample import SEEDS, sample
from softprompt.plan import Plan, make_plan

POOL = [Example({"text": f"text {i}"}, label="ab"[i % 2], where=f"{i}") for i in range(40)]


def labels(examples: list[Example]) -> Counter[str]:
    return Counter(str(example.label) for example in examples)


def plan(folder: Path, *settings: str) -> Plan:
    recipe = tiny_runs.recipe(folder, "data.few_shot=3", *settings)
    return make_plan(recipe, tiny_runs.open_model(folder))


def test_train_and_dev_are_of_one_size_and_share_nothing() -> None:
    train, dev = sample(POOL, 5, 13)
    assert labels(train) == labels(dev) == {"a": 5, "b": 5}
    assert not {id(e) for e in train} & {id(e) for e in dev}
    assert [int(e.where) for e in train] == sorted(int(e.where) for e in train)
    assert sample(POOL, 5, 13) == (train, dev)
    assert len({tuple(e.where for e in sample(POOL, 5, seed)[0]) for seed in SEEDS}) == len(SEEDS)


def test_texts_that_differ_in_case_and_space_only_count_once() -> None:
    twins = [Example({"text": text}, label="a") for text in ("One two", "one  TWO", "three", "four", "five")]
    for seed in range(5):
        train, dev = sample(twins, 2, seed)
        assert len({alike(example) for example in [*train, *dev]}) == 4


def test_a_class_of_too_few_is_named_with_its_count() -> None:
    few = [*POOL, *(Example({"text": f"rare {i}"}, label="rare") for i in range(7))]
    with pytest.raises(DataError, match=r"SP-E750 .*7 of class 'rare'.*8 of each: 4 to train on and 4 for dev"):
        sample(few, 4, 0)


def test_the_test_examples_are_the_same_for_every_seed(tmp_path: Path) -> None:
    settings = ("data.test=null", "data.split=[0.7, 0.1, 0.2]")
    made = [plan(tmp_path, *settings, f"data.seed={seed}") for seed in SEEDS[:3]]
    assert [[e.where for e in one.test] for one in made] == [[e.where for e in made[0].test]] * 3
    assert len({tuple(e.where for e in one.train) for one in made}) == 3
    assert len(made[0].test) == 8
    for one in made:
        assert labels(one.train) == labels(one.dev) == {"w5": 3, "w6": 3}


@pytest.mark.parametrize(
    ("setting", "found"),
    [("data.shots=2", "data.shots"), ("data.dev=dev.csv", "data.dev"), ("task.kind=generation", "generation")],
)
def test_settings_that_contradict_the_protocol_are_refused(tmp_path: Path, setting: str, found: str) -> None:
    dev = tiny_runs.write_rows(tmp_path / "dev.csv", 10, seed=5)
    with pytest.raises(RecipeError, match=f"SP-E751 .*{found}"):
        plan(tmp_path, setting.replace("dev.csv", str(dev)))


def test_several_samples_yield_a_mean_a_spread_and_the_runs(tmp_path: Path) -> None:
    recipe = tiny_runs.recipe(tmp_path, "data.few_shot=3", "train.steps=2")
    made = repeat(recipe, tmp_path / "runs", seeds=SEEDS[:2], backbone=tiny_runs.open_model(tmp_path))
    values = [entry.report["scores"][0]["value"] for entry in made.entries if entry.report]
    assert [entry.name for entry in made.entries] == ["seed-13", "seed-21"]
    assert made.score.value == pytest.approx(sum(values) / 2)
    assert made.score.seeds == 2
    assert made.spread == {
        "deviation": pytest.approx(abs(values[0] - values[1]) / 2**0.5),
        "lowest": min(values),
        "highest": max(values),
    }
    assert set(made.baselines) >= {"majority", "zero-shot"}


def test_several_samples_of_all_the_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="SP-E754"):
        repeat(tiny_runs.recipe(tmp_path), tmp_path / "runs")
