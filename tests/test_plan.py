"""From a recipe with gaps to one without: what is chosen for which backbone and task, and what is refused."""

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import families
import pytest
import speakers
import torch
from hypothesis import given
from hypothesis import strategies as st
from speakers import speaker
from tokenizers_tiny import words

from softprompt.backbones import Backbone, wrap
from softprompt.choices import RATES, choose_rate, default_template, speaks, spoken
from softprompt.core import Example
from softprompt.errors import DataError, RecipeError, SoftpromptError
from softprompt.heads import Regressor, Verbalizer
from softprompt.methods import find, names
from softprompt.plan import Plan, make_plan
from softprompt.recipe import Recipe, make_recipe
from softprompt.template import Template
from softprompt.untrained import build

GOOD, BAD = ("warm", "funny", "joy", "film", "played"), ("dull", "hard", "left", "lost", "endless")


def rows(count: int, start: int = 0) -> list[tuple[str, str]]:
    """Different texts in two classes."""
    return [
        (f"{(GOOD, BAD)[i % 2][i % 5]} {(GOOD, BAD)[i % 2][i // 5 % 5]} number {i + start}", ("good", "bad")[i % 2])
        for i in range(count)
    ]


def table(path: Path, data: list[tuple[Any, ...]], header: tuple[str, ...] = ("text", "label")) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *data])
    return str(path)


def lines(path: Path, data: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in data), encoding="utf-8")
    return str(path)


def source(kind: str, folder: Path) -> str:
    if kind == "tagging":
        words = [{"words": text.split(), "tags": ["O", "B-X", "O", "O"]} for text, _ in rows(40)]
        return lines(folder / "tags.jsonl", words)
    labels: dict[str, Any] = {
        "classification": lambda i: ("good", "bad")[i % 2],
        "regression": lambda i: i * 0.37,
        "generation": lambda i: f"the answer to number {i} is yes",
    }
    return table(folder / f"{kind}.csv", [(text, labels[kind](i)) for i, (text, _) in enumerate(rows(40))])


def planned(train: str, backbone: Backbone, **sections: Any) -> Plan:
    sections.setdefault("method", {"length": 4})
    return make_plan(make_recipe({"data": {"train": train, **sections.pop("data", {})}, **sections}), backbone)


# What is chosen


@pytest.mark.parametrize(
    ("name", "method", "kind", "head", "template"),
    [
        ("llama", "prompt_tuning", "classification", "verbalizer", "{soft}{text}\nanswer: {mask}"),
        ("gpt2", "p_tuning", "classification", "verbalizer", "{soft}{text}\nanswer: {mask}"),
        ("bert", "prompt_tuning", "classification", "verbalizer", "{soft}{text} It is {mask}."),
        ("silent", "prompt_tuning", "classification", "classifier", "{soft}{text}"),
        ("t5", "prompt_tuning", "classification", "verbalizer", "{soft}{text}\nanswer: {mask}"),
        ("t5", "prefix", "classification", "verbalizer", "{text}\nanswer: {mask}"),
        ("llama", "prefix", "classification", "classifier", "{text}"),
        ("bert", "prefix", "classification", "classifier", "{text}"),
        ("llama", "prompt_tuning", "generation", "lm", "{soft}{text}\nanswer: {mask}"),
        ("t5", "prompt_tuning", "generation", "lm", "{soft}{text}\nanswer: {mask}"),
        ("llama", "prompt_tuning", "regression", "regressor", "{soft}{text}"),
        ("bert", "prefix", "regression", "regressor", "{text}"),
        ("llama", "prompt_tuning", "tagging", "tagger", "{soft}{words}"),
        ("silent", "prefix", "tagging", "tagger", "{words}"),
        ("t5", "prompt_tuning", "tagging", "tagger", "{soft}{words}"),
    ],
)
def test_auto_is_decided_by_task_method_and_backbone(
    tmp_path: Path, name: str, method: str, kind: str, head: str, template: str
) -> None:
    plan = planned(source(kind, tmp_path), speaker(name), method={"name": method, "length": 4})
    task = plan.recipe.task
    assert (task.kind, task.head, task.template) == (kind, head, template)
    assert task.pool == {"llama": "last", "gpt2": "last"}.get(name, "mean")
    assert task.metric == {"classification": "accuracy", "generation": "bleu", "regression": "pearson"}.get(
        kind, "span_f1"
    )
    assert plan.recipe.init.kind == ("text" if method == "prefix" else "vocabulary")
    assert (task.words != {}) == (head == "verbalizer")
    auto = {"auto", None, ()}
    assert not auto & {task.kind, task.head, task.template, task.metric, task.pool, plan.recipe.optim.lr}
    prompt = build(plan, speaker(name))
    loss = prompt.loss(prompt.batch([prompt.row(example) for example in plan.train[:3]]))
    assert loss.isfinite()


