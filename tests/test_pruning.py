"""Pruning: the importance is the paper's, what is pruned is gone, the rest is rewound, and dev alone decides."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
from torch import Tensor

from softprompt import pruning
from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.core import Example, Injection
from softprompt.errors import RecipeError, TrainingError
from softprompt.plan import make_plan
from softprompt.prompt import Prompt
from softprompt.pruning import Pruned, importance, narrowed, prune, shorter, strongest
from softprompt.recipe import load_recipe
from softprompt.run import Event
from softprompt.stages import left, stage
from softprompt.training import resume, train
from softprompt.untrained import build

P, PIECES, RATIOS = 6, 4, (0.34, 0.5)
SHORT = (f"method.length={P}", "train.epochs=1", "optim.weight_decay=0.1", "train.patience=1")


class Killed(BaseException):
    """Ends a run at once, without a word."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pruning")


@pytest.fixture(scope="module")
def model(folder: Path) -> Backbone:
    return tiny_runs.open_model(folder)


@pytest.fixture(scope="module")
def run(folder: Path, model: Backbone) -> Path:
    """A finished run, which no test changes; the prompt stands on both sides of the text."""
    recipe = tiny_runs.recipe(folder, *SHORT, "task.template={soft:2}{text}{soft:4} {mask}")
    train(recipe, folder / "run", backbone=model)
    return folder / "run"


@pytest.fixture(scope="module")
def pruned(run: Path, folder: Path, model: Backbone) -> Pruned:
    """Everything tried; the run itself is not on the list of what is compared below."""
    return prune(run, ratios=RATIOS, pieces=PIECES, folder=folder / "whole", backbone=model)


def stages(place: Path) -> Iterator[Path]:
    return (path.parent for path in sorted(place.glob("*/recipe.yaml")))


def vectors(path: Path) -> Tensor:
    return Artifact.load(path).tensors["method.prompt"]


def by_hand(prompt: Prompt, examples: list[Example], pieces: int) -> tuple[Tensor, Tensor]:
    """One example, one mask and one backward pass at a time; beside it, what the gradient of all at once would say."""
    p = prompt.method.state_dict()["prompt"]
    single, together = [], torch.zeros(len(p), pieces)
    for example in examples:
        mask = torch.ones(len(p), pieces, requires_grad=True)
        batch = prompt.batch([prompt.row(example)])
        embeds = (p.view(len(p), pieces, -1) * mask[..., None]).reshape(1, *p.shape)
        prompt.head.loss(prompt.answer(batch, Injection(embeds=embeds)), batch).backward()
        single.append(mask.grad.abs())
        together += mask.grad
    return torch.stack(single).mean(0).double(), together.abs().double() / len(examples)


@pytest.mark.parametrize(
    ("name", "head"), [("llama", "verbalizer"), ("bert", "classifier"), ("t5", "verbalizer"), ("llama", "classifier")]
)
@pytest.mark.parametrize("pieces", [1, PIECES])
def test_importance_is_the_mean_of_absolute_gradients_of_a_mask(
    tmp_path: Path, name: str, head: str, pieces: int
) -> None:
    frozen = tiny_runs.open_model(tmp_path, name)
    plan = make_plan(tiny_runs.recipe(tmp_path, f"task.head={head}", model=name), frozen)
    prompt = build(plan, frozen).eval()
    wanted, cancelled = by_hand(prompt, plan.train, pieces)
    torch.testing.assert_close(importance(prompt, plan.train, pieces, 7), wanted, atol=1e-6, rtol=1e-3)
    assert (cancelled < 0.9 * wanted).any(), "nothing cancels, so this test could not tell the two apart"


def test_what_is_pruned_are_the_lowest_scores_and_never_all() -> None:
    scores = torch.tensor([[0.3, 0.1], [0.4, 0.2]])
    assert strongest(scores, 0.5).tolist() == [[True, False], [True, False]]
    assert strongest(scores, 0.25).tolist() == [[True, False], [True, True]]
    assert strongest(scores, 0.99).tolist() == [[False, False], [True, False]]
    assert strongest(torch.ones(4, 1), 0.5).tolist() == [[True], [True], [False], [False]]


def test_a_level_takes_from_what_the_last_one_left() -> None:
    mask = torch.tensor([[True, True], [False, False], [True, True]])
    assert narrowed(mask, torch.tensor([[True], [False]])).tolist() == [[True, True], [False, False], [False, False]]
    pieces = narrowed(mask, torch.tensor([[True, False], [False, True]]))
    assert pieces.tolist() == [[True, False], [False, False], [False, True]]


