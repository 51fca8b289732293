"""Sources are ranked by task similarity and by what they are worth before any training, and none may help."""

import json

import pytest
import tiny_runs
import torch
from torch import Tensor
from torch.nn import functional as F

from softprompt.artifact import Artifact
from softprompt.errors import SoftpromptError
from softprompt.evaluate import mean_loss
from softprompt.plan import make_plan
from softprompt.prompt import without_prompt
from softprompt.training import train
from softprompt.transfer.paired import losses
from softprompt.transfer.similarity import Similarity, averaged, embedding, per_token, plain, similarity
from softprompt.transfer.sources import named, trained_for
from softprompt.transfer.suggest import Rank, suggest
from softprompt.untrained import build


def double_loop(a: Tensor, b: Tensor) -> float:
    """The mean over all pairs as SPoT writes it (section 4.1)."""
    return sum(float(F.cosine_similarity(x, y, dim=0)) for x in a for y in b) / (len(a) * len(b))


@pytest.mark.parametrize("shape", [(1, 4), (5, 3), (20, 32)])
def test_the_mean_over_pairs_is_that_of_the_double_loop(shape) -> None:
    a, b = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64) + 0.3
    assert per_token(a, b) == pytest.approx(double_loop(a, b), abs=1e-12)
    assert averaged(a, b) == pytest.approx(float(F.cosine_similarity(a.mean(0), b.mean(0), dim=0)))


def test_the_mean_over_pairs_does_not_depend_on_the_order_of_vectors() -> None:
    a, b = torch.randn(6, 8, dtype=torch.float64), torch.randn(6, 8, dtype=torch.float64)
    assert per_token(a.flip(0), b) == pytest.approx(per_token(a, b))


def test_prompts_of_another_length_backbone_or_method_are_not_compared(bench, tmp_path) -> None:
    near = bench.sources("near")[0].artifact
    short = Artifact(near.tensors | {"method.prompt": near.tensors["method.prompt"][:2]}, near.card)
    card = near.card.model_copy(update={"backbone": near.card.backbone.model_copy(update={"fingerprint": "other"})})
    network = Artifact({"method.router.weight": torch.zeros(2, 2)}, near.card)
    for other in (short, Artifact(near.tensors, card), network):
        with pytest.raises(SoftpromptError, match="SP-E620"):
            similarity(near, other)


def test_keys_and_values_are_compared_in_the_scale_that_the_model_reads() -> None:
    card = None
    prefix, unit = torch.randn(3, 2, 2, 4, 8), torch.rand(3, 2, 1, 1, 1)
    scaled = Artifact({"method.stacks.encoder.prefix": prefix, "method.stacks.encoder.unit": unit}, card)
    folded = Artifact({"method.stacks.encoder.prefix": prefix * unit}, card)
    torch.testing.assert_close(embedding(scaled), embedding(folded), atol=1e-6, rtol=1e-6)
    assert embedding(scaled).shape == (4, 3 * 2 * 2 * 8)
    torch.testing.assert_close(embedding(folded)[1, :8], (prefix * unit)[0, 0, 0, 1].double())
    assert plain(folded).keys() == {"stacks.encoder.prefix"}


@pytest.mark.parametrize("settings", [(), ("task.kind=generation",)])
def test_the_losses_of_examples_are_those_that_training_sums(bench, settings) -> None:
    plan = make_plan(bench.recipe(*settings), bench.backbone)
    prompt = build(plan, bench.backbone)
    found = losses(prompt, plan.dev, 7)
    assert found[3] == pytest.approx(mean_loss(prompt, plan.dev[3:4], 1), rel=1e-5)
    assert sum(found) / len(found) == pytest.approx(mean_loss(prompt, plan.dev, 8), rel=1e-5)


