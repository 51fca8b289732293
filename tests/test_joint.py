"""A LoRA that trains together with a prompt: the gradient is right, the base stays, and two files load again as one."""

import json
import shutil
from pathlib import Path
from typing import Any

import families
import pytest
import speakers
import test_cost
import test_train
import tiny_runs
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F
from typer.testing import CliRunner

from softprompt import canary, checkpoint, joint
from softprompt.artifact import Artifact
from softprompt.backbones import Backbone, load_backbone
from softprompt.cli import app
from softprompt.comparators import fine_tune
from softprompt.core import TEXT
from softprompt.cost import Model
from softprompt.doctor.after import examine_run
from softprompt.doctor.recipe import examine
from softprompt.engine import choose
from softprompt.errors import ArtifactError, RecipeError
from softprompt.frozen import remember
from softprompt.joint import Joint
from softprompt.optim import make_optimizer
from softprompt.plan import Plan, make_plan
from softprompt.prompt import Prompt
from softprompt.recipe import ADAPTER, Recipe, load_recipe, make_recipe
from softprompt.sections import LoraSection
from softprompt.serve.engine import PromptEngine
from softprompt.store import Store
from softprompt.sweep import train_all
from softprompt.training import Result, train

RANK = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("joint")


@pytest.fixture(scope="module")
def model(folder: Path) -> Backbone:
    torch.manual_seed(0)
    return tiny_runs.open_model(folder)


def recipe(folder: Path, *settings: str) -> Recipe:
    return tiny_runs.recipe(folder, f"lora.rank={RANK}", "lora.lr=0.005", *settings)


@pytest.fixture(scope="module")
def trained(folder: Path, model: Backbone) -> tuple[Result, list[dict[str, Any]], bool]:
    """A finished run, its events, and whether the base kept every bit and every module."""
    before, modules = bits(model), [name for name, _ in model.named_modules()]
    events: list[dict[str, Any]] = []
    result = train(recipe(folder, "train.steps=8"), folder / "run", backbone=model, listen=events.append)
    same = bits(model) == before and [name for name, _ in model.named_modules()] == modules
    return result, events, same and not any(weight.requires_grad for weight in model.parameters())


def bits(model: Backbone) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.model.state_dict().items()}


def grafted(family: str, method: str, head: str, **settings: Any) -> tuple[Joint, Plan]:
    """A prompt that does something, over a LoRA that does nothing yet."""
    values = {"lora": {"rank": RANK}, "optim": {"lr": 0.1}, "train": {"batch_size": 8, **settings}}
    shown = speakers.examples(head, family) * 2
    plan = Plan(make_recipe(values), shown, shown, shown, (), {})
    return joint.graft(speakers.prompt(family, method, head), plan), plan


@torch.no_grad()
def stir(made: Joint) -> None:
    """A LoRA that does something."""
    for weight in made.lora:
        weight.normal_(std=0.3)


FAMILIES = [("llama", "lm"), ("bert", "verbalizer"), ("t5", "lm"), ("gpt2", "classifier"), ("vit", "classifier")]


@pytest.mark.parametrize(("family", "head"), FAMILIES)
def test_it_begins_as_the_prompt_alone_to_the_bit_and_then_leaves_it(family: str, head: str) -> None:
    made, plan = grafted(family, "vpt" if family == "vit" else "prompt_tuning", head)
    batch = made.batch([made.row(example) for example in plan.train])
    assert torch.equal(made.loss(batch), made.alone.loss(batch))
    stir(made)
    assert not torch.allclose(made.loss(batch), made.alone.loss(batch), rtol=1e-3)


@pytest.mark.parametrize(("family", "head"), FAMILIES[1:])
def test_merged_it_answers_as_it_did_in_training(family: str, head: str, tmp_path: Path) -> None:
    made, plan = grafted(family, "vpt" if family == "vit" else "prompt_tuning", head)
    stir(made)
    notes: list[Any] = []
    merged = joint.settled(made, tmp_path, notes.append)
    assert notes == []
    batch = made.batch([made.row(example) for example in plan.train])
    torch.testing.assert_close(merged.loss(batch), made.loss(batch), rtol=1e-4, atol=1e-4)