@pytest.mark.parametrize(
    ("template", "keep", "wanted"),
    [
        ("{soft}{text}", "1011", "{soft:3}{text}"),
        ("{soft:1}{text}{soft:3} {{x}} {mask}", "0101", "{text}{soft:2} {{x}} {mask}"),
        ("{a}{soft:2}, {soft:2}", "1001", "{a}{soft:1}, {soft:1}"),
        ("{soft}", "1001", "{soft:2}"),
    ],
)
def test_a_template_loses_the_slots_of_the_vectors_that_are_gone(template: str, keep: str, wanted: str) -> None:
    assert shorter(template, [digit == "1" for digit in keep]) == wanted


def test_pruned_vectors_are_gone_and_pruned_pieces_are_zero(pruned: Pruned, model: Backbone) -> None:
    assert {candidate.level for candidate in pruned.candidates} == {"whole", "tokens", "pieces"}
    for candidate in pruned.candidates[1:]:
        artifact = Artifact.load(candidate.left.artifact)
        prompt = artifact.bind(model)
        kept = candidate.mask[candidate.mask.any(1)]
        assert artifact.card.method.trained_as == "xprompt"
        assert len(artifact.tensors["method.prompt"]) == prompt.method.length == candidate.vectors == len(kept)
        assert sum(slot >= 0 for slot in prompt.row(Example({"text": "w10"}), labelled=False).slots) == len(kept)
        made = artifact.tensors["method.prompt"].view(len(kept), PIECES, -1)
        assert made.any(2).equal(kept)
    assert [c.vectors for c in pruned.candidates if c.level == "tokens"] == [4, 3]


def test_what_is_left_is_rewound_to_the_bits_of_the_run(pruned: Pruned, run: Path, model: Backbone) -> None:
    trained = vectors(run / "prompt.safetensors")
    for candidate in pruned.candidates[1:]:
        stage_folder = candidate.left.folder
        wanted = (trained.view(P, PIECES, -1) * candidate.mask[..., None]).view(P, -1)[candidate.mask.any(1)]
        assert vectors(stage_folder / "start.safetensors").equal(wanted)
        recipe = load_recipe(stage_folder / "recipe.yaml")
        begun = build(make_plan(recipe, model), model)
        assert begun.state_dict()["method.prompt"].equal(wanted)
        assert not vectors(candidate.left.artifact).equal(wanted), "it was not trained again"
        before = load_recipe(run / "recipe.yaml")
        assert (recipe.optim, recipe.train, recipe.data) == (before.optim, before.train, before.data)


def test_masks_are_those_of_the_scores_of_what_was_left_before(pruned: Pruned, run: Path, model: Backbone) -> None:
    prompt, plan = (
        Artifact.load(run / "prompt.safetensors").bind(model),
        make_plan(load_recipe(run / "recipe.yaml"), model),
    )
    order = by_hand(prompt, plan.train, 1)[0][:, 0].argsort(descending=True)
    for candidate in pruned.candidates:
        if candidate.level == "tokens":
            assert set(candidate.mask.any(1).nonzero()[:, 0].tolist()) == set(order[: candidate.vectors].tolist())


def test_the_best_on_dev_is_chosen_and_every_candidate_is_reported(pruned: Pruned) -> None:
    keys = [tuple(candidate.left.best["key"]) for candidate in pruned.candidates]
    assert tuple(pruned.chosen.left.best["key"]) == max(keys)
    report = json.loads((pruned.artifact.parent / "report.json").read_text())
    assert [one["dev"] for one in report["candidates"]] == [candidate.left.dev for candidate in pruned.candidates]
    assert [one["chosen"] for one in report["candidates"]].count(True) == 1
    assert report["scores"][0]["n"] == 20
    assert report["baselines"].keys() >= {"majority", "untrained prompt"}
    assert vectors(pruned.artifact).equal(vectors(pruned.chosen.left.artifact))
    assert Artifact.load(pruned.artifact).card.report["scores"] == report["scores"]


def test_of_equals_the_smallest_is_chosen(pruned: Pruned) -> None:
    class Same:
        best = {"key": [1.0]}  # noqa: RUF012

    equal = [pruning.Candidate(c.level, c.ratio, c.mask, Same()) for c in pruned.candidates]  # type: ignore[arg-type]
    assert pruning.best(equal).mask.sum() == min(candidate.mask.sum() for candidate in equal)