def test_a_source_that_can_do_the_task_helps_and_comes_first(bench, tmp_path) -> None:
    made = suggest(bench.recipe(), bench.sources("far", "near"), tmp_path, steps=3, backbone=bench.backbone)
    assert [rank.source.name for rank in made.ranks] == ["near", "far"]
    assert made.best is made.ranks[0]
    assert "near helps" in made.sentence
    assert set(made.references) == {"untrained prompt", "bare model"}
    assert any("3 steps" in text and "near" in text for text in made.notes)
    assert json.loads(json.dumps(made.as_dict()))["best"] == "near"


def test_a_source_that_does_nothing_is_not_said_to_help(bench, tmp_path) -> None:
    made = suggest(bench.recipe(), bench.sources("far"), tmp_path, backbone=bench.backbone)
    assert made.steps == 1, "as many as the source had"
    assert made.best is None
    assert "nothing helps" in made.sentence
    assert made.ranks[0].similar.averaged > 0.9, "one step from the same start, on the same rows, is nearly that start"


def test_the_probe_keeps_its_last_state_and_looks_at_no_test_example(bench, tmp_path) -> None:
    suggest(bench.recipe(), bench.sources("far"), tmp_path, steps=3, backbone=bench.backbone)
    report = Artifact.load(tmp_path / "probe" / "prompt.safetensors").card.report
    assert [event["step"] for event in report["dev"]] == [3]
    assert "scores" not in report


def test_the_target_takes_method_length_and_seed_from_the_source(bench, tmp_path) -> None:
    open_recipe = bench.recipe().model_copy()
    values = open_recipe.model_dump(exclude_unset=True)
    del values["method"]
    recipe = type(open_recipe).model_validate(values)
    made = suggest(recipe, bench.sources("far"), tmp_path, backbone=bench.backbone)
    assert not made.refused
    assert Artifact.load(tmp_path / "probe" / "prompt.safetensors").card.method.length == 4


def test_sources_that_do_not_fit_are_left_out_with_the_reason_and_at_least_one_must(bench, tmp_path) -> None:
    recipe = bench.recipe("method.length=6", "train.steps=1")
    train(recipe, tmp_path / "long", backbone=bench.backbone)
    long = type(bench.sources("far")[0])("long", Artifact.load(tmp_path / "long" / "prompt.safetensors"))
    made = suggest(bench.recipe(), [*bench.sources("far"), long], tmp_path / "a", steps=1, backbone=bench.backbone)
    assert list(made.refused) == ["long"]
    assert "SP-E231" in made.refused["long"]
    for sources in ([long], []):
        with pytest.raises(SoftpromptError, match="SP-E621"):
            suggest(bench.recipe(), sources, tmp_path / "b", backbone=bench.backbone)


def test_a_trained_head_leaves_only_similarity(bench, tmp_path) -> None:
    recipe = bench.recipe("task.head=classifier")
    made = suggest(recipe, bench.sources("near", "far"), tmp_path, steps=1, backbone=bench.backbone)
    assert [rank.loss for rank in made.ranks] == [None, None]
    near = [rank.similar.per_token for rank in made.ranks]
    assert near == sorted(near, reverse=True)
    assert "nothing was measured" in made.sentence


def test_the_references_are_the_untrained_prompt_and_the_bare_model(bench, tmp_path) -> None:
    made = suggest(bench.recipe(), bench.sources("far"), tmp_path, steps=1, backbone=bench.backbone)
    plan = make_plan(bench.recipe(), bench.backbone)
    prompt = build(plan, bench.backbone)
    assert made.references["untrained prompt"] == pytest.approx(mean_loss(prompt, plan.dev, 8), rel=1e-5)
    assert made.references["bare model"] == pytest.approx(mean_loss(without_prompt(prompt), plan.dev, 8), rel=1e-5)


