"""TransPrompt over tasks: typical rows count more, entropy is raised, then lowered, and unseen tasks are measured."""

import json

import pytest
import tiny_runs
import torch

from softprompt.artifact import Artifact
from softprompt.backbones import load_backbone
from softprompt.errors import ArtifactError, SoftpromptError
from softprompt.plan import make_plan
from softprompt.recipe import ADAPTER, Recipe
from softprompt.sections import LoraSection, MethodSection
from softprompt.transfer.adapting import Sharpened, around
from softprompt.transfer.prototypes import typical
from softprompt.transfer.universal import MetaLearner, encoded, learn_transferable
from softprompt.untrained import build


@pytest.fixture(scope="module")
def recipes(bench) -> dict[str, Recipe]:
    """Two similar tasks, and a third that takes no part."""
    made = {}
    for i, name in enumerate("abc"):
        given = bench.recipe("train.steps=2", "task.head=verbalizer")
        train = str(tiny_runs.write_rows(bench.folder / f"similar-{name}.csv", 20, seed=70 + i))
        made[name] = given.model_copy(update={"data": given.data.model_copy(update={"train": train})})
    return made


@pytest.fixture
def work(bench, recipes) -> MetaLearner:
    plans = {name: make_plan(encoded(recipes[name]), bench.backbone) for name in "ab"}
    return MetaLearner(plans, bench.backbone, total=4, entropy=0.3, share=0.5)


