"""A projector is ridge regression on pairs of prompts; a moved prompt stands beside what knows nothing of its task."""

import json
from functools import partial

import pytest
import tiny_runs
import torch

from softprompt.artifact import Artifact
from softprompt.errors import SoftpromptError
from softprompt.plan import make_plan
from softprompt.transfer.paired import losses
from softprompt.transfer.project import fit, project, solve, vectors
from softprompt.transfer.sources import Source, placed
from softprompt.untrained import build


def pairs(count: int, noise: float = 0.0) -> tuple[list, torch.Tensor, torch.Tensor]:
    """Prompts [4, 6] and what a linear map with an offset makes of them, [4, 5]."""
    map_, offset = torch.randn(6, 5).double(), torch.randn(5).double()
    given = [torch.randn(4, 6).double() for _ in range(count)]
    return [(x, x @ map_ + offset + noise * torch.randn(4, 5)) for x in given], map_, offset


def test_a_linear_map_is_found_and_holds_for_a_new_task() -> None:
    given, map_, offset = pairs(12)
    made = fit(given)
    new = torch.randn(4, 6).double()
    torch.testing.assert_close(made(new), new @ map_ + offset, atol=1e-2, rtol=1e-2)
    assert made.explained > 0.999
    assert made.ridge == 1e-4


def test_where_one_backbone_says_nothing_of_the_other_nothing_is_explained() -> None:
    given = [(torch.randn(4, 6).double(), torch.randn(4, 5).double()) for _ in range(4)]
    made = fit(given)
    assert made.explained < 0.1
    assert made.ridge == 10.0, "the strongest is the nearest to the mean"


def test_a_map_of_the_text_that_all_prompts_began_at_explains_nothing_of_a_task() -> None:
    start, map_ = 10 * torch.randn(4, 6).double(), torch.randn(6, 5).double()
    learned = [(torch.randn(4, 6).double(), torch.randn(4, 5).double()) for _ in range(6)]
    assert fit([(start + x, start @ map_ + y) for x, y in learned]).explained < 0.1
    assert fit([(start + x, (start + x) @ map_) for x, _ in learned]).explained > 0.9
    shorter = [(start[:3] + x[:3], (start[:3] + x[:3]) @ map_) for x, _ in learned[:1]]
    assert fit([*shorter, *((start + x, (start + x) @ map_) for x, _ in learned)]).explained > 0.9


def test_the_map_solves_the_normal_equations() -> None:
    given, _, _ = pairs(5, noise=0.3)
    x, y = (torch.cat(side) for side in zip(*given, strict=True))
    mid, top = x - x.mean(0), torch.linalg.matrix_norm(x - x.mean(0), 2).square()
    wanted = torch.linalg.solve(mid.T @ mid + 0.1 * top * torch.eye(6), mid.T @ (y - y.mean(0)))
    torch.testing.assert_close(solve(given, 0.1).weight, wanted)


@pytest.fixture(scope="module")
def other(bench, tmp_path_factory):
    """Another backbone, its recipe for the same task, and prompts of several tasks on both."""
    folder = tmp_path_factory.mktemp("other")
    backbone = tiny_runs.open_model(folder, "gpt2")
    recipe = partial(tiny_runs.recipe, folder, model="gpt2")

    def written(name: str, seed: int, where, made) -> Source:
        plan = make_plan(made(f"train.seed={seed}", "init.kind=random"), where)
        path = folder / f"{name}.safetensors"
        Artifact.of(build(plan, where), plan.recipe.shared(), {}).save(path)
        return Source(name, Artifact.load(path))

    couples = [
        (written(f"old-{i}", i, bench.backbone, bench.recipe), written(f"new-{i}", i, backbone, recipe))
        for i in range(3)
    ]
    return backbone, recipe, couples


def test_the_moved_prompt_is_what_the_projector_makes_and_names_where_it_came_from(bench, other, tmp_path) -> None:
    backbone, recipe, couples = other
    (near,) = bench.sources("near")
    made = project(recipe(), near, couples, tmp_path, backbone=backbone)
    artifact = Artifact.load(made.path)
    projector = fit([(vectors(a), vectors(b)) for a, b in couples])
    torch.testing.assert_close(artifact.tensors["method.prompt"], projector(vectors(near)).float())
    assert artifact.card.parents == (
        "near.safetensors",
        *(f"{s}-{i}.safetensors" for i in range(3) for s in ("old", "new")),
    )
    assert all((tmp_path / "sources" / name).is_file() for name in artifact.card.parents)
    artifact.bind(backbone)
    assert json.loads((tmp_path / "project.json").read_text())["pairs"] == 3


def test_its_loss_stands_beside_that_of_its_controls_on_dev(bench, other, tmp_path) -> None:
    backbone, recipe, couples = other
    made = project(recipe(), *bench.sources("near"), couples, tmp_path, backbone=backbone)
    plan = make_plan(recipe("method.length=4"), backbone)
    moved = losses(placed(plan, made.path, backbone), plan.dev, 16)
    untrained = losses(build(plan, backbone), plan.dev, 16)
    found = made.measured
    assert found.loss == pytest.approx(sum(moved) / len(moved), rel=1e-4)
    assert found.gains["untrained prompt"].difference == pytest.approx(
        (sum(untrained) - sum(moved)) / len(moved), rel=1e-3, abs=1e-6
    )
    assert found.gains.keys() == {"untrained prompt", "bare model", "mean of the pairs"}
    assert found.scores.keys() == {"prompt", *found.gains, "majority"}
    ahead = all(gain.difference > gain.error for gain in found.gains.values())
    assert made.helps == (ahead and found.scores["prompt"].value > found.scores["majority"].value)
    assert ("does not help" in made.sentence) == (not made.helps)


def test_what_no_projector_can_learn_from_is_refused(bench, other, tmp_path) -> None:
    backbone, recipe, couples = other
    (near,) = bench.sources("near")
    for prompt, given, why in (
        (near, couples[:1], "1 pairs"),
        (couples[0][0], couples, "among the pairs"),
        (near, [*couples[:1], couples[1][::-1]], "another backbone"),
    ):
        with pytest.raises(SoftpromptError, match=f"SP-E710 .*{why}"):
            project(recipe(), prompt, given, tmp_path, backbone=backbone)
    with pytest.raises(SoftpromptError, match="SP-E711"):
        project(recipe("task.head=classifier"), near, couples, tmp_path, backbone=backbone)
