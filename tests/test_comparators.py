"""What a prompt is measured against by training: on the same plan, over a copy, and written beside the prompt."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import families
import pytest
import tiny_runs
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from typer.testing import CliRunner

from softprompt import comparators
from softprompt.backbones import Backbone
from softprompt.cli import app
from softprompt.comparators import Comparator, Kind, fine_tune, learn, make, with_rate
from softprompt.core import TEXT
from softprompt.errors import RecipeError, TrainingError
from softprompt.plan import Plan, make_plan
from softprompt.training import order, train

KINDS: tuple[Kind, ...] = get_args(Kind)
HEADS = ("task.head=classifier", "task.head=verbalizer")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("comparators")


@pytest.fixture(scope="module")
def model(folder: Path) -> Backbone:
    torch.manual_seed(0)
    return tiny_runs.open_model(folder)


def plan(folder: Path, model: Backbone, *settings: str) -> Plan:
    return make_plan(tiny_runs.recipe(folder, "task.head=classifier", *settings), model)


def bits(model: Backbone) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.model.state_dict().items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_comparator_learns_the_task_and_leaves_the_backbone_as_it_was(
    folder: Path, model: Backbone, kind: Kind
) -> None:
    planned, before = plan(folder, model, "train.epochs=8", "task.pool=mean"), bits(model)
    planned = replace(planned, test=planned.train)  # 36 rows are too few to learn more than themselves
    made = fine_tune(planned, model, kind=kind)
    assert bits(model) == before
    assert not any(weight.requires_grad for weight in model.parameters())
    right = sum(answer == example.label for answer, example in zip(made.answers, planned.test, strict=True))
    assert right / len(planned.test) > (0.8 if kind != "head" else 0.6)
    assert made.seconds > 0
    assert made.dev == made.tried[made.lr] == max(made.tried.values())
    assert set(made.tried) == set(comparators.RATES[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_plan_gives_the_same_bits_and_another_seed_another_run(
    folder: Path, model: Backbone, kind: Kind
) -> None:
    planned = plan(folder, model)
    made = [weights(planned, model, kind) for _ in range(2)]
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    once, again = (fine_tune(planned, model, kind=kind, lr=1e-3, seed=3) for _ in range(2))
    assert facts(once) == facts(again)
    other = fine_tune(plan(folder, model, "train.seed=3"), model, kind=kind, lr=1e-3)
    assert facts(once) == facts(other)


def facts(made: Comparator) -> list[Any]:
    return [made.answers, made.dev, made.parameters, made.lr, made.tried]


def weights(planned: Plan, model: Backbone, kind: Kind, rate: float = 1e-3) -> dict[str, torch.Tensor]:
    prompt = make(planned, model, kind)
    return learn(prompt, with_rate(planned, prompt, kind, rate)).best


@pytest.mark.parametrize("head", HEADS)
def test_full_fine_tuning_is_that_of_a_loop_written_out(folder: Path, model: Backbone, head: str) -> None:
    """The library's own forward, AdamW over every weight, and the batches of the plan; the dev score never stops it."""
    settings = [head, "optim.schedule=constant", "optim.warmup=0", "train.steps=3", "train.evaluate_every=3"]
    planned = plan(folder, model, *settings)
    made = make(planned, model, "full")
    given: Any = made.head
    rows = [made.row(example) for example in planned.train]
    assert all(slot == TEXT for row in rows for slot in row.slots)
    own: Any = families.model("llama").requires_grad_(True)
    linear = None if head.endswith("verbalizer") else torch.nn.Linear(families.H, 2)
    groups: list[dict[str, Any]] = [{"params": list(own.parameters())}]
    if linear is not None:
        linear.load_state_dict(given.linear.state_dict())
        groups.append({"params": list(linear.parameters()), "lr": comparators.SHARED_HEAD})
    optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.0)
    for number in range(3):
        optimizer.zero_grad()
        losses = []
        for i in order(len(rows), 8, 0, number):
            ids, target = torch.tensor([rows[i].ids]), torch.tensor([int(rows[i].target or 0)])
            if linear is None:
                words = torch.tensor(given.words)[:, 0]
                place = next(j for j, label in enumerate(rows[i].labels) if label >= 0)
                scores = own(ids).logits[0, place, words][None]
            else:
                scores = linear(own.model(ids).last_hidden_state[:, -1])
            losses.append(F.cross_entropy(scores, target))
        torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    best = learn(made, with_rate(planned, made, "full", 1e-3)).best
    for i, weight in enumerate(own.parameters()):
        torch.testing.assert_close(best[f"method.weights.{i}"], weight.detach(), atol=2e-5, rtol=1e-4)


