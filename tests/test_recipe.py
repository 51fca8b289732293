"""Recipes: every mistake is named, nothing is ignored, and a recipe written down is the same recipe."""

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from softprompt.errors import RecipeError
from softprompt.plain import LIMIT, read_yaml
from softprompt.recipe import Recipe, bare_name, known_keys, load_recipe, make_recipe, override


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def code(values: dict[Any, Any]) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        make_recipe(values, where="recipe.yaml")
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("values", "meant"),
    [
        ({"trian": {}}, "train"),
        ({"optim": {"lrr": 1}}, "optim.lr"),
        ({"lr": 1}, "optim.lr"),
        ({"batch_size": 1}, "train.batch_size"),
        ({"method": {"lenght": 3}}, "method.length"),
        ({"train": {"length": 3}}, "method.length"),
        ({"task": {"templates": ""}}, "task.template"),
    ],
)
def test_an_unknown_key_is_refused_with_the_one_that_was_meant(values: dict[str, Any], meant: str) -> None:
    error = code(values)
    assert error.code == "SP-E203"
    assert f"did you mean '{meant}'?" in error.found


def test_an_unknown_key_like_no_other_gets_no_hint() -> None:
    assert "did you mean" not in code({"zzzzz": 1}).found


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("train", "epochs", "many"),
        ("train", "epochs", 0),
        ("train", "epochs", 1.5),
        ("train", "epochs", True),
        ("train", "epochs", None),
        ("train", "patience", False),
        ("train", "checkpointing", "perhaps"),
        ("train", "save_seconds", float("inf")),
        ("train", "track", ["wandb"]),
        ("optim", "lr", float("nan")),
        ("optim", "lr", float("inf")),
        ("optim", "lr", -0.1),
        ("optim", "lr", 0),
        ("optim", "lr", True),
        ("optim", "lr", "fast"),
        ("optim", "head_lr", float("nan")),
        ("optim", "weight_decay", float("inf")),
        ("optim", "warmup", 1),
        ("optim", "clip", 0),
        ("optim", "name", "sgd"),
        ("data", "split", [0.8, 0.2]),
        ("data", "split", [0, 0.5, 0.5]),
        ("data", "split", [0, 0, 0]),
        ("data", "split", [1.2, -0.1, -0.1]),
        ("data", "split", [8, 1, 1]),
        ("data", "split", [0.8, float("nan"), 0.1]),
        ("data", "shots", 0),
        ("data", "label", 7),
        ("data", "text", "text"),
        ("task", "labels", [True, False]),
        ("task", "words", {"good": True}),
        ("task", "words", {True: "good"}),
        ("task", "kind", "translation"),
        ("task", "max_tokens", 7),
        ("method", "length", 0),
        ("method", "length", 10_001),
        ("method", "options", ["bottleneck"]),
        ("backbone", "dtype", "int8"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_its_key(section: str, key: str, value: Any) -> None:
    error = code({section: {key: value}})
    assert error.code == "SP-E204"
    assert error.found.startswith(f"{section}.{key} = ")
    assert f"{section}.{key}" in error.do


@pytest.mark.parametrize("values", [{"data": None}, {"data": "train.csv"}, {"data": [1]}, {1: 2}, {None: {}}])
def test_a_section_of_the_wrong_type_is_refused(values: dict[Any, Any]) -> None:
    assert code(values).code in ("SP-E203", "SP-E204")


def test_numbers_written_without_a_point_are_numbers(tmp_path: Path) -> None:
    """YAML 1.1 reads 1e-3 as text."""
    made = load_recipe(written(tmp_path, "optim: {lr: 1e-3, head_lr: 5e-4}\ntrain: {save_seconds: 2}"))
    assert (made.optim.lr, made.optim.head_lr, made.train.save_seconds) == (0.001, 0.0005, 2.0)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("data: [unclosed", "line 1"),
        ("data: {train: a}\ndata: {train: b}", "key 'data' 2 times"),
        ("data:\n  train: a\n  train: b", "key 'train' 2 times in one section (from line 2)"),
        ("a: &x [1]\nb: *x", "anchor"),
        ("a: &x {k: 1}\nb:\n  <<: *x", "anchor"),
        ("a: 2024-13-45", "month"),
        ("a: \x07", "not allowed"),
        ("- data", "list"),
        ("", "NoneType"),
        ("just text", "str"),
        ("a: " + "9" * 5000, "digits"),
        ("[" * 3000 + "]" * 3000, "recursion"),
        ("# " + "x" * LIMIT, "more than"),
        ("a: !!python/object/apply:os.system ['true']", "python/object"),
    ],
)
def test_yaml_that_is_no_recipe_is_refused_in_one_line(tmp_path: Path, text: str, found: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(RecipeError, match="SP-E202") as caught:
        load_recipe(path)
    assert found in caught.value.found
    assert caught.value.where == str(path)
    assert len(str(caught.value)) < 600


def test_a_yaml_bomb_takes_no_time(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    began = time.monotonic()
    with pytest.raises(RecipeError, match="SP-E202"):
        load_recipe(written(tmp_path, "\n".join(lines)))
    assert time.monotonic() - began < 2


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"data: {train: \xe9}")
    for path in (tmp_path / "absent.yaml", tmp_path, tmp_path / "latin.yaml", Path("/dev/zero"), "a\0b"):
        with pytest.raises(RecipeError, match="SP-E201"):
            load_recipe(path)


# Settings of the command line


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("optim.lr=0.1", {"optim": {"lr": 0.1}}),
        ("optim.lr=auto", {"optim": {"lr": "auto"}}),
        ("data.dev=null", {"data": {"dev": None}}),
        ("data.label=7", {"data": {"label": "7"}}),
        ("data.text=[a, b]", {"data": {"text": ["a", "b"]}}),
        ("task.template={soft:20}{text}", {"task": {"template": "{soft:20}{text}"}}),
        ("task.template={text}: a=b", {"task": {"template": "{text}: a=b"}}),
        ("task.words.good=yes", {"task": {"words": {"good": "yes"}}}),
        ("task.words={good: great}", {"task": {"words": {"good": "great"}}}),
        ("method.options.bottleneck=8", {"method": {"options": {"bottleneck": 8}}}),
        ("init.text=[MASK] & more", {"init": {"text": "[MASK] & more"}}),
    ],
)
def test_settings_are_taken_as_they_are_meant(setting: str, values: dict[str, Any]) -> None:
    assert override({}, [setting]) == values
    make_recipe(override({}, [setting]))


