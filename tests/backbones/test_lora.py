"""LoRA of PEFT under a prompt: merged exactly, bound to the prompt, and refused where it does not fit."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import pytest
import tiny_runs
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from typer.testing import CliRunner

from softprompt.artifact import Artifact
from softprompt.backbones import load_backbone, lora
from softprompt.cli import app
from softprompt.comparators import fine_tune
from softprompt.errors import ArtifactError, BackboneError
from softprompt.plan import make_plan
from softprompt.training import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lora")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return tiny_runs.save_model(folder)


def adapter(folder: Path, name: str = "adapter", family: str = "llama", scale: float = 0.3) -> Path:
    """A LoRA by PEFT itself, whose every matrix does something."""
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    made = get_peft_model(families.model(family), config)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.requires_grad:
                weight.normal_(std=scale)
    made.save_pretrained(str(folder / name))
    return folder / name


def test_a_merged_adapter_answers_like_the_library_that_made_it(folder: Path, model: Path) -> None:
    place = adapter(folder)
    backbone = load_backbone(model, adapter=place)
    peers = PeftModel.from_pretrained(families.model("llama"), str(place)).eval()
    ids = torch.tensor([[5, 9, 20, 31, 7]])
    with torch.no_grad():
        bare = families.model("llama")(ids).logits
        expected = peers(ids).logits
        made = families.answer(backbone, families.tokens(ids))
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(made, bare, atol=0.1)
    assert not any(weight.requires_grad for weight in backbone.parameters())
    assert not any("lora" in name for name, _ in backbone.named_modules())


def test_every_adapter_makes_a_backbone_of_its_own(folder: Path, model: Path) -> None:
    one = adapter(folder, "one")
    faint = adapter(folder, "faint", scale=1e-6)  # too small for the weights that a fingerprint samples
    prints = [load_backbone(model, adapter=place).fingerprint for place in (None, one, one, faint)]
    assert prints[1] == prints[2]
    assert len({prints[0], prints[1], prints[3]}) == 3


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix"])
def test_a_prompt_is_trained_on_an_adapted_backbone_and_bound_to_it(folder: Path, model: Path, method: str) -> None:
    place = adapter(folder, f"under-{method}")
    recipe = tiny_runs.recipe(folder, f"backbone.adapter={place}", f"method.name={method}", "train.epochs=1")
    result = train(recipe, folder / f"run-{method}")
    artifact = Artifact.load(result.artifact)
    assert artifact.card.recipe["backbone"]["adapter"] == place.name  # nobody's paths on a card
    again = artifact.bind(load_backbone(model, adapter=place))
    examples = make_plan(recipe, result.prompt.backbone).test
    assert [p.answer for p in again.predict(examples)] == [p.answer for p in result.prompt.predict(examples)]
    for other in (load_backbone(model), load_backbone(model, adapter=adapter(folder, "other", scale=0.2))):
        with pytest.raises(ArtifactError, match=r"SP-E320.*weights"):
            artifact.bind(other)
    if method == "prefix":
        return
    words = ["predict", str(result.artifact), str(recipe.data.test)]
    spoken = CliRunner().invoke(app, [*words, "--json"])  # the run knows its adapter
    assert spoken.exit_code == 0, spoken.output


def test_a_prompt_whose_adapter_is_gone_says_which_folder_it_wants(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = adapter(folder, "gone")
    made = tiny_runs.recipe(folder, f"backbone.adapter={place}", "train.steps=1")
    sent = shutil.copy(train(made, tmp_path / "run").artifact, tmp_path)  # a card keeps nobody's paths
    monkeypatch.chdir(tmp_path)
    words = ["predict", str(sent), str(made.data.test), "--model", str(made.backbone.name)]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code != 0
    assert re.search(
        rf"SP-E255 .*'gone'.*copy it .* to {re.escape(str(tmp_path / 'gone'))}",
        " ".join(str(refused.exception).split()),
    )
    shutil.copytree(place, tmp_path / "gone")
    assert CliRunner().invoke(app, words).exit_code == 0


def test_lora_then_prompt_by_our_own_hands(folder: Path, model: Path) -> None:
    """The two-step recipe of the documentation: train LoRA, save it, train a prompt on top."""
    backbone = load_backbone(model)
    planned = make_plan(tiny_runs.recipe(folder, "task.head=verbalizer", "train.epochs=4"), backbone)
    made = fine_tune(planned, backbone, kind="lora", lr=5e-3, save=folder / "own")
    adapted = load_backbone(model, adapter=folder / "own")
    recipe = tiny_runs.recipe(folder, "task.head=verbalizer", f"backbone.adapter={folder / 'own'}", "train.steps=1")
    result = train(recipe, folder / "on-own", backbone=adapted)
    assert result.report.baselines["zero-shot"].value == score(made.answers, planned.test)  # LoRA alone, as it was left
    PeftModel.from_pretrained(families.model("llama"), str(folder / "own"))


def score(answers: list[Any], examples: list[Any]) -> float:
    return sum(bool(answer == example.label) for answer, example in zip(answers, examples, strict=True)) / len(answers)


def pickled(place: Path) -> None:
    (place / "adapter_model.safetensors").rename(place / "adapter_model.bin")


def a_prompt(place: Path) -> None:
    config = PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    get_peft_model(families.model("llama"), config).save_pretrained(str(place))


def one_layer_less(place: Path) -> None:
    config = json.loads((place / "adapter_config.json").read_text())
    (place / "adapter_config.json").write_text(json.dumps(config | {"layers_to_transform": [0, 1]}))


def no_json(place: Path) -> None:
    (place / "adapter_config.json").write_text("{")


@pytest.mark.parametrize("spoil", [pickled, a_prompt, one_layer_less, no_json])
def test_what_does_not_fit_is_refused(folder: Path, model: Path, spoil: Callable[[Path], None]) -> None:
    place = adapter(folder, spoil.__name__)
    spoil(place)
    with pytest.raises(BackboneError, match="SP-E409"):
        load_backbone(model, adapter=place)


def test_an_adapter_of_another_model_is_refused(folder: Path, model: Path) -> None:
    with pytest.raises(BackboneError, match="SP-E409"):
        load_backbone(model, adapter=adapter(folder, "gpt2", "gpt2"))
    with pytest.raises(BackboneError, match="SP-E409"):
        load_backbone(model, adapter=folder / "nowhere")


def test_without_the_library_an_adapter_is_refused(folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = adapter(folder, "alone")
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(BackboneError, match=r"SP-E408.*pip install peft"):
        load_backbone(model, adapter=place)