def test_lora_is_that_of_its_own_library_and_begins_at_the_bare_model(folder: Path, model: Backbone) -> None:
    planned = plan(folder, model)
    made, bare = make(planned, model, "lora"), make(planned, model, "head")
    config = LoraConfig(r=comparators.RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    peers = get_peft_model(families.model("llama"), config)
    assert sum(weight.numel() for weight in made.method.parameters()) == peers.get_nb_trainable_parameters()[0]
    batch = made.batch([made.row(example) for example in planned.train[:4]])
    hidden, expected = made(batch).hidden, bare(batch).hidden
    torch.testing.assert_close(hidden, expected)
    with torch.no_grad():
        list(made.method.parameters())[1].add_(0.1)  # a matrix B
    assert not torch.allclose(made(batch).hidden, expected)


def test_only_numbers_that_the_loss_reaches_are_counted(folder: Path, model: Backbone) -> None:
    head = families.H * 2 + 2
    inside = sum(weight.numel() for weight in model.model.base_model.parameters())
    output = families.V * families.H  # of Llama's own head, which a classifier does not run
    assert sum(weight.numel() for weight in model.model.parameters()) == inside + output
    planned = plan(folder, model, "train.steps=2")
    assert fine_tune(planned, model, kind="full", lr=1e-3).parameters == inside + head
    assert fine_tune(planned, model, kind="head", lr=1e-3).parameters == head
    spoken = plan(folder, model, "train.steps=2", "task.head=verbalizer")
    assert fine_tune(spoken, model, kind="full", lr=1e-3).parameters == inside + output


def test_training_stops_where_dev_says_and_the_best_state_answers(folder: Path, model: Backbone) -> None:
    planned = plan(folder, model, "train.epochs=20", "train.evaluate_every=1", "train.patience=2")
    prompt = make(planned, model, "full")
    run = learn(prompt, with_rate(planned, prompt, "full", 0.1))
    assert run.step < planned.steps
    keys = [tuple(event["key"]) for event in run.history]
    assert len(keys) == keys.index(max(keys)) + 3


@pytest.mark.parametrize("family", ["bert", "t5", "gpt2"])
def test_every_kind_of_text_model_can_be_compared(folder: Path, family: str) -> None:
    other = tiny_runs.open_model(folder, family)
    head = "task.head=verbalizer" if family == "t5" else "task.head=classifier"
    planned = make_plan(tiny_runs.recipe(folder, head, "train.steps=2", model=family), other)
    before = bits(other)
    for kind in ("full", "lora"):
        made = fine_tune(planned, other, kind=kind, lr=1e-3)
        assert set(made.answers) <= {"w5", "w6"}
        assert made.parameters > 1000
    assert bits(other) == before


def test_a_rate_that_leaves_the_numbers_is_passed_over_unless_it_was_asked_for(
    folder: Path, model: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(folder, model)
    monkeypatch.setitem(comparators.RATES, "full", (1e30, 1e-3))
    assert set(fine_tune(planned, model, kind="full").tried) == {1e-3}
    with pytest.raises(TrainingError, match="SP-E520"):
        fine_tune(planned, model, kind="full", lr=1e30)
    monkeypatch.setitem(comparators.RATES, "full", (1e30,))
    with pytest.raises(TrainingError, match="SP-E520"):
        fine_tune(planned, model, kind="full")


def test_a_head_without_parameters_has_no_comparator_of_its_own(folder: Path, model: Backbone) -> None:
    spoken = plan(folder, model, "task.head=verbalizer")
    with pytest.raises(RecipeError, match="SP-E265"):
        fine_tune(spoken, model, kind="head")
    made = tiny_runs.recipe(folder, "task.head=verbalizer", "train.compare=[head]")
    with pytest.raises(RecipeError, match="SP-E265"):
        train(made, folder / "refused", backbone=model)
    assert not (folder / "refused" / "log.jsonl").exists()  # said before the first step


def test_without_the_library_lora_is_refused_before_the_first_step(
    folder: Path, model: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparators, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"SP-E266.*pip install peft"):
        fine_tune(plan(folder, model), model, kind="lora")
    with pytest.raises(RecipeError, match="SP-E266"):
        train(tiny_runs.recipe(folder, "train.compare=[full, lora]"), folder / "no-peft", backbone=model)


def test_one_command_trains_and_reports_them_beside_the_prompt(folder: Path, model: Backbone) -> None:
    recipe = tiny_runs.recipe(folder, "task.head=classifier")
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    for run in ("once", "again"):
        words = ["train", str(folder / "recipe.yaml"), "--compare", "full, head", "--run", str(folder / run)]
        result = CliRunner().invoke(app, [*words, "--set", "train.steps=3"])
        assert result.exit_code == 0, result.output
        assert "full fine-tuning: " in result.stdout
        assert "chosen on dev" in result.stdout
    report = json.loads((folder / "once" / "report.json").read_text())
    assert set(report["comparators"]) == {"full fine-tuning", "head only"} == set(report["seconds_of_comparators"])
    direct = fine_tune(plan(folder, model, "train.steps=3"), model, kind="head")
    assert report["comparators"]["head only"]["parameters"] == direct.parameters
    assert report["comparators"]["head only"]["lr"] == direct.lr
    assert report["comparators"]["head only"]["n"] == 20
    files = [(folder / run / "prompt.safetensors").read_bytes() for run in ("once", "again")]
    assert files[0] == files[1]  # no clock in the artifact


def test_unknown_comparators_are_refused(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"SP-E204.*train.compare"):
        tiny_runs.recipe(folder, "train.compare=[ia3]")