def test_images_get_a_classifier_over_cls(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for i in range(20):
        folder = tmp_path / ("red" if i % 2 else "blue")
        folder.mkdir(exist_ok=True)
        image.new("RGB", (16, 16), (250 * (i % 2), i, 250 * ((i + 1) % 2))).save(folder / f"{i}.png")
    plan = planned(str(tmp_path), speaker("vit"), data={"format": "images"})
    assert (plan.recipe.task.head, plan.recipe.task.pool) == ("classifier", "cls")
    assert plan.recipe.task.template == "{soft}"
    assert plan.labels == ("blue", "red")
    assert build(plan, speaker("vit")).predict(plan.test)


def test_many_or_long_classes_get_a_trained_classifier(tmp_path: Path) -> None:
    many = [(f"{text} {i}", f"c{i % 25}") for i, (text, _) in enumerate(rows(250))]
    assert planned(table(tmp_path / "many.csv", many), speaker("llama")).recipe.task.head == "classifier"
    long = [(text, f"a very long and endless name {label}") for text, label in rows(40)]
    assert planned(table(tmp_path / "long.csv", long), speaker("llama")).recipe.task.head == "classifier"


def test_words_that_were_given_are_read(tmp_path: Path) -> None:
    train = table(tmp_path / "a.csv", rows(40))
    task = {"words": {"good": "great"}}
    plan = planned(train, speaker("llama"), task=task, method={"name": "prefix", "length": 4})
    assert plan.recipe.task.head == "verbalizer"
    assert plan.recipe.task.words == {"bad": "bad", "good": "great"}


def test_several_columns_are_named_in_the_question() -> None:
    made = default_template(find("prompt_tuning"), speaker("llama"), "verbalizer", ["premise", "hypothesis"])
    assert made == "{soft}premise: {premise} hypothesis: {hypothesis}\nanswer: {mask}"


def test_a_class_name_is_read_as_words() -> None:
    assert [spoken(name) for name in ("card_lost", "not-sure", "good", "_")] == ["card lost", "not sure", "good", "_"]


def test_a_checkpoint_speaks_when_it_has_a_head_for_words() -> None:
    assert [speaks(speaker(name)) for name in ("llama", "bert", "t5", "silent", "vit")] == [
        True,
        True,
        True,
        False,
        False,
    ]


@given(
    steps=st.integers(1, 10**6),
    schedule=st.sampled_from(["constant", "linear", "cosine"]),
    method=st.sampled_from(names()),
)
def test_the_rate_lets_the_prompt_travel_far_enough_within_its_bounds(steps: int, schedule: str, method: str) -> None:
    recipe = make_recipe({"train": {"steps": steps}, "optim": {"schedule": schedule}, "method": {"name": method}})
    wanted = find(method).travel
    rate = choose_rate(recipe, 100)
    low, high = RATES
    assert low <= rate <= high
    travel = rate * steps * (1.0 if schedule == "constant" else 0.5)
    if low < rate < high:
        assert travel == pytest.approx(wanted, rel=0.02)
    assert rate == high or travel >= wanted * 0.98


def test_a_rate_that_was_given_is_kept_and_steps_come_from_epochs() -> None:
    assert choose_rate(make_recipe({"optim": {"lr": 7.0}}), 100) == 7.0
    by_epochs = make_recipe({"train": {"epochs": 20, "batch_size": 5, "accumulate": 2}})
    assert choose_rate(by_epochs, 101) == choose_rate(make_recipe({"train": {"steps": 220}}), 1)


def test_a_resolved_recipe_resolves_to_itself(tmp_path: Path) -> None:
    for name, kind in (("llama", "classification"), ("bert", "tagging"), ("t5", "generation")):
        plan = planned(source(kind, tmp_path), speaker(name))
        again = make_plan(make_recipe(plan.recipe.model_dump(mode="json")), speaker(name))
        assert replace(again, notes=plan.notes) == plan


# Data


def test_parts_are_disjoint_of_the_right_size_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    train = table(tmp_path / "a.csv", rows(100))
    plan = planned(train, speaker("llama"))
    parts = [{str(e.fields) for e in part} for part in (plan.train, plan.dev, plan.test)]
    assert [len(part) for part in parts] == [80, 10, 10]
    assert len(set.union(*parts)) == 100
    for part in (plan.train, plan.dev, plan.test):
        assert len(set(Counter(e.label for e in part).values())) == 1  # stratified
    assert planned(train, speaker("llama")) == plan
    assert planned(train, speaker("llama"), data={"seed": 1}).train != plan.train


def test_rows_that_differ_only_in_case_stay_on_one_side(tmp_path: Path) -> None:
    """Else a split of our own making would be refused as a leak."""
    twice = [(form(text), label) for text, label in rows(40) for form in (str, str.upper)]
    plan = planned(table(tmp_path / "a.csv", twice), speaker("llama"))
    assert len(plan.train) + len(plan.dev) + len(plan.test) == 80


def test_files_of_their_own_are_used_whole(tmp_path: Path) -> None:
    train, test = table(tmp_path / "a.csv", rows(40)), table(tmp_path / "b.csv", rows(10, start=100))
    plan = planned(train, speaker("llama"), data={"test": test, "split": [0.75, 0.25, 0.0]})
    assert (len(plan.train), len(plan.dev), len(plan.test)) == (30, 10, 10)
    dev = table(tmp_path / "c.csv", rows(6, start=200))
    plan = planned(train, speaker("llama"), data={"test": test, "dev": dev})
    assert (len(plan.train), len(plan.dev), len(plan.test)) == (40, 6, 10)
    assert set(plan.sha256) == {"train", "dev", "test"}


@pytest.mark.parametrize("part", ["dev", "test"])
def test_examples_of_train_in_another_part_are_refused(tmp_path: Path, part: str) -> None:
    train, other = table(tmp_path / "a.csv", rows(40)), table(tmp_path / "b.csv", [*rows(2), *rows(6, start=100)])
    with pytest.raises(DataError, match=rf"SP-E131.*[12] {part} examples that are in train"):
        planned(train, speaker("llama"), data={part: other})
    plan = planned(train, speaker("llama"), data={part: other, "allow_leakage": True})
    assert any(f"{part} examples that are in train" in note for note in plan.notes)


def test_a_test_set_that_was_chosen_on_is_refused(tmp_path: Path) -> None:
    train, dev = table(tmp_path / "a.csv", rows(40)), table(tmp_path / "b.csv", rows(8, start=100))
    with pytest.raises(DataError, match=r"SP-E131.*8 test examples that are in dev"):
        planned(train, speaker("llama"), data={"dev": dev, "test": dev})


def test_shots_are_per_class_and_dev_is_no_larger(tmp_path: Path) -> None:
    train = table(tmp_path / "a.csv", rows(100))
    plan = planned(train, speaker("llama"), data={"shots": 3})
    assert Counter(e.label for e in plan.train) == {"good": 3, "bad": 3}
    assert Counter(e.label for e in plan.dev) == {"good": 3, "bad": 3}
    assert len(plan.test) == 10
    plan = planned(train, speaker("llama"), data={"shots": 20})
    assert Counter(e.label for e in plan.train) == {"good": 20, "bad": 20}
    assert Counter(e.label for e in plan.dev) == {"good": 5, "bad": 5}  # all there are


def begun(train: str, sections: dict[str, Any]) -> None:
    """All that happens before the first step."""
    plan = planned(train, speaker("gpt2"), **sections)
    build(plan, speaker("gpt2")).row(plan.train[0])


@pytest.mark.parametrize(
    ("sections", "code"),
    [
        ({"task": {"head": "lm"}}, "SP-E208"),
        ({"task": {"head": "tagger"}}, "SP-E208"),
        ({"task": {"metric": "bleu"}}, "SP-E214"),
        ({"task": {"metric": "accurracy"}}, "SP-E605"),
        ({"task": {"words": {"goood": "great"}}}, "SP-E215"),
        ({"task": {"words": {"good": "great"}, "head": "classifier"}}, "SP-E215"),
        ({"task": {"words": {"good": "bad"}}}, "SP-E209"),
        ({"task": {"words": {"good": ""}}}, "SP-E209"),
        ({"task": {"template": "{text}"}}, "SP-E220"),
        ({"task": {"template": "{soft:3}{text}"}}, "SP-E220"),
        ({"task": {"template": "{soft}{txt}"}}, "SP-E112"),
        ({"task": {"max_tokens": 8}}, "SP-E222"),
        ({"method": {"name": "promt_tuning"}}, "SP-E210"),
        ({"method": {"name": "prefix", "length": 4}, "task": {"template": "{soft}{text}"}}, "SP-E220"),
        ({"method": {"length": 60}}, "SP-E222"),
        ({"method": {"length": 4, "options": {"bottleneck": 8}}}, "SP-E211"),
        ({"method": {"name": "prefix", "length": 4, "options": {"bottlneck": 8}}}, "SP-E211"),
        ({"method": {"name": "prefix", "length": 4, "options": {"bottleneck": "8"}}}, "SP-E211"),
        ({"method": {"name": "prefix", "length": 4, "options": {"bottleneck": -8}}}, "SP-E212"),
        ({"method": {"name": "prefix", "length": 4, "options": {"layers": "2-9"}}}, "SP-E212"),
        ({"method": {"name": "prefix", "length": 4, "options": {"dropout": 2.0}}}, "SP-E212"),
        ({"init": {"kind": "prompt"}}, "SP-E207"),
        ({"init": {"kind": "random", "text": "a joy"}}, "SP-E207"),
        ({"init": {"kind": "text", "source": "x.safetensors"}}, "SP-E207"),
        ({"init": {"source": "absent.safetensors"}}, "SP-E308"),
        ({"data": {"dev": "absent.csv"}}, "SP-E101"),
        ({"data": {"split": [0.9, 0.0, 0.1]}}, "SP-E132"),
        ({"data": {"split": [0.9, 0.1, 0.0]}}, "SP-E132"),
        ({"data": {"shots": 90}}, "SP-E132"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_training(
    tmp_path: Path, sections: dict[str, Any], code: str
) -> None:
    train = table(tmp_path / "a.csv", rows(60))
    with pytest.raises(SoftpromptError) as caught:
        begun(train, sections)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


def test_no_data_is_refused() -> None:
    with pytest.raises(RecipeError, match="SP-E206"):
        make_plan(Recipe(), speaker("llama"))


def test_a_verbalizer_on_a_model_without_words_is_refused(tmp_path: Path) -> None:
    plan = planned(table(tmp_path / "a.csv", rows(40)), speaker("silent"), task={"head": "verbalizer"})
    with pytest.raises(RecipeError, match=r"SP-E208.*predicts no words"):
        build(plan, speaker("silent"))


@pytest.mark.parametrize("name", ["mask", "soft", "a:b", "a{b"])
def test_a_column_that_no_template_can_name_is_refused(tmp_path: Path, name: str) -> None:
    train = table(tmp_path / "a.csv", rows(40), header=(name, "label"))
    with pytest.raises(RecipeError, match="SP-E220") as caught:
        planned(train, speaker("llama"), data={"text": [name], "label": "label"})
    assert "rename the column" in caught.value.do


# What is built


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix", "p_tuning"])
def test_the_same_plan_builds_the_same_bits(tmp_path: Path, method: str) -> None:
    plan = planned(table(tmp_path / "a.csv", rows(40)), speaker("bert"), method={"name": method, "length": 4})
    one = build(plan, speaker("bert")).state_dict()
    torch.manual_seed(99)
    two = build(plan, speaker("bert")).state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_regressor_knows_the_scale_of_its_targets(tmp_path: Path) -> None:
    prompt = build(planned(source("regression", tmp_path), speaker("llama")), speaker("llama"))
    assert isinstance(prompt.head, Regressor)
    assert prompt.head.mean == pytest.approx(7.2, abs=1.0)
    recipe = make_recipe({"task": {"kind": "regression", "head": "regressor", "template": "{soft}{text}"}})
    for labels in ([3.0], [3.0, 3.0]):  # one target, or all the same: nothing to divide by
        examples = [Example({"text": "a joy"}, label) for label in labels]
        head = build(Plan(recipe, examples, [], [], (), {}), speaker("llama")).head
        assert isinstance(head, Regressor)
        assert (head.mean, head.scale) == (3.0, 1.0)


def test_the_length_of_a_prefix_counts_against_the_context(tmp_path: Path) -> None:
    plan = planned(table(tmp_path / "a.csv", rows(40)), speaker("gpt2"), method={"name": "prefix", "length": 10})
    prompt = build(plan, speaker("gpt2"))
    assert isinstance(prompt.template, Template)
    assert prompt.template.limit == 64 - 10
    long = Example({"text": "joy " * 100}, "good")
    assert prompt.predict([long])[0].answer in ("good", "bad")


def test_a_run_from_another_prompt_begins_with_its_vectors(tmp_path: Path) -> None:
    from softprompt.artifact import Artifact

    stored = speakers.prompt("llama")
    Artifact.of(stored, {}, {}).save(tmp_path / "first.safetensors")
    train = table(tmp_path / "a.csv", rows(40))
    plan = planned(train, speaker("llama"), init={"source": str(tmp_path / "first.safetensors")})
    assert plan.recipe.init.kind == "prompt"
    assert torch.equal(
        build(plan, speaker("llama")).method.state_dict()["prompt"], stored.method.state_dict()["prompt"]
    )


def test_words_of_classes_go_on_after_the_text(tmp_path: Path) -> None:
    prompt = build(planned(table(tmp_path / "a.csv", rows(40)), speaker("gpt2")), speaker("gpt2"))
    assert isinstance(prompt.head, Verbalizer)
    tokenizer = speakers.bytelevel()
    assert prompt.head.words == [tokenizer(" bad")["input_ids"], tokenizer(" good")["input_ids"]]


def test_families_without_keys_and_values_refuse_a_prefix() -> None:
    from softprompt.errors import Unsupported

    gptj = wrap(families.model("gptj"), words(), "gptj")
    recipe = make_recipe(
        {"method": {"name": "prefix", "length": 4}, "init": {"kind": "text", "text": "w7 w9 w11 w13"}}
        | {"task": {"kind": "classification", "head": "classifier", "template": "{text}"}}
    )
    with pytest.raises(Unsupported, match="SP-E410"):
        build(Plan(recipe, [], [], [], ("a", "b"), {}), gptj)