def test_later_settings_win_and_nothing_else_changes() -> None:
    values = {"method": {"name": "prefix", "options": {"bottleneck": 8}}, "optim": {"lr": 0.1}}
    made = override(values, ["method.options.bottleneck=16", "optim.lr=0.2", "optim.lr=0.3"])
    assert made == {"method": {"name": "prefix", "options": {"bottleneck": 16}}, "optim": {"lr": 0.3}}
    assert values == {"method": {"name": "prefix", "options": {"bottleneck": 8}}, "optim": {"lr": 0.1}}


@pytest.mark.parametrize(
    "setting",
    ["lr=1", "optim.lr", "=1", ".=1", "optim..lr=1", "optim.lr=[", "optim.lr=*x", "optim.clip={a: 1, a: 2}", ""],
)
def test_settings_of_another_form_are_refused(setting: str) -> None:
    with pytest.raises(RecipeError, match="SP-E205"):
        override({}, [setting])


def test_a_setting_below_a_plain_value_is_refused() -> None:
    with pytest.raises(RecipeError, match="SP-E205"):
        override({"optim": {"lr": 0.1}}, ["optim.lr.x=1"])


@given(st.text())
def test_any_text_is_a_template_that_can_be_set(text: str) -> None:
    if text != "null":
        assert override({}, [f"task.template={text}"]) == {"task": {"template": text}}


# Round trips

words = st.text(st.characters(codec="utf-8"), max_size=12)
recipes = st.builds(
    dict,
    backbone=st.fixed_dictionaries({"name": words}),
    data=st.fixed_dictionaries({"train": words, "dev": st.none() | words, "text": st.lists(words, max_size=3)}),
    task=st.fixed_dictionaries(
        {"template": words, "labels": st.lists(words, max_size=3), "words": st.dictionaries(words, words, max_size=3)}
    ),
    init=st.fixed_dictionaries({"text": st.none() | words}),
    optim=st.fixed_dictionaries({"lr": st.just("auto") | st.floats(1e-300, 1e300), "clip": st.none() | st.just(0.1)}),
    method=st.fixed_dictionaries(
        {"options": st.dictionaries(words, st.integers() | words | st.booleans(), max_size=3)}
    ),
)


@given(values=recipes, full=st.booleans())
def test_a_recipe_written_as_yaml_is_the_same_recipe(values: dict[str, Any], full: bool) -> None:
    recipe = make_recipe(values)
    again = make_recipe(read_yaml(recipe.to_yaml(full=full)))
    assert again == recipe
    assert again.to_yaml(full=full) == recipe.to_yaml(full=full)


def test_the_short_form_holds_only_what_differs() -> None:
    assert yaml.safe_load(make_recipe({"optim": {"lr": 0.1}}).to_yaml()) == {"optim": {"lr": 0.1}}
    assert Recipe().to_yaml().strip() == "{}"
    assert set(yaml.safe_load(Recipe().to_yaml(full=True))) == set(Recipe.model_fields)


def test_every_key_of_the_schema_is_known() -> None:
    full = yaml.safe_load(Recipe().to_yaml(full=True))
    assert sorted(known_keys()) == sorted(f"{section}.{key}" for section, keys in full.items() for key in keys)


# What may be shared


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("org/model-v0.1", "org/model-v0.1"),
        ("gpt2", "gpt2"),
        ("hub:org/data", "hub:org/data"),
        ("/home/someone/models/mine", "mine"),
        ("/home/someone/gone/", "gone"),
        ("~/models/mine", "mine"),
        ("../models/mine", "mine"),
        ("a/b/c.csv", "c.csv"),
    ],
)
def test_a_shared_name_is_no_path(name: str, shown: str) -> None:
    assert bare_name(name) == shown


def test_a_shared_recipe_has_no_path_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "train.csv").touch()
    recipe = make_recipe(
        {
            "backbone": {"name": str(tmp_path / "model")},
            "data": {"train": str(tmp_path / "train.csv"), "test": "/home/someone/gone/test.csv"},
            "init": {"source": str(tmp_path / "prompt.safetensors"), "kind": "prompt"},
        }
    )
    shared = recipe.shared()
    assert str(tmp_path) not in str(shared)
    assert "someone" not in str(shared)
    assert shared["data"] == {"train": "train.csv", "test": "test.csv"}
    assert make_recipe(shared).init.source == "prompt.safetensors"
