"""Smaller prompts are what their formulas say, are chosen on dev, and are ordinary prompts afterwards."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import tiny_runs
import torch
from torch.testing import assert_close

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone, load_backbone
from softprompt.backbones.embedded import NANO
from softprompt.cli import main
from softprompt.compress import compress, enough, gates, grid, merge, prune, rank, ratio, stored, weight
from softprompt.compress.int8 import int8
from softprompt.core import Batch, Injection
from softprompt.demo import run as demo
from softprompt.errors import RecipeError, Unsupported
from softprompt.plan import Plan, make_plan
from softprompt.prompt import Prompt
from softprompt.training import train
from softprompt.untrained import build
from softprompt.vectors import Measured, measure, variant, vectors_of

P, H = 6, 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compress")


@pytest.fixture(scope="module")
def model(folder: Path) -> Backbone:
    return tiny_runs.open_model(folder)


@pytest.fixture(scope="module")
def plan(folder: Path, model: Backbone) -> Plan:
    settings = (f"method.length={P}", "task.template={soft:2}{text}{soft:4} {mask}", "task.head=verbalizer")
    return make_plan(tiny_runs.recipe(folder, *settings), model)


@pytest.fixture(scope="module")
def prompt(plan: Plan, model: Backbone) -> Prompt:
    """An untrained prompt with vectors on both sides of the text."""
    return build(plan, model).eval()


def loss(prompt: Prompt, batch: Batch, vectors: torch.Tensor) -> float:
    """The summed loss of a batch with vectors that are given by hand."""
    return prompt.head.loss(prompt.answer(batch, Injection(embeds=vectors[None])), batch).item()


def test_pruned_vectors_are_gone_and_the_others_stand_where_they_stood(prompt: Prompt, plan: Plan) -> None:
    vectors, scores = vectors_of(prompt), torch.tensor([5.0, 1.0, 4.0, 0.0, 3.0, 2.0])
    made = prune.tokens(prompt, vectors, scores, 4)
    assert made.template.text == "{soft:1}{text}{soft:3} {mask}"
    assert vectors_of(made).equal(vectors[[0, 2, 4, 5]])
    batch = prompt.batch([prompt.row(example) for example in plan.train[:8]])
    hidden = batch.mask & (batch.slots != 1) & (batch.slots != 3)  # what is masked counts for no position either
    masked = Batch(batch.input_ids, hidden, batch.slots, batch.labels, batch.target)
    wanted = loss(prompt, masked, vectors) / 8
    assert measure(made, plan.train[:8], "accuracy").loss == pytest.approx(wanted, rel=1e-4)
    assert wanted != pytest.approx(loss(prompt, batch, vectors) / 8, rel=1e-3), "a vector that nothing depends on"


def test_pieces_that_matter_least_are_zero(prompt: Prompt, plan: Plan) -> None:
    made = vectors_of(prune.pieces(prompt, vectors_of(prompt), plan.train, 4, 0.5))
    blocks = made.view(len(made), 4, -1).abs().sum(-1)
    assert (blocks > 0).sum() == P * 4 // 2
    assert (blocks > 0).any(1).all()


def test_merged_vectors_are_weighed_means_of_the_most_alike() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.1], [0.2, 3.0]])
    weight = torch.tensor([1.0, 3.0, 3.0, 1.0])
    groups = merge.grouped(vectors, weight, 2)
    assert sorted(sorted(group) for group in groups) == [[0, 2], [1, 3]]
    assert_close(merge.mean(vectors, weight.double(), [0, 2]), torch.tensor([1.75, 0.075]))
    assert merge.grouped(vectors, weight, 4) == [[0], [1], [2], [3]]


def test_a_merged_prompt_has_the_slots_of_the_most_important(prompt: Prompt) -> None:
    vectors, scores = vectors_of(prompt).clone(), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    vectors[5] = 2 * vectors[0]
    made = merge.merge(prompt, vectors, scores, P - 1)
    assert made.template.text == "{soft:1}{text}{soft:4} {mask}"
    assert_close(vectors_of(made)[-1], (vectors[0] + 6 * vectors[5]) / 7)
    assert vectors_of(made)[:-1].equal(vectors[1:5])


@pytest.mark.parametrize("size", [1, 3, P])
def test_low_rank_is_the_best_of_its_rank_and_scores_as_its_product(prompt: Prompt, plan: Plan, size: int) -> None:
    vectors = vectors_of(prompt)
    made = rank.low_rank(prompt, vectors, size)
    values, basis = torch.linalg.eigh(vectors.double() @ vectors.double().T)
    best = (basis[:, P - size :] @ basis[:, P - size :].T @ vectors.double()).float()
    assert_close(vectors_of(made), best, atol=1e-5, rtol=1e-4)
    assert (best - vectors).square().sum().item() == pytest.approx(values[: P - size].sum().item(), abs=1e-3)
    assert weight(made) == 4 * size * (P + H)
    assert rank.saves(vectors, size) == (weight(made) < weight(prompt))
    product = variant(prompt, best)
    assert measure(made, plan.dev, "accuracy").loss == pytest.approx(measure(product, plan.dev, "accuracy").loss, 1e-4)


def test_eight_bits_are_within_half_a_level_and_a_quarter_of_the_bytes(prompt: Prompt) -> None:
    made = int8(prompt)
    level = vectors_of(prompt).abs().amax(1, keepdim=True) / 127
    assert ((vectors_of(made) - vectors_of(prompt)).abs() <= 0.5001 * level).all()
    assert weight(made) == P * H + 4 * P
    assert weight(prompt) == 4 * P * H


@pytest.mark.parametrize("how", ["prune", "merge", "rank", "int8", "pieces"])
def test_a_compressed_prompt_is_an_ordinary_artifact(
    prompt: Prompt, plan: Plan, model: Backbone, tmp_path: Path, how: str
) -> None:
    parent = Artifact.of(prompt, plan.recipe.shared(), {})
    found = compress(prompt, plan.dev, "accuracy", how=how, keep=3)
    stored(found.chosen.prompt, parent, {}, "parent.safetensors").save(tmp_path / "small.safetensors")
    again = Artifact.load(tmp_path / "small.safetensors")
    assert again.card.parents == ("parent.safetensors",)
    assert again.card.method.trained_as == "prompt_tuning"
    assert sum(t.numel() * t.element_size() for t in again.method_tensors().values()) == found.chosen.bytes
    bound = again.bind(model)
    assert measure(bound, plan.dev, "accuracy").loss == pytest.approx(found.chosen.dev.loss, rel=1e-5)
    assert vectors_of(bound).equal(vectors_of(found.chosen.prompt))
    assert compress(bound, plan.dev, "accuracy", how="prune", keep=1).chosen.keep == 1


def test_the_smallest_that_is_good_enough_is_chosen(prompt: Prompt, plan: Plan) -> None:
    found = compress(prompt, plan.dev, "accuracy", tolerance=1.0)
    assert {one.how for one in found.candidates} >= {"prune", "merge", "rank", "int8", "prune+int8", "merge+int8"}
    assert found.chosen.bytes == min(one.bytes for one in found.candidates)
    assert found.chosen.how.endswith("+int8")
    assert set(found.predicted) == set(ratio.PREDICTORS)
    assert all(1 <= count <= P for count in found.predicted.values())
    assert sum(one["chosen"] for one in found.as_dict()["candidates"]) == 1


def test_the_whole_prompt_stays_where_nothing_is_good_enough(prompt: Prompt, plan: Plan) -> None:
    found = compress(prompt, plan.dev, "accuracy", how="rank", tolerance=-2.0)
    assert found.chosen is found.whole


def test_good_enough_is_by_score_or_by_loss_where_there_is_none() -> None:
    good = enough(Measured(1.0, None), "", 0.05)
    assert good(Measured(1.05, None))
    assert not good(Measured(1.06, None))


def test_counts_leave_one_and_never_all() -> None:
    assert grid(10) == [9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert grid(2) == [1]
    assert grid(1) == []


@pytest.mark.parametrize("bad", [{"how": "magic"}, {"by": "luck"}, {"keep": 7}, {"keep": 0}])
def test_settings_without_sense_are_refused(prompt: Prompt, plan: Plan, bad: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="SP-E204"):
        compress(prompt, plan.dev, "accuracy", **bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["prefix", "smop", "dept"])
def test_prompts_that_are_no_plain_vectors_are_refused(folder: Path, model: Backbone, method: str) -> None:
    made = build(make_plan(tiny_runs.recipe(folder, f"method.name={method}"), model), model)
    with pytest.raises(Unsupported, match="SP-E428"):
        vectors_of(made)


def scored(products: list[list[float]], loss: float = 1.0, attention: list[float] | None = None) -> ratio.Pass:
    shares = None if attention is None else torch.tensor(attention)
    return ratio.Pass(torch.tensor(products, dtype=torch.float64), loss, torch.eye(len(products[0])), shares)


def test_the_knee_is_where_importance_stops_to_pay() -> None:
    assert ratio.knee(scored([[10.0, 0.1, 9.0, 0.1, 0.1]])) == 2
    assert ratio.knee(scored([[1.0, 1.0, 1.0]])) == 1  # a straight line has no knee; the first of equals
    assert ratio.knee(scored([[0.0, 0.0]])) == 2


def test_the_taylor_estimate_is_exact_for_a_quadratic_loss() -> None:
    """L(m) = sum over examples of 1/2 (a . m - b)^2: gradient and Fisher diagonal of single masks by hand."""
    found = scored([[0.5, -0.2], [0.1, 0.4]])
    assert ratio.expected(found, [1]) == pytest.approx(-0.1 + 0.5 * (0.04 + 0.16) / 2)
    assert ratio.taylor(scored([[-0.5, 0.001, 0.002]])) == 1
    assert ratio.taylor(scored([[-0.5, -0.5, -0.5]])) == 3


def test_effective_rank_counts_directions_and_attention_counts_mass() -> None:
    assert ratio.effective(torch.eye(4)) == pytest.approx(4.0)
    assert ratio.effective(torch.ones(4, 4)) == pytest.approx(1.0, abs=1e-4)
    assert ratio.attention_mass(scored([[1.0, 1.0, 1.0]], attention=[0.5, 0.02, 0.45])) == 2
    assert ratio.attention_mass(scored([[1.0, 1.0, 1.0]])) == 3


def test_gates_count_what_is_more_than_half_open() -> None:
    assert ratio.open_gates(ratio.Pass(torch.zeros(1, 3), 1.0, torch.eye(3), None, torch.tensor([1.0, 0.4, 0.6]))) == 2
    assert ratio.open_gates(ratio.Pass(torch.zeros(1, 3), 1.0, torch.eye(3), None, torch.zeros(3))) == 1
    assert ratio.open_gates(scored([[1.0, 1.0, 1.0]])) == 3


def test_a_vector_that_nothing_depends_on_loses_its_gate(prompt: Prompt, plan: Plan) -> None:
    """A vector of zeros is the same at every gate, so that only its price is left; the others have a slope."""
    vectors = vectors_of(prompt).clone()
    vectors[2] = 0
    before = {name: value.clone() for name, value in prompt.state_dict().items()}
    found = gates.learned(prompt, vectors, plan.dev)
    assert found[2] == 0
    assert ((found >= 0) & (found <= 1)).all()
    assert found.equal(gates.learned(prompt, vectors, plan.dev)), "the order is drawn with seed 0"
    assert all(value.equal(before[name]) for name, value in prompt.state_dict().items())


def test_distil_takes_the_better_of_the_taught_and_the_one_that_learnt_alone(prompt: Prompt, plan: Plan) -> None:
    vectors = vectors_of(prompt)
    made = {"distil": variant(prompt, vectors[:2], [True, True] + [False] * 4)}
    made |= {"alone": variant(prompt, vectors[2:4], [True, True] + [False] * 4)}
    asked: list[int] = []

    def lessons(length: int) -> list[tuple[str, Prompt]]:
        asked.append(length)
        return list(made.items())

    found = compress(prompt, plan.dev, "accuracy", how="distil", keep=2, lessons=lessons)
    assert asked == [2]
    assert [one.how for one in found.candidates] == ["distil", "alone"]
    assert found.chosen.dev.loss == min(measure(one, plan.dev, "accuracy").loss for one in made.values())
    for settings in ({"keep": 2}, {"lessons": lessons}):
        with pytest.raises(RecipeError, match="SP-E778"):
            compress(prompt, plan.dev, "accuracy", how="distil", **settings)  # type: ignore[arg-type]


def test_the_command_distils_into_an_ordinary_prompt_and_says_what_else_was_trained(
    folder: Path, model: Backbone, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_runs.recipe(folder, f"method.length={P}", "train.epochs=1")
    tiny_runs.write_rows(folder / "dev.csv", 12, seed=2)
    long, short = train(recipe, folder / "long", backbone=model).artifact, folder / "short.safetensors"
    asked = ["compress", str(long), str(folder / "dev.csv"), "--how", "distil", "--out", str(short), "--json"]
    given = ["--train", str(folder / "train.csv"), "--run", str(folder / "taught")]
    assert main([*asked, "--keep", "2", *given]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["how"], one["keep"]) for one in found["candidates"]] == [("whole", P), ("distil", 2), ("alone", 2)]
    again = Artifact.load(short)
    assert again.card.parents == (long.name,)
    assert vectors_of(again.bind(model)).shape == (2, H)
    assert (folder / "taught" / "vectors-2" / "distill.json").exists()
    assert main([*asked, *given]) == 2
    assert "SP-E778" in capsys.readouterr().out


def test_keeping_the_important_beats_keeping_the_others_on_a_backbone_that_has_learnt(tmp_path: Path) -> None:
    """XPrompt's ordering: with half of the vectors gone, importance is better than its reverse."""
    nano = load_backbone(NANO)
    settings = ["method.name=prompt_tuning", "method.length=8", "task.head=verbalizer", "train.threads=1"]
    plan = make_plan(demo.recipe("questions", NANO, settings), nano)
    prompt = trained(build(plan, nano), plan)
    vectors = vectors_of(prompt)
    scores = prune.importance(variant(prompt, vectors), plan.train[:96], 1)[:, 0]
    kept, reverse = (prune.tokens(prompt, vectors, signed, 3) for signed in (scores, -scores))
    losses = [measure(one, plan.train[:96], "accuracy").loss for one in (prompt, kept, reverse)]
    assert all(before < after for before, after in pairwise(losses)), losses


def trained(prompt: Prompt, plan: Plan) -> Prompt:
    """A prompt after a few steps."""
    optimizer = torch.optim.Adam(prompt.parameters(), lr=prompt.backbone.spec.rms)
    rows = [prompt.row(example) for example in plan.train]
    for step in range(40):
        batch = prompt.batch([rows[(16 * step + i) % len(rows)] for i in range(16)])
        optimizer.zero_grad()
        (prompt.loss(batch) / len(batch)).backward()
        optimizer.step()
    return prompt.eval()