def reference(made: Joint, rows: list[Any]) -> Tensor:
    """The mean loss by the library's own model under the weights W + s B A, row by row, no padding."""
    layers = joint.adapted(made.backbone)
    base: Any = made.alone.backbone.model
    weights: dict[str, Tensor] = dict(base.named_parameters())
    for name, layer in layers.items():
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        weights[f"{name}.weight"] = weights[f"{name}.weight"] + 2.0 * b @ a  # alpha is twice the rank
    prompt, head = next(made.method.parameters()), made.head
    losses = []
    for row in rows:
        ids, slots = torch.tensor(row.ids), torch.tensor(row.slots)
        embeds = torch.where((slots != TEXT)[:, None], prompt[slots.clamp(min=0)], base.get_input_embeddings()(ids))
        logits = functional_call(base, weights, (), {"inputs_embeds": embeds[None], "use_cache": False}).logits
        place = next(j for j, label in enumerate(row.labels) if label >= 0)
        scores = logits[0, place, torch.tensor(head.words)[:, 0]]
        losses.append(F.cross_entropy(scores[None], torch.tensor([int(row.target)])))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("packs", [False, True])
def test_the_gradients_of_both_are_those_of_autograd_over_the_changed_weights(
    folder: Path, model: Backbone, packs: bool
) -> None:
    plan = make_plan(recipe(folder, "task.head=verbalizer"), model)
    made = joint.build(plan, model)
    assert isinstance(made, Joint)
    stir(made)
    rows = [made.row(example) for example in plan.train[:4]]
    weights = list(made.parameters())
    assert {id(weight) for weight in weights} == {id(w) for group in made.groups() for w in group.parameters}
    expected = torch.autograd.grad(reference(made, rows), weights)
    made.packs = packs
    batch = made.batch(rows)
    assert (batch.packing is not None) == packs
    found = torch.autograd.grad(made.loss(batch) / len(rows), weights)
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-3)


def test_the_base_keeps_every_bit_and_the_two_files_load_again_to_the_same_answers(
    folder: Path, model: Backbone, trained: tuple[Result, list[dict[str, Any]], bool]
) -> None:
    result, _, same = trained
    assert same
    artifact = Artifact.load(result.artifact)
    assert {name.partition(".")[0] for name in artifact.tensors} <= {"method", "head"}
    backbone = load_backbone(folder / "llama", adapter=folder / "run" / ADAPTER)
    again = artifact.bind(backbone)
    shown = make_plan(recipe(folder), model).test
    assert again.predict(shown) == result.prompt.predict(shown)  # scores and all, to the bit
    with pytest.raises(ArtifactError, match=r"SP-E320.*weights"):
        artifact.bind(model)
    assert artifact.card.recipe["backbone"]["adapter"] == ADAPTER
    peers = PeftModel.from_pretrained(families.model("llama"), str(folder / "run" / ADAPTER)).eval()
    ids = torch.tensor([[5, 9, 20, 31, 7]])
    with torch.no_grad():
        answer = families.answer(backbone, families.tokens(ids))
        torch.testing.assert_close(answer, peers(ids).logits, atol=1e-4, rtol=1e-3)
        assert not torch.allclose(answer, families.model("llama")(ids).logits, atol=1e-3)


