"""Equal budgets: every method gets the same trials, the same draws and the same words around its slots."""

from typing import Any

import pytest

from softprompt.errors import RecipeError
from softprompt.lab.protocol import Protocol, contender, entrant, folder_of
from softprompt.recipe import Recipe, make_recipe

METHODS = ("prompt_tuning", "prefix", "dept")


def task(**sections: dict[str, Any]) -> Recipe:
    return make_recipe({"data": {"train": "rows.csv"}} | sections)


def protocol(**changes: Any) -> Protocol:
    return Protocol(**{"tasks": {"a": task()}, "methods": METHODS} | changes)


def test_every_method_tries_the_same_settings_and_the_first_is_the_recipe() -> None:
    asked = protocol(trials=5, over=("lr=0.005..0.3,length=5|10|20", "epochs=1..8"))
    drawn = [asked.draws(i) for i in range(5)]
    assert drawn[0] == {}
    assert len({str(setting) for setting in drawn}) == 5
    for setting in drawn[1:]:
        assert 0.005 <= setting["optim.lr"] <= 0.3
        assert setting["method.length"] in (5, 10, 20)
        assert setting["train.epochs"] in range(1, 9)
    for method in METHODS:
        recipes = [entrant(task(), method, 3, setting, {}) for setting in drawn]
        assert [recipe.optim.lr for recipe in recipes] == ["auto", *(setting["optim.lr"] for setting in drawn[1:])]
        assert {recipe.method.name for recipe in recipes} == {method}
        assert {recipe.train.seed for recipe in recipes} == {3}


def test_draws_depend_on_the_seed_and_on_nothing_else() -> None:
    assert protocol().draws(1) == protocol(methods=("dept",), trials=9, sizes=(5,)).draws(1)
    assert protocol().draws(1) != protocol(seed=1).draws(1)


def test_a_range_is_drawn_evenly_on_the_scale_of_logarithms() -> None:
    low = sum(protocol(seed=i).draws(1)["optim.lr"] < (0.005 * 0.3) ** 0.5 for i in range(200))
    assert 80 <= low <= 120


def test_seeds_follow_the_first_one_and_questions_are_tasks_by_sizes() -> None:
    asked = protocol(tasks={"a": task(), "b": task()}, sizes=(10, None), seeds=3, seed=7)
    assert asked.runs == [7, 8, 9]
    assert [(q.task, q.amount) for q in asked.questions] == [("a", "10"), ("a", "all"), ("b", "10"), ("b", "all")]


def test_options_of_a_method_are_its_own_and_a_length_is_shared() -> None:
    recipe = task(method={"name": "prefix", "length": 7, "options": {"bottleneck": 8}})
    assert entrant(recipe, "prefix", 0, {}, {}).method.options == {"bottleneck": 8}
    other = entrant(recipe, "prompt_tuning", 0, {}, {}).method
    assert (other.options, other.length) == ({}, 7)


@pytest.mark.parametrize(
    ("template", "method", "wanted"),
    [
        ("{soft:20}{text} {mask}", "prefix", "{text} {mask}"),
        ("{text}{soft} {mask}", "prompt_tuning", "{text}{soft} {mask}"),
        ("{text} {mask}", "prompt_tuning", "{soft}{text} {mask}"),
        ("{text} {mask}", "prefix", "{text} {mask}"),
    ],
)
def test_a_template_keeps_its_words_and_has_slots_where_the_method_needs_them(
    template: str, method: str, wanted: str
) -> None:
    assert entrant(task(task={"template": template}), method, 0, {}, {}).task.template == wanted


@pytest.mark.parametrize(
    "changes",
    [
        {"methods": ()},
        {"methods": ("prefix", "prefix")},
        {"sizes": (10, 10)},
        {"sizes": (0,)},
        {"seeds": 0},
        {"trials": 0},
        {"selection": 0.0},
        {"selection": 1.0},
        {"over": ("data.seed=1,2",)},
        {"over": ("seed=1,2",)},
        {"over": ("method=prefix",)},
        {"over": ("lr=0.3..0.1",)},
        {"over": ("lr=0..0.1",)},
        {"methods": ("prefix+lr=0.1",)},
        {"methods": ("prefix+length=5|6",)},
        {"methods": ("prefix+seed=5",)},
        {"methods": ("prefix+data.seed=5",)},
        {"tasks": {"a": task(data={"train": "x", "shots": 3})}},
        {"tasks": {"a": task(train={"compare": ["full"]})}},
    ],
)
def test_what_cannot_be_compared_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="SP-E280"):
        protocol(**changes)


def test_what_a_method_fixes_holds_for_it_alone_and_over_the_recipe() -> None:
    text = "prefix+length=3+method.options.layers=0-1+optim.lr=1.5"
    assert contender(text) == ("prefix", {"method.length": 3, "method.options.layers": "0-1", "optim.lr": 1.5})
    recipe = task(method={"name": "prefix", "length": 7, "options": {"bottleneck": 8}}, init={"kind": "vocabulary"})
    made = entrant(recipe, text, 0, {"train.epochs": 2}, {})
    assert (made.method.name, made.method.length, made.train.epochs) == ("prefix", 3, 2)
    assert made.method.options == {"bottleneck": 8, "layers": "0-1"}
    assert entrant(recipe, "prompt_tuning+init.kind=random", 0, {}, {}).init.kind == "random"
    assert entrant(recipe, "prompt_tuning", 0, {}, {}).init.kind == "vocabulary"
    assert entrant(recipe, "prompt_tuning", 0, {}, {}).method.length == 7


def test_a_method_with_what_it_fixes_names_a_folder() -> None:
    assert folder_of("prompt_tuning+init.source=a b/c.safetensors") == "prompt_tuning+init.source=a-b-c.safetensors"
    assert protocol(methods=("prefix", "prefix+lr=0.1"), trials=1).methods == ("prefix", "prefix+lr=0.1")


def test_tasks_over_different_backbones_and_unknown_methods_are_refused() -> None:
    with pytest.raises(RecipeError, match="SP-E219"):
        protocol(tasks={"a": task(), "b": task(backbone={"name": "other"})})
    with pytest.raises(RecipeError, match="SP-E210"):
        protocol(methods=("prefx",))
