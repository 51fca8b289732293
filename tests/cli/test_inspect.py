"""Methods, recipes and data, looked at without training."""

import json

import pytest
import yaml

from softprompt.recipe import Recipe


def test_methods_lists_every_method_with_paper_and_options(sp):
    answer = sp("methods")
    assert answer.code == 0
    assert all(name in answer.out for name in ("prompt_tuning", "prefix", "p_tuning", "2104.08691", "bottleneck=0"))
    found = {one["id"]: one for one in sp("methods", "--json").json["methods"]}
    assert found["prefix"]["options"] == {"bottleneck": 0, "reach": "all", "layers": "", "dropout": 0.0}
    assert "supported" not in found["prefix"]


def test_methods_say_where_they_enter_and_on_which_kinds_of_models(sp):
    found = {one["id"]: (one["enters"], one["kinds"]) for one in sp("methods", "--json").json["methods"]}
    everywhere = ["causal", "encoder", "seq2seq", "vision"]
    assert found["prompt_tuning"] == (["embeds"], everywhere)
    assert found["prefix"] == (["prefix", "cross"], everywhere)
    assert found["dept"] == (["embeds", "offset"], everywhere[:3])
    assert found["vpt"] == (["deep"], ["vision"])
    assert "enters by embeds, offset; for models of kind causal, encoder, seq2seq" in sp("methods").out


def test_every_method_that_a_model_takes_is_counted_and_the_others_give_their_reason(sp):
    kinds = {one["id"]: one["kinds"] for one in sp("methods", "--json").json["methods"]}
    found = {one["id"]: one for one in sp("methods", "--model", "llama", "--json").json["methods"]}
    assert found.keys() == kinds.keys()
    assert [name for name, one in found.items() if one["supported"]] == [n for n in kinds if "causal" in kinds[n]]
    assert all(one["parameters"] > 0 if one["supported"] else "SP-E410" in one["reason"] for one in found.values())
    assert "does not work; SP-E410" in sp("methods", "--model", "llama").out


def test_with_a_model_methods_are_counted_for_it(sp):
    found = {one["id"]: one for one in sp("methods", "--model", "llama", "--length", "5", "--json").json["methods"]}
    assert found["prompt_tuning"]["supported"]
    assert found["prompt_tuning"]["parameters"] == 5 * 32
    assert found["prefix"]["parameters"] == 3 * 2 * 2 * 5 * 8


def test_a_method_that_a_family_cannot_take_is_said_to_fail_there(sp, workplace):
    import tiny_runs

    tiny_runs.save_model(workplace, "falcon")
    found = {one["id"]: one for one in sp("methods", "--model", "falcon", "--json").json["methods"]}
    assert found["prompt_tuning"]["supported"]
    assert not found["prefix"]["supported"]
    assert found["prefix"]["reason"]


def test_a_sound_recipe_passes_and_shows_its_defaults(sp, workplace):
    (workplace / "sound.yaml").write_text("backbone: {name: llama}\ndata: {train: train.csv}\n")
    assert sp("recipe", "check", "sound.yaml", "--json").json == {"recipe": "sound.yaml", "ok": True}
    shown = sp("recipe", "show", "sound.yaml")
    assert yaml.safe_load(shown.out)["train"]["batch_size"] == Recipe().train.batch_size
    assert sp("recipe", "show", "sound.yaml", "--json").json == yaml.safe_load(shown.out)


def test_a_recipe_with_an_option_that_its_method_lacks_is_not_sound(sp, workplace):
    (workplace / "odd.yaml").write_text("method: {name: prefix, options: {bottelneck: 4}}\n")
    answer = sp("recipe", "check", "odd.yaml")
    assert answer.code == 2
    assert answer.err.startswith("SP-E211")


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_the_schema_is_json_and_knows_every_section(sp, flags):
    answer = sp("recipe", "schema", *flags)
    assert answer.code == 0
    assert set(answer.json["properties"]) == set(Recipe.model_fields)


def test_sound_data_pass_and_say_what_they_are(sp):
    answer = sp("data", "check", "train.csv")
    assert answer.code == 0
    assert "train.csv: 0 errors" in answer.out
    assert "w5 20, w6 20" in answer.out
    assert "softprompt train train.csv" in answer.err


def test_wrong_data_are_a_negative_answer_with_every_problem(sp, workplace):
    (workplace / "bad.csv").write_text('text,label\nw10 w11,a\n,b\nw12,a\nw13,b\n"w14",\n')
    answer = sp("data", "check", "bad.csv")
    assert answer.code == 1
    assert "bad.csv:3:text" in answer.out
    assert "SP-E123" in answer.out
    assert "bad.csv: 2 errors" in answer.out
    found = sp("data", "check", "bad.csv", "--json")
    assert found.code == 1
    assert not found.json["ok"]
    assert [problem["where"] for problem in found.json["problems"]][:2] == ["bad.csv:3:text", "bad.csv:6:label"]


def test_a_long_list_of_problems_is_cut_and_says_so(sp, workplace):
    (workplace / "many.jsonl").write_text('{"text": "", "label": "a"}\n' * 60 + '{"text": "w1", "label": "b"}\n' * 4)
    answer = sp("data", "check", "many.jsonl")
    assert answer.code == 1
    assert "(--json lists all)" in answer.out
    assert len(json.loads(sp("data", "check", "many.jsonl", "--json").out)["problems"]) >= 60


def test_leaked_examples_are_found(sp):
    answer = sp("data", "check", "test.csv", "--train", "test.csv")
    assert answer.code == 1
    assert "SP-E131" in answer.out
    assert sp("data", "check", "test.csv", "--train", "train.csv").code == 0