def test_a_report_counts_both_and_compares_with_a_backbone_that_is_not_adapted(
    folder: Path, model: Backbone, trained: tuple[Result, list[dict[str, Any]], bool]
) -> None:
    result, events, _ = trained
    layers = [module for module in model.model.base_model.modules() if isinstance(module, torch.nn.Linear)]
    lora = sum(RANK * (layer.in_features + layer.out_features) for layer in layers)
    made = joint.build(make_plan(recipe(folder), model), model)
    own = sum(weight.numel() for weight in made.alone.parameters())
    assert result.report.parameters == own + lora
    assert any(f"a LoRA of {lora:,} numbers in {len(layers)} layers" in event.get("text", "") for event in events)
    beside = result.report.baselines
    alone = train(tiny_runs.recipe(folder, "train.steps=1"), folder / "alone", backbone=model).report.baselines
    assert {name: beside[name] for name in alone} == alone
    assert "prompt without its LoRA" in beside
    compared = fine_tune(make_plan(recipe(folder, "train.steps=1"), model), model, kind="lora", lr=1e-3)
    assert compared.parameters > 0  # LoRA alone, on the plan of both


@pytest.mark.usefixtures("trained")
def test_a_killed_run_goes_on_to_the_same_bits(folder: Path, model: Backbone, tmp_path: Path) -> None:
    kills = test_train.train_until_killed(recipe(folder, "train.steps=8"), tmp_path / "run", model, [(3, 0.0)])
    assert kills == 1
    for name in ("prompt.safetensors", f"{ADAPTER}/adapter_model.safetensors", f"{ADAPTER}/adapter_config.json"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / "run" / name).read_bytes()
    state, _ = checkpoint.newest(tmp_path / "run" / "states")
    assert state is not None
    moved = [name for name, value in state.tensors.items() if name.startswith("now/lora.") and value.any()]
    assert len(moved) == 2 * 21


def test_each_moves_at_a_rate_of_its_own(folder: Path, model: Backbone) -> None:
    plan = make_plan(recipe(folder, "optim.lr=0.2"), model)
    made = joint.build(plan, model)
    rates = make_optimizer(plan.recipe.optim, made.groups(), made.head)[1]
    assert rates[:2] == pytest.approx([0.2 * made.method.groups()[0].unit, 0.005])


def test_what_the_loss_does_not_reach_is_not_trained_and_not_counted() -> None:
    notes: list[dict[str, Any]] = []
    spoken, plan = grafted("bert", "prompt_tuning", "verbalizer")
    prompt = speakers.prompt("bert", "prompt_tuning", "classifier")  # which does not run what words are read from
    silent = joint.graft(prompt, Plan(plan.recipe, speakers.examples("classifier"), [], [], (), {}), notes.append)
    assert len(silent.lora) == len(spoken.lora) - 2
    assert "the loss does not depend on 1 others" in notes[0]["text"]


@pytest.mark.parametrize(("family", "method", "head"), [("llama", "prompt_tuning", "lm"), ("bert", "prefix", "tagger")])
def test_the_cost_of_both_is_that_of_the_step(family: str, method: str, head: str) -> None:
    made, plan = grafted(family, method, head)
    rows = [made.row(example) for example in plan.train]
    choose(made, rows, "auto", lambda event: None)
    assert made.packs
    model = Model(made, plan, rows)
    bill, work = model.ours(model.batches[0]), test_cost.step(made, model.batches[0])
    assert bill.operations == pytest.approx(test_cost.operations(work), rel=0.1)
    assert bill.kept == pytest.approx(test_cost.kept(work, made.backbone, made), rel=0.25)
    made.alone.packs = True
    before = Model(made.alone, plan, rows)
    assert bill.operations > before.ours(before.batches[0]).operations


def test_states_below_a_prompt_are_not_kept_while_the_lora_moves_them(tmp_path: Path) -> None:
    made, plan = grafted("llama", "prompt_tuning", "lm", steps=9)
    upper = speakers.prompt("llama", "prefix", "lm", options={"layers": "2"})
    prompt = Joint(upper, made.backbone, list(made.lora), 1.0)
    rows = [prompt.row(example) for example in plan.train]
    notes: list[str] = []
    kept = remember(prompt, plan, rows, tmp_path, lambda event: notes.append(event["text"]))
    assert kept is rows
    assert notes == [f"no states are kept: {joint.LASTING}"]
    assert all(row.below is not None for row in remember(upper, plan, rows, tmp_path, lambda event: None))