def test_no_test_example_is_read_before_the_choice(
    run: Path, tmp_path: Path, model: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    encode, conclude = Prompt.row, pruning.conclude
    tested = {example.fields["text"] for example in make_plan(load_recipe(run / "recipe.yaml"), model).test}

    def row(self: Prompt, example: Example, **more: Any) -> Any:
        seen.append(example.fields["text"])
        return encode(self, example, **more)

    def checked(*arguments: Any, **more: Any) -> Any:
        assert seen
        assert not tested & set(seen)
        seen.clear()
        return conclude(*arguments, **more)

    monkeypatch.setattr(Prompt, "row", row)
    monkeypatch.setattr(pruning, "conclude", checked)
    prune(run, ratios=(0.5,), pieces=PIECES, folder=tmp_path / "pruned", backbone=model)
    assert tested <= set(seen), "the choice was never tested"


@pytest.mark.parametrize("moment", [1, 6, 14])  # of 16 steps: four candidates of four steps
def test_a_killed_sequence_that_is_called_again_ends_with_the_same_bits(
    pruned: Pruned, run: Path, tmp_path: Path, model: Backbone, moment: int
) -> None:
    steps = 0

    def kill(event: Event) -> None:
        nonlocal steps
        steps += event["event"] == "step"
        if steps == moment:
            raise Killed

    settings: dict[str, Any] = {"ratios": RATIOS, "pieces": PIECES, "folder": tmp_path / "pruned", "backbone": model}
    with pytest.raises(Killed):
        prune(run, **settings, listen=kill)
    again = prune(run, **settings)
    whole = pruned.artifact.parent
    assert [place.name for place in stages(again.artifact.parent)] == [place.name for place in stages(whole)]
    for place in [whole, *stages(whole)]:
        other = again.artifact.parent / place.relative_to(whole)
        assert (other / "prompt.safetensors").read_bytes() == (place / "prompt.safetensors").read_bytes()
    assert again.report.scores == pruned.report.scores


def test_a_sequence_that_is_done_is_read_and_more_ratios_are_added(
    pruned: Pruned, run: Path, tmp_path: Path, model: Backbone
) -> None:
    place, trained = tmp_path / "pruned", []
    shutil.copytree(pruned.artifact.parent, place)
    settings: dict[str, Any] = {"pieces": PIECES, "folder": place, "backbone": model}
    listen = lambda event: trained.append(event["plan"].recipe.method.length) if event["event"] == "plan" else None  # noqa: E731
    same = prune(run, ratios=RATIOS, **settings, listen=listen)
    assert not trained
    assert [c.left.history for c in same.candidates] == [c.left.history for c in pruned.candidates]
    more = prune(run, ratios=(*RATIOS, 0.85), **settings, listen=listen)
    assert trained[0] == 1
    assert 2 <= len(more.candidates) - len(same.candidates) <= 2 + len(RATIOS)


def test_a_stage_is_a_run_that_resume_knows(pruned: Pruned, tmp_path: Path, model: Backbone) -> None:
    place = tmp_path / "stage"
    shutil.copytree(pruned.candidates[1].left.folder, place)
    before = vectors(place / "prompt.safetensors")
    (place / "prompt.safetensors").unlink()
    assert vectors(resume(place, backbone=model).artifact).equal(before)


def test_what_cannot_be_pruned_is_refused(run: Path, folder: Path, tmp_path: Path, model: Backbone) -> None:
    for ratios in ((0.0,), (1.0,), (float("nan"),), ()):
        with pytest.raises(RecipeError, match="SP-E204"):
            prune(run, ratios=ratios, folder=tmp_path / "x", backbone=model)
    with pytest.raises(RecipeError, match=r"SP-E204 .*pieces = 5"):
        prune(run, pieces=5, folder=tmp_path / "x", backbone=model)
    with pytest.raises(TrainingError, match="SP-E511"):
        prune(tmp_path, backbone=model)
    train(tiny_runs.recipe(folder, *SHORT, "method.name=prefix"), tmp_path / "prefix", backbone=model)
    with pytest.raises(RecipeError, match=r"SP-E231 .*a prompt of plain vectors"):
        prune(tmp_path / "prefix", backbone=model)


def test_a_run_that_has_not_ended_or_has_changed_is_refused(run: Path, tmp_path: Path, model: Backbone) -> None:
    shutil.copytree(run, tmp_path / "half")
    (tmp_path / "half" / "prompt.safetensors").unlink()
    with pytest.raises(TrainingError, match=r"SP-E513 .*softprompt resume"):
        prune(tmp_path / "half", backbone=model)
    shutil.copytree(run, tmp_path / "other")
    path = tmp_path / "other" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data": {"train": "0"}}))
    with pytest.raises(TrainingError, match=r"SP-E512 .*another data"):
        prune(tmp_path / "other", backbone=model)


def test_a_folder_of_another_stage_is_refused(pruned: Pruned, tmp_path: Path, model: Backbone) -> None:
    place = tmp_path / "stage"
    shutil.copytree(pruned.candidates[1].left.folder, place)
    recipe = load_recipe(place / "recipe.yaml")
    assert stage(recipe, place, backbone=model) == left(place)
    other = recipe.model_copy(update={"train": recipe.train.model_copy(update={"seed": 5})})
    with pytest.raises(TrainingError, match=r"SP-E514 .*another recipe"):
        stage(other, place, backbone=model)
    shutil.copy(pruned.candidates[2].left.folder / "start.safetensors", recipe.init.source or "")
    method = recipe.method.model_copy(update={"length": pruned.candidates[2].vectors})
    with pytest.raises(TrainingError, match=r"SP-E514 .*another start"):
        stage(recipe.model_copy(update={"method": method}), place, backbone=model)
