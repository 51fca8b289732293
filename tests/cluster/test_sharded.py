"""A frozen backbone whose layers lie in parts on two ranks, over gloo on the CPU."""

import json
import shutil
from pathlib import Path

import families
import pytest
import tiny_runs
import torch
from two_ranks import launched, steps, tensors

from softprompt.backbones import load_backbone
from softprompt.backbones.sharding import check_same, listed
from softprompt.errors import RecipeError, TrainingError
from softprompt.recipe import make_recipe
from softprompt.training import open_backbone, resume, train

pytest.importorskip("accelerate", reason="several ranks need accelerate: pip install 'softprompt[accelerate]'")

SHARDED = ("backbone.shard=layers", "train.steps=4", "train.evaluate_every=2")
RUNS = {
    "soft": ("train.accumulate=2", "train.batch_size=5"),  # shares of 3 and 2 rows
    "prefix": ("method.name=prefix", "train.accumulate=2", "train.batch_size=5", "train.checkpointing=true"),
    "lonely": ("train.batch_size=1", "train.accumulate=3"),  # the second rank has no row at all
    "upper": ("method.name=prefix", "method.options={layers: 1-2}", "train.batch_size=6", "train.steps=8"),
    "bert": ("train.batch_size=6", "task.head=classifier"),
}
every_run = pytest.mark.parametrize("name", RUNS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The runs on one process, and then, in one launch, on two ranks; one is resumed there that was killed here."""
    place = tmp_path_factory.mktemp("sharded")
    for name, settings in RUNS.items():
        recipe = tiny_runs.recipe(place, *SHARDED, *settings, model="bert" if name == "bert" else "llama")
        (place / f"{name}.yaml").write_text(recipe.to_yaml())
        train(recipe, place / "one" / name)
    killed(place / "one" / "soft", place / "half")
    tiny_runs.save_model(place, "t5")
    done = launched(str(Path(__file__).with_name("sharded_ranks.py")), str(place))
    assert done.returncode == 0, done.stderr[-3000:]
    return place


def killed(source, place):
    """A run as if it had been killed before its last step."""
    shutil.copytree(source, place)
    for name in ("prompt.safetensors", "report.json"):
        (place / name).unlink()
    sorted((place / "states").glob("*.sp"))[-1].unlink()


def facts(folder, rank):
    return json.loads((folder / f"rank-{rank}.json").read_text())


def agree(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-4, atol=1e-5)


@every_run
def test_ranks_that_share_a_backbone_end_where_one_process_does(folder, name):
    ours, theirs = steps(folder / "two" / name), steps(folder / "one" / name)
    assert len(ours) == len(theirs) > 3
    for two, one in zip(ours, theirs, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two["norm"] == pytest.approx(one["norm"], rel=1e-4)
    agree(tensors(folder / "two" / name), tensors(folder / "one" / name))


@every_run
def test_every_rank_holds_half_of_the_layers_and_of_the_words(folder, name):
    first, second = (facts(folder, rank)["held"][name] for rank in (0, 1))
    assert first["whole"] == second["whole"]
    model = tiny_runs.open_model(folder, "bert" if name == "bert" else "llama").model
    weights = dict(model.named_parameters())
    assert first["all"] == sum(weight.numel() for weight in weights.values())
    small = sum(weights[name].numel() for name in first["whole"])
    assert first["here"] + second["here"] == first["all"] + small
    assert abs(first["here"] - second["here"]) < 0.02 * first["all"]
    assert first["stored"] < 0.52 * first["all"]  # nothing whole hides behind a part
    if name != "bert":  # whose table of words speaks too
        assert first["here"] < 0.51 * first["all"]


def test_batches_run_as_one_row_over_parts_too(folder):
    for name in ("soft", "prefix"):
        notes = facts(folder, 0)["notes"][name]
        assert not any("padded" in note for note in notes)
        assert any("each of 2 ranks holds at most" in note for note in notes)
    notes = facts(folder, 0)["notes"]["upper"]
    assert any("states below layer 1" in note and "kept in memory" in note for note in notes)


def test_a_run_is_resumed_on_another_number_of_ranks(folder):
    agree(tensors(folder / "half"), tensors(folder / "one" / "soft"))
    killed(folder / "two" / "soft", folder / "back")
    resume(folder / "back")
    agree(tensors(folder / "back"), tensors(folder / "one" / "soft"))


def test_a_prompt_of_a_shared_backbone_is_bound_to_the_whole_one(folder):
    whole = load_backbone(folder / "llama")
    state = json.loads((folder / "two" / "soft" / "run.json").read_text())
    assert state["backbone"] == whole.fingerprint


def test_ranks_that_cannot_share_a_model_fail_alike_and_do_not_wait_for_each_other(folder):
    assert [facts(folder, rank)["refused"] for rank in (0, 1)] == ["SP-E840", "SP-E840"]


@pytest.mark.parametrize("family", ["t5", "albert", "vit"])
def test_a_model_whose_layers_do_not_stand_in_one_list_is_refused(family):
    with pytest.raises(RecipeError, match="SP-E840"):
        listed(families.backbone(family))


@pytest.mark.parametrize("family", ["gemma2", "gptj", "gpt2", "deberta-v2"])
def test_layers_are_told_apart_where_attention_is_out_of_reach_too(family):
    assert len(listed(families.backbone(family))) == families.L


def test_parts_that_answer_otherwise_than_the_whole_are_refused():
    right = (torch.randn(1, 6, 8), torch.randn(1, 6, 8))
    check_same((right[0] + 1e-7, right[1]), right)
    with pytest.raises(TrainingError, match="SP-E841"):
        check_same((right[0], right[1] * 1.01), right)
    with pytest.raises(TrainingError, match="SP-E841"):
        check_same((right[0] * torch.nan, right[1]), right)


@pytest.mark.parametrize("setting", ["lora.rank=2", "train.compare=[head]", "train.cache=file"])
def test_settings_that_need_the_whole_backbone_are_refused(tmp_path, setting):
    with pytest.raises(RecipeError, match="SP-E839"):
        open_backbone(tiny_runs.recipe(tmp_path, "backbone.shard=layers", setting))


def test_a_recipe_without_parts_is_stored_as_before_there_were_any():
    whole, parts = make_recipe({}), make_recipe({"backbone": {"shard": "layers"}})
    assert "shard" not in whole.model_dump(mode="json")["backbone"]  # a sweep compares this with what it began with
    assert parts.model_dump(mode="json")["backbone"]["shard"] == "layers"
    assert all(make_recipe(recipe.model_dump(mode="json")) == recipe for recipe in (whole, parts))


def test_rounded_weights_are_not_shared(tmp_path):
    with pytest.raises(RecipeError, match="SP-E840"):
        load_backbone(tiny_runs.save_model(tmp_path), quantize="int8", shard="layers")