def test_early_states_are_those_of_the_sources_tasks_after_as_many_steps_from_the_same_start(bench, tmp_path) -> None:
    sources = bench.sources("near", "far")
    made = suggest(bench.recipe(), sources, tmp_path / "s", steps=3, early=True, backbone=bench.backbone)
    probe, near, far = (
        Artifact.load(tmp_path / "s" / name / "prompt.safetensors") for name in ("probe", "early/near", "early/far")
    )
    assert torch.equal(near.tensors["method.prompt"], far.tensors["method.prompt"]), "one task, one start, one length"
    assert near.card.recipe["init"] == probe.card.recipe["init"]
    assert [event["step"] for event in near.card.report["dev"]] == [3]
    assert all(rank.similar == similarity(probe, near) for rank in made.ranks)
    assert not any("similarity says less" in note for note in made.notes)
    alone = tmp_path / "elsewhere.safetensors"
    alone.write_bytes((bench.folder / "near" / "prompt.safetensors").read_bytes())
    made = suggest(bench.recipe(), named([alone]), tmp_path / "t", steps=3, early=True, backbone=bench.backbone)
    assert any("no early state of elsewhere" in note for note in made.notes)


def test_what_makes_a_source_look_better_is_said_or_refused(bench, tmp_path) -> None:
    (near,) = bench.sources("near")
    made = suggest(bench.recipe(), [near], tmp_path / "s", steps=1, backbone=bench.backbone)
    assert any("target's own data" in note and note.endswith("near") for note in made.notes)
    other = bench.recipe()
    files = [str(tiny_runs.write_rows(tmp_path / f"{seed}.csv", 40, seed=seed)) for seed in (30, 31, 32)]
    data = other.data.model_copy(update=dict(zip(("train", "dev", "test"), files, strict=True)))
    made = suggest(other.model_copy(update={"data": data}), [near], tmp_path / "o", steps=1, backbone=bench.backbone)
    assert not any("target's own data" in note for note in made.notes)
    twice = named([bench.folder / "near", bench.folder / "near"])
    with pytest.raises(SoftpromptError, match="SP-E852"):
        suggest(bench.recipe(), twice, tmp_path / "u", steps=1, backbone=bench.backbone)


def test_sources_are_ranked_by_loss_or_by_similarity(bench, tmp_path) -> None:
    (source,) = bench.sources("near")
    ranks = [Rank(source, Similarity(0.0, near), loss) for near, loss in ((0.1, 0.5), (0.9, 2.0), (0.5, None))]
    assert [rank.loss for rank in sorted(ranks, key=lambda rank: rank.order("loss"))] == [0.5, 2.0, None]
    assert [rank.loss for rank in sorted(ranks, key=lambda rank: rank.order("similarity"))] == [2.0, None, 0.5]
    for by in ("loss", "similarity"):
        given = {"steps": 2, "by": by, "backbone": bench.backbone}
        made = suggest(bench.recipe(), bench.sources("near", "far"), tmp_path / "s", **given)
        values = [rank.loss if by == "loss" else -rank.similar.per_token for rank in made.ranks]
        assert values == sorted(values)


def test_a_prompt_that_was_never_trained_does_not_shorten_the_probe(bench, tmp_path) -> None:
    assert trained_for({"dev": [{"step": 0, "loss": 1.0}]}) == 0
    assert trained_for({"multitask": {"steps": 7, "tasks": ["a", "b"]}}) == 7
    assert trained_for({"meta": {"rounds": 3, "tasks": 2, "steps": 5}}) == 30
    assert trained_for({"metric": "accuracy"}) is None
    (near,) = bench.sources("near")
    card = near.artifact.card.model_copy(update={"report": {"dev": [{"step": 0, "loss": 1.0}]}})
    Artifact(near.artifact.tensors, card).save(tmp_path / "moved.safetensors")
    sources = [*bench.sources("far"), *named([tmp_path / "moved.safetensors"])]
    made = suggest(bench.recipe(), sources, tmp_path / "s", backbone=bench.backbone)
    assert made.steps == 1, "as far, which was trained for one step"
