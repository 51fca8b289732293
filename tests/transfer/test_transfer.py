"""A prompt from a source is trained beside one without, and kept only where its lead is more than chance."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import tiny_runs
import torch

from softprompt.artifact import Artifact
from softprompt.errors import SoftpromptError
from softprompt.plan import Plan, make_plan
from softprompt.recipe import load_recipe
from softprompt.sweep.results import Entry
from softprompt.training import train
from softprompt.transfer.mixture import lines, pretrain
from softprompt.transfer.paired import Compared, marks
from softprompt.transfer.run import Transferred, average, transfer, weights
from softprompt.transfer.sources import Source, cautions, flat, named


@pytest.fixture(scope="module")
def made(bench, tmp_path_factory) -> Transferred:
    folder = tmp_path_factory.mktemp("run")
    return transfer(bench.recipe(), bench.sources("near", "far"), folder, backbone=bench.backbone)


def test_scratch_and_every_source_train_on_one_budget_in_one_pass(made) -> None:
    recipes = [load_recipe(entry.folder / "recipe.yaml") for entry in (made.scratch, *made.members)]
    assert [recipe.init.kind for recipe in recipes] == ["vocabulary", "prompt", "prompt"]
    assert len({recipe.model_dump_json(exclude={"init"}) for recipe in recipes}) == 1
    assert json.loads((made.folder / "runs" / "sweep.json").read_text())["members"].keys() == {
        "scratch",
        "from-near",
        "from-far",
    }


def test_the_card_of_a_member_names_its_source_and_the_run_keeps_a_copy(made, bench) -> None:
    near = next(entry for entry in made.members if entry.name == "from-near")
    assert Artifact.load(near.prompt).card.parents == ("near.safetensors",)
    copy = made.folder / "sources" / "near.safetensors"
    assert copy.read_bytes() == (bench.folder / "near" / "prompt.safetensors").read_bytes()
    assert Artifact.load(made.scratch.prompt).card.parents == ()


def test_sources_that_do_not_fit_are_named_with_the_reason(bench, tmp_path) -> None:
    train(bench.recipe("method.length=3", "train.steps=1"), tmp_path / "short", backbone=bench.backbone)
    sources = [*bench.sources("far"), *named([tmp_path / "short"])]
    made = transfer(bench.recipe("train.steps=1"), sources, tmp_path / "run", backbone=bench.backbone)
    assert made.refused.keys() == made.as_dict()["refused"].keys() == {"short"}
    assert "SP-E231" in made.refused["short"]
    assert any("target's own data" in note for note in made.as_dict()["notes"])
    assert json.loads((tmp_path / "run" / "transfer.json").read_text()) == made.as_dict()


def test_a_method_that_reads_several_prompts_stands_beside_plain_vectors(bench, tmp_path) -> None:
    recipe = bench.recipe("method.name=attempt", "method.options.bottleneck=4", "train.steps=2")
    made = transfer(recipe, bench.sources("near", "far"), tmp_path / "run", backbone=bench.backbone)
    assert [entry.name for entry in made.members] == ["from-all"]
    card, control = (Artifact.load(one.prompt).card for one in (made.chosen, made.scratch))
    assert (card.method.name, card.method.length) == ("attempt", 4)
    assert card.parents == ("near.safetensors", "far.safetensors")
    assert (control.method.name, control.method.length, control.parents) == ("prompt_tuning", 4, ())
    assert made.test.verdict in ("gain", "no gain", "harm")
    again = transfer(recipe, bench.sources("near", "far"), tmp_path / "run", backbone=bench.backbone)
    assert again.as_dict() == made.as_dict()
    (mixed,) = named([tmp_path / "run" / "runs" / "from-all"])
    with pytest.raises(SoftpromptError, match=r"SP-E621.*SP-E231"):
        transfer(bench.recipe(), [mixed], tmp_path / "next", backbone=bench.backbone)


def test_a_source_is_called_by_the_folder_that_says_what_it_is(bench, tmp_path) -> None:
    (tmp_path / "mixture" / "run").mkdir(parents=True)
    data = (bench.folder / "near" / "prompt.safetensors").read_bytes()
    (tmp_path / "mixture" / "run" / "prompt.safetensors").write_bytes(data)
    assert [source.name for source in named([tmp_path / "mixture" / "run", bench.folder / "near"])] == [
        "mixture",
        "near",
    ]


def test_the_member_that_is_compared_is_the_best_on_dev(made) -> None:
    assert made.chosen.key == max(entry.key for entry in made.members)


def test_the_test_is_paired_over_the_predictions_on_test(made, bench) -> None:
    plan = make_plan(bench.recipe(), bench.backbone)
    found = [marks(Artifact.load(e.prompt).bind(bench.backbone), plan, plan.test) for e in (made.chosen, made.scratch)]
    assert made.test.difference == pytest.approx(sum(found[0]) / 20 - sum(found[1]) / 20)
    assert made.test.n == 20
    assert made.steps == {"near": 150, "far": 1}


def test_no_gain_is_an_answer_and_keeps_the_scratch_prompt(made) -> None:
    for p, difference, verdict, kept in (
        (0.3, 0.1, "no gain", made.scratch),
        (0.01, 0.1, "gain", made.chosen),
        (0.01, -0.1, "harm", made.scratch),
        (1.0, 0.0, "no gain", made.scratch),
    ):
        outcome = replace(made, test=Compared(difference, 0.05, p, 20))
        assert outcome.test.verdict == verdict
        assert outcome.kept is kept
        assert ("keep the scratch prompt" in outcome.sentence) == (kept is made.scratch)


def test_a_repeated_call_reads_what_is_done(made, bench) -> None:
    before = made.scratch.prompt.stat().st_mtime_ns
    again = transfer(bench.recipe(), bench.sources("near", "far"), made.folder, backbone=bench.backbone)
    assert again.as_dict() == made.as_dict() == json.loads((made.folder / "transfer.json").read_text())
    assert again.scratch.prompt.stat().st_mtime_ns == before


def test_top_k_takes_the_best_ranked(bench, tmp_path) -> None:
    outcome = transfer(bench.recipe(), bench.sources("far", "near"), tmp_path, top_k=1, backbone=bench.backbone)
    assert [entry.name for entry in outcome.members] == ["from-near"]
    assert outcome.suggestion.ranks[0].source.name == "near"


def test_an_average_is_the_weighted_mean_of_sources_of_one_start(bench, tmp_path) -> None:
    first, second = bench.sources("near", "far")
    path = average([first, second], [3.0, 1.0], tmp_path / "average.safetensors")
    vectors = [source.artifact.tensors["method.prompt"] for source in (first, second)]
    torch.testing.assert_close(
        Artifact.load(path).tensors["method.prompt"], (3 * vectors[0] + vectors[1]) / 4, atol=1e-6, rtol=1e-6
    )
    assert Artifact.load(path).card.parents == ("near.safetensors", "far.safetensors")


def test_sources_of_another_seed_are_not_averaged(bench, tmp_path) -> None:
    first, second = bench.sources("near", "far")
    card = second.artifact.card
    other = card.model_copy(update={"recipe": card.recipe | {"train": card.recipe["train"] | {"seed": 7}}})
    moved = replace(second, artifact=replace(second.artifact, card=other))
    with pytest.raises(SoftpromptError, match="SP-E622"):
        average([first, moved], [1.0, 1.0], tmp_path / "average.safetensors")


def test_dissimilar_sources_weigh_nothing_and_without_any_there_is_no_average(bench) -> None:
    sources = bench.sources("near", "far")

    def ranked(*values: float):
        near = [SimpleNamespace(per_token=value) for value in values]
        pairs = zip(sources, near, strict=True)
        return SimpleNamespace(ranks=[SimpleNamespace(source=source, similar=one) for source, one in pairs])

    assert weights(sources, None) == [1.0, 1.0]
    assert weights(sources, ranked(0.5, -0.2)) == [0.5, 0.0]
    with pytest.raises(SoftpromptError, match="SP-E622"):
        weights(sources, ranked(-0.5, -0.2))


def test_a_mixture_is_trained_on_the_tasks_of_the_sources_and_the_target(bench, tmp_path) -> None:
    (bench.folder / "b").mkdir(exist_ok=True)
    other = bench.recipe("train.steps=2")
    files = {
        part: str(tiny_runs.write_rows(bench.folder / "b" / f"{part}.csv", 12, seed=seed))
        for part, seed in (("train", 11), ("dev", 12), ("test", 13))
    }
    other = other.model_copy(update={"data": other.data.model_copy(update=files)})
    left = pretrain({"a": bench.recipe(), "b": other}, tmp_path, like=other, cap=10, backbone=bench.backbone)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [row["task"] for row in rows] == ["a"] * 10 + ["b"] * 10, "proportional up to the cap"
    assert {row["label"] for row in rows} == {"w5", "w6"}
    artifact = Artifact.load(left.artifact)
    assert artifact.card.task.kind == "generation"
    assert cautions(make_plan(other, bench.backbone), [Source("mixed", artifact)]), "it was trained on this task too"
    outcome = transfer(
        bench.recipe("train.steps=1"),
        [replace(bench.sources("near")[0], name="mixed", artifact=artifact)],
        tmp_path / "t",
        backbone=bench.backbone,
    )
    assert Artifact.load(outcome.members[0].prompt).card.parents == ("mixed.safetensors",)


def test_the_sample_under_the_cap_is_the_same_at_every_call(bench) -> None:
    plan = make_plan(bench.recipe(), bench.backbone)
    assert lines("a", plan, "train", 5) == lines("a", plan, "train", 5)
    assert len(lines("a", plan, "train", 5)) == 5
    assert len(lines("a", plan, "train", 500)) == 40


def test_tasks_that_cannot_share_a_head_are_refused(bench, tmp_path) -> None:
    numbers = tmp_path / "numbers.csv"
    numbers.write_text("text,label\n" + "".join(f"w{i} w{i + 1},{i / 2}\n" for i in range(10, 40)))
    regression = bench.recipe("task.kind=regression")
    update = {"train": str(numbers), "dev": None, "test": None}
    regression = regression.model_copy(update={"data": regression.data.model_copy(update=update)})
    own = bench.recipe("task.template={soft}{text} so {mask}")
    for recipe in (regression, own):
        with pytest.raises(SoftpromptError, match="SP-E623"):
            pretrain({"a": bench.recipe(), "b": recipe}, tmp_path / "m", like=recipe, backbone=bench.backbone)


def test_several_columns_are_named_as_the_default_template_names_them() -> None:
    example = SimpleNamespace(fields={"premise": "a b", "words": ("c", "d")})
    assert flat(example, ["premise", "words"]) == "premise: a b words: c d"
    assert flat(example, ["premise"]) == "a b"


def test_marks_of_every_kind_are_larger_for_better_answers() -> None:
    def plan(kind: str, metric: str) -> Plan:
        return SimpleNamespace(kind=kind, recipe=SimpleNamespace(task=SimpleNamespace(metric=metric)))

    from softprompt.transfer.paired import mark

    assert mark(plan("classification", "accuracy"), "a", "a") == 1.0
    assert mark(plan("tagging", "span_f1"), ("O", "B"), ("O", "O")) == 0.5
    assert mark(plan("regression", "rmse"), 1.0, 3.0) == -2.0
    assert mark(plan("generation", "exact_match"), "x y", "x y") == 1.0
    assert mark(plan("generation", "bleu"), "a b c d", "a b c d") > mark(plan("generation", "bleu"), "q", "a b c d")


def test_a_control_that_broke_off_is_an_error(bench, made) -> None:
    from softprompt.errors import TrainingError
    from softprompt.transfer.run import judged

    broken = Entry(
        "scratch", made.folder, None, {"code": "SP-E520", "found": "nan", "expected": "x", "do": "y"}, {}, (), ""
    )
    plan = make_plan(bench.recipe(), bench.backbone)
    with pytest.raises(TrainingError, match="SP-E520"):
        judged(made.folder, plan, bench.backbone, [broken, *made.members], {}, None)