def test_a_weight_is_how_near_an_example_is_to_its_class_here_and_elsewhere() -> None:
    """The formula, one example and one class at a time."""
    states = [torch.randn(6, 5) + 3, torch.randn(4, 5) + 3]
    classes = [torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([2, 1, 0, 0])]
    found = typical(states, classes, 3, share=0.7)
    center = torch.cat(states).mean(0)

    def near(x: torch.Tensor, m: int, label: int) -> float:
        cosines = []
        for c in range(3):
            members = [states[m][i] - center for i in range(len(states[m])) if int(classes[m][i]) == c]
            cosines.append(torch.cosine_similarity(x - center, torch.stack(members).mean(0), dim=0))
        return float(torch.stack(cosines).softmax(0)[label])

    for m in range(2):
        raw = [
            0.7 * near(x, m, int(y)) + 0.3 * near(x, 1 - m, int(y)) for x, y in zip(states[m], classes[m], strict=True)
        ]
        torch.testing.assert_close(found[m], torch.tensor(raw) / (sum(raw) / len(raw)), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def by_hand(prompt, rows: list) -> list[tuple[float, float]]:
    """Cross-entropy and entropy of every row alone, over the classes."""
    found = []
    for row in rows:
        batch = prompt.batch([row])
        chances = prompt.head.scores(prompt(batch), batch)[0].exp()
        found.append((-float(chances[int(row.target)].log()), -float((chances * chances.log()).sum())))
    return found


def test_the_meta_learner_weighs_rows_and_raises_entropy_and_adaptation_lowers_it(work) -> None:
    prompt, rows = work.prompts[0], work.rows[0][:6]
    weights = torch.rand(6)
    told = by_hand(prompt, rows)
    wanted = sum(float(w) * wrong - 0.3 * unsure for w, (wrong, unsure) in zip(weights, told, strict=True)) / 6
    assert work.loss(prompt, prompt.batch(rows), weights).item() == pytest.approx(wanted, rel=1e-3)
    sharp = Sharpened(prompt.backbone, prompt.method, *around(prompt))
    sharp.entropy = 0.3
    wanted = sum(wrong + 0.3 * unsure for wrong, unsure in told)
    assert sharp.loss(sharp.batch(rows)).item() == pytest.approx(wanted, rel=1e-3)


def test_a_learner_that_is_put_back_goes_on_to_the_same_bits(work, bench, recipes) -> None:
    work.round(0)
    state = {name: value.clone() for name, value in work.tensors().items()}
    work.round(1)
    again = MetaLearner(dict(zip("ab", work.plans, strict=True)), bench.backbone, 4, 0.3, 0.5)
    again.restore(state)
    again.round(1)
    wanted = work.tensors()
    assert wanted.keys() == again.tensors().keys()
    assert all(torch.equal(value, wanted[name]) for name, value in again.tensors().items())
    assert not torch.equal(wanted["task/0/own.weight_hh_l0"], wanted["task/1/own.weight_hh_l0"])


def test_every_task_is_adapted_beside_a_control_and_an_unseen_one_is_measured(bench, recipes, tmp_path) -> None:
    seen = {name: recipes[name] for name in "ab"}
    made = learn_transferable(seen, tmp_path, others={"c": recipes["c"]}, steps=2, backbone=bench.backbone)
    artifact = Artifact.load(made.path)
    assert (artifact.card.method.name, artifact.card.method.length) == ("prompt_tuning", 4)
    assert made.zero["c"].gains.keys() == {"untrained prompt", "bare model"}
    for one in made.adapted.values():
        assert one.kept is (one.adapted if one.test.verdict == "gain" else one.scratch)
        assert Artifact.load(one.adapted.prompt).card.method.trained_as == "transprompt"
    assert json.loads((tmp_path / "transprompt.json").read_text())["tasks"].keys() == {"a", "b"}
    before = made.adapted["a"].adapted.prompt.stat().st_mtime_ns
    again = learn_transferable(seen, tmp_path, others={"c": recipes["c"]}, steps=2, backbone=bench.backbone)
    assert again.as_dict() == made.as_dict()
    assert again.adapted["a"].adapted.prompt.stat().st_mtime_ns == before


def test_with_a_lora_the_backbone_that_tasks_share_is_learned_too_and_kept_beside_their_prompts(
    bench, recipes, tmp_path
) -> None:
    settings = LoraSection(rank=2, lr=0.01)
    tuned = {name: recipe.model_copy(update={"lora": settings}) for name, recipe in recipes.items()}
    plans = {name: make_plan(encoded(tuned[name]), bench.backbone) for name in "ab"}
    works = [MetaLearner(plans, bench.backbone, total=4, entropy=0.3, share=0.5) for _ in range(2)]
    works[0].round(0)
    works[1].restore({name: value.clone() for name, value in works[0].tensors().items()})
    for work in works:
        work.round(1)
    assert all(torch.equal(a, b) for a, b in zip(works[0].lora, works[1].lora, strict=True))
    assert all(weight.abs().max() > 0 for weight in works[0].lora), "B is zero at the start"
    assert works[0].prompts[0].backbone is works[0].prompts[1].backbone is not bench.backbone

    seen = {name: tuned[name] for name in "ab"}
    made = learn_transferable(seen, tmp_path, others={"c": tuned["c"]}, steps=2, backbone=bench.backbone)
    stands = load_backbone(recipes["a"].backbone.name, adapter=str(tmp_path / ADAPTER))
    assert stands.fingerprint != bench.backbone.fingerprint
    for path in (made.path, made.adapted["a"].adapted.prompt, made.adapted["a"].scratch.prompt):
        Artifact.load(path).bind(stands)
        with pytest.raises(ArtifactError, match="SP-E320"):
            Artifact.load(path).bind(bench.backbone)
    again = learn_transferable(seen, tmp_path, others={"c": tuned["c"]}, steps=2, backbone=bench.backbone)
    assert again.as_dict() == made.as_dict()


def test_tasks_that_are_not_similar_are_refused(bench, recipes, tmp_path) -> None:
    a, b = recipes["a"], recipes["b"]
    longer = b.model_copy(update={"method": MethodSection(length=5)})
    trained = b.model_copy(update={"task": b.task.model_copy(update={"head": "classifier"})})
    tuned = b.model_copy(update={"lora": LoraSection(rank=2)})
    for given in ({"a": a}, {"a": a, "b": longer}, {"a": a, "b": trained}, {"a": a, "b": tuned}):
        with pytest.raises(SoftpromptError, match="SP-E717"):
            learn_transferable(given, tmp_path / "x", backbone=bench.backbone)
    with pytest.raises(SoftpromptError, match="SP-E852"):
        learn_transferable({"a": a, "b": b}, tmp_path / "x", others={"again": b}, backbone=bench.backbone)
    assert build(make_plan(encoded(b), bench.backbone), bench.backbone).method.length == 4