CLASHES = ("backbone.quantize=int8", "backbone.adapter=somewhere", "train.cache=memory")
TARGETS = ("lora.targets=[nothing]", "lora.targets=[embed_tokens]", "lora.targets=[q_proj, nothing]")
REFUSED = [*(("SP-E831", setting) for setting in CLASHES), *(("SP-E832", setting) for setting in TARGETS)]


@pytest.mark.parametrize(("code", "setting"), REFUSED)
def test_what_cannot_be_trained_together_is_refused_before_the_first_step(
    folder: Path, model: Backbone, tmp_path: Path, code: str, setting: str
) -> None:
    with pytest.raises(RecipeError, match=code):
        train(recipe(folder, setting), tmp_path / "run", backbone=model)
    assert not (tmp_path / "run" / "log.jsonl").exists()


@pytest.mark.usefixtures("trained")
def test_a_backbone_that_has_an_adapter_already_is_refused(folder: Path, tmp_path: Path) -> None:
    adapted = load_backbone(folder / "llama", adapter=folder / "run" / ADAPTER)
    with pytest.raises(RecipeError, match=r"SP-E831.*with an adapter"):
        train(recipe(folder), tmp_path / "run", backbone=adapted)


def test_layers_that_share_their_weights_with_the_words_or_that_no_loss_reaches_are_refused() -> None:
    tied = speakers.prompt("gpt2", backbone=speakers.fresh("gpt2"))
    settings = LoraSection(rank=RANK, targets=("lm_head",))
    with pytest.raises(RecipeError, match=r"SP-E832.*word embeddings"):
        joint.add_lora(joint.twin(tied.backbone), settings)
    silent = speakers.prompt("bert", "prompt_tuning", "classifier")
    own = joint.twin(silent.backbone)
    weights = joint.add_lora(own, LoraSection(rank=RANK, targets=("transform.dense",)))
    plan = Plan(make_recipe({}), speakers.examples("classifier"), [], [], (), {})
    with pytest.raises(RecipeError, match=r"SP-E832.*does not depend"):
        joint.reached(Prompt(own, silent.method, silent.head, silent.template, silent.task), weights, plan)


def test_sweeps_and_commands_that_build_prompts_alone_refuse_it(folder: Path, model: Backbone, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"SP-E830.*softprompt train"):
        train_all({"one": recipe(folder, "train.steps=1")}, tmp_path / "sweep", backbone=model)
    assert not (tmp_path / "sweep").exists()


def test_without_the_library_it_is_refused(
    folder: Path, model: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"SP-E266.*pip install peft"):
        train(recipe(folder), tmp_path / "run", backbone=model)


def test_a_recipe_says_it_and_settings_of_a_lora_that_is_not_there_are_refused(folder: Path, tmp_path: Path) -> None:
    made = recipe(folder, "lora.targets=[q_proj, v_proj]", "lora.alpha=3")
    (tmp_path / "recipe.yaml").write_text(made.to_yaml())
    assert load_recipe(tmp_path / "recipe.yaml") == made
    assert made.under(Path("runs/one")).adapter == f"runs/one/{ADAPTER}"
    assert Recipe().under(Path("runs/one")) == Recipe().backbone
    with pytest.raises(RecipeError, match=r"SP-E204.*lora.rank"):
        tiny_runs.recipe(folder, "lora.lr=0.1")


def test_named_targets_alone_are_changed_by_the_scale_that_was_asked_for(folder: Path, model: Backbone) -> None:
    plan = make_plan(recipe(folder, "lora.targets=[q_proj]", "lora.alpha=3"), model)
    made = joint.build(plan, model)
    layers = joint.adapted(made.backbone)
    assert {name.rpartition(".")[2] for name in layers} == {"q_proj"}
    assert {layer.scaling["default"] for layer in layers.values()} == {1.5}


