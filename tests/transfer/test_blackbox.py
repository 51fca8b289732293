"""A search without gradients asks a population in one pass, and goes on from what it was told."""

import sys

import pytest
import torch

from softprompt.artifact import Artifact
from softprompt.core import Injection
from softprompt.errors import SoftpromptError
from softprompt.plan import make_plan
from softprompt.transfer.blackbox import Search, crossed, evolve
from softprompt.untrained import build


@pytest.fixture
def search(bench, tmp_path) -> Search:
    recipe = crossed(bench.recipe("task.head=verbalizer"), bench.sources("near", "far"), tmp_path)
    plan = make_plan(recipe, bench.backbone)
    return Search(build(plan, bench.backbone).eval(), plan, generations=4, population=4, spread=0.5)


@pytest.mark.parametrize("packs", [True, False])
def test_every_prompt_of_a_population_loses_what_it_loses_alone(search, packs, monkeypatch) -> None:
    if not packs:
        search.prompt.packs = False
        size = search.plan.recipe.train.batch_size
        rows = [search.prompt.row(example) for example in search.plan.train]
        search.batches = [search.prompt.batch(rows[at : at + size]) for at in range(0, len(rows), size)]
    proposed = [torch.randn(search.method.z.numel()) * 0.3 for _ in range(3)]
    found, tokens = search.score(proposed)
    search.prompt.packs = False
    for z, value in zip(proposed, found.tolist(), strict=True):
        search.put(z)
        vectors = search.method.product().detach()
        alone = 0.0
        for example in search.plan.train:
            data = search.prompt.batch([search.prompt.row(example)])
            alone += search.prompt.loss(data, Injection(embeds=vectors[None])).item()
        assert value == pytest.approx(alone / len(search.plan.train), rel=1e-3)
    assert tokens > 0
    assert len({round(value, 6) for value in found.tolist()}) == 3


def test_a_search_that_is_told_again_goes_on_to_the_same_bits(search) -> None:
    search.round(0)
    search.round(1)
    state = {name: value.clone() for name, value in search.tensors().items()}
    search.round(2)
    wanted = search.tensors()
    torch.rand(3)  # the search has random numbers of its own
    search.restore(state)
    search.round(2)
    assert all(torch.equal(value, wanted[name]) for name, value in search.tensors().items())


def test_no_gradient_is_computed_and_the_loss_falls(search) -> None:
    for weight in search.prompt.parameters():
        weight.requires_grad_(False)
    means = [search.round(number)["loss"] for number in range(4)]
    assert min(means[1:]) < means[0]


def test_the_found_prompt_is_plain_vectors_beside_its_controls(bench, tmp_path) -> None:
    recipe = bench.recipe("task.head=verbalizer")
    given = {"generations": 2, "population": 3, "backbone": bench.backbone}
    made = evolve(recipe, bench.sources("near", "far"), tmp_path, **given)
    artifact = Artifact.load(made.path)
    assert artifact.card.method.name == "prompt_tuning"
    assert artifact.card.method.trained_as == "ctpt"
    assert artifact.card.parents == ("near.safetensors", "far.safetensors")
    assert made.asked == 2 * 2 * 3 * 40, "the control is asked as often"
    assert made.measured.gains.keys() == {"untrained prompt", "bare model", "search without sources"}
    assert ("helps" in made.sentence) == made.measured.helps
    assert made.sentence.startswith("no gain") == (not made.measured.helps)
    assert (tmp_path / "alone" / "log.jsonl").read_text() != (tmp_path / "log.jsonl").read_text()
    before = made.path.read_bytes()
    assert evolve(recipe, bench.sources("near", "far"), tmp_path, **given).path.read_bytes() == before


def test_trained_heads_and_a_missing_package_are_refused(bench, tmp_path, monkeypatch) -> None:
    sources = bench.sources("near")
    with pytest.raises(SoftpromptError, match="SP-E711"):
        evolve(bench.recipe("task.head=classifier"), sources, tmp_path / "a", backbone=bench.backbone)
    monkeypatch.setitem(sys.modules, "cma", None)
    with pytest.raises(SoftpromptError, match="SP-E718"):
        evolve(bench.recipe("task.head=verbalizer"), sources, tmp_path / "b", backbone=bench.backbone)