def test_in_fewer_bits_the_lora_is_trained_in_float32_and_merging_says_that_it_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse = speakers.fresh("llama")
    coarse.model.to(torch.bfloat16)
    _, plan = grafted("llama", "prompt_tuning", "lm")
    made = joint.graft(speakers.prompt("llama", head="lm", backbone=coarse), plan)
    assert {weight.dtype for weight in made.lora} == {torch.float32}
    stir(made)
    monkeypatch.setattr(canary, "COARSE", 1e-3)
    notes: list[str] = []
    merged = joint.settled(made, tmp_path, lambda event: notes.append(event["text"]))
    assert merged.backbone.dtype == torch.bfloat16
    assert "merging the LoRA into torch.bfloat16 weights rounds" in notes[0]


def test_the_commands_find_the_lora_of_a_run(folder: Path, trained: tuple[Result, list[dict[str, Any]], bool]) -> None:
    result, _, _ = trained
    words = ["evaluate", str(result.artifact), str(folder / "test.csv"), "--json"]
    spoken = CliRunner().invoke(app, words)
    assert spoken.exit_code == 0, spoken.output
    assert json.loads(spoken.stdout)["scores"][0]["value"] == result.report.scores[0].value
    (folder / "recipe.yaml").write_text(recipe(folder, "train.steps=1").to_yaml())
    said = CliRunner().invoke(app, ["train", str(folder / "recipe.yaml"), "--run", str(folder / "spoken")])
    assert said.exit_code == 0, said.output
    assert f"{folder / 'spoken' / ADAPTER}: the LoRA" in said.stdout
    priced = CliRunner().invoke(app, ["train", str(folder / "recipe.yaml"), "--dry-run", "--json"])
    logged = [json.loads(line) for line in (folder / "spoken" / "log.jsonl").read_text().splitlines()]
    assert json.loads(priced.stdout)["cost"]["operations"] == logged[0]["operations"]


def test_a_store_keeps_the_prompt_alone_says_so_and_without_its_lora_nothing_answers(
    folder: Path,
    model: Backbone,
    trained: tuple[Result, list[dict[str, Any]], bool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, test = folder / "run", str(folder / "test.csv")
    monkeypatch.setenv("SOFTPROMPT_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, ["store", "publish", str(run), "both"])
    assert f"not in the store: {run / ADAPTER}, the LoRA adapter that the prompt needs" in said.stdout, said.output
    told = CliRunner().invoke(app, ["store", "publish", str(run), "both", "--json"])
    assert json.loads(told.stdout)["adapter"] == str(run / ADAPTER)
    asked = ["evaluate", "both@1", test, "--json", "--no-baselines", "--model", model.name]
    refused = CliRunner().invoke(app, asked).exception
    assert isinstance(refused, RecipeError)
    assert refused.code == "SP-E255"
    assert str(tmp_path / ADAPTER) in refused.do
    with (
        PromptEngine(model) as engine,
        pytest.raises(ArtifactError, match=r"SP-E320.*LoRA adapter 'lora' merged in.*adapter=FOLDER"),
    ):
        engine.add("both", "1", Store().load("both"))
    shutil.copytree(run / ADAPTER, tmp_path / ADAPTER)
    found = CliRunner().invoke(app, asked)
    assert json.loads(found.stdout)["scores"][0]["value"] == trained[0].report.scores[0].value
    weights = load_file(tmp_path / ADAPTER / "adapter_model.safetensors")
    save_file({name: 2 * value for name, value in weights.items()}, tmp_path / ADAPTER / "adapter_model.safetensors")
    other = CliRunner().invoke(app, asked).exception
    assert isinstance(other, ArtifactError)
    assert other.code == "SP-E320"
    assert "'lora' folder that belongs to the prompt" in other.do


def test_the_doctor_reads_a_run_with_a_lora_like_any_other(
    folder: Path, model: Backbone, trained: tuple[Result, list[dict[str, Any]], bool]
) -> None:
    findings = [*examine(recipe(folder, "train.steps=8"), model), *examine_run(folder / "run", model)]
    assert not [finding for finding in findings if "SP-E" in f"{finding}"]
