"""Backbones in fewer bits: near the original, with gradients for a prompt, known apart; refused without a library."""

from pathlib import Path

import families
import pytest
import tiny_runs
import torch

from softprompt.artifact import Artifact
from softprompt.backbones import load_backbone, quantize
from softprompt.comparators import check
from softprompt.core import Injection
from softprompt.errors import ArtifactError, BackboneError, RecipeError, Unsupported
from softprompt.plan import make_plan
from softprompt.recipe import make_recipe
from softprompt.training import train

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.save_model(tmp_path_factory.mktemp("quantize"))


LIBRARIES = [("int8", CPU, "torchao"), ("int8", CUDA, "bitsandbytes"), ("int4", CUDA, "bitsandbytes")]


@pytest.mark.parametrize(("how", "device", "library"), LIBRARIES)
def test_without_its_library_nothing_is_quantised(
    monkeypatch: pytest.MonkeyPatch, how: str, device: torch.device, library: str
) -> None:
    monkeypatch.setattr(quantize, "find_spec", lambda name: None)
    with pytest.raises(BackboneError, match=f"SP-E408.*pip install {library}"):
        quantize.check_quantize(how, device)


def test_absence_is_told_before_the_weights_are_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "find_spec", lambda name: None)
    with pytest.raises(BackboneError, match="SP-E408"):
        load_backbone(model / "nowhere", device="cpu", quantize="int8")


@pytest.mark.parametrize("how", ["int4", "int2"])
def test_what_the_cpu_cannot_do_is_refused(model: Path, how: str) -> None:
    with pytest.raises(Unsupported, match="SP-E425"):
        load_backbone(model, device="cpu", quantize=how)
    with pytest.raises(RecipeError, match="SP-E204"):
        make_recipe({"backbone": {"quantize": "int2"}})


def test_layers_of_bitsandbytes_are_near_the_ones_they_stand_for() -> None:
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(64, 32), torch.randn(5, 64)
    for how, width, error in (("int8", torch.int8, 0.02), ("int4", torch.uint8, 0.2)):
        made = quantize.by_bitsandbytes(layer, how, CPU)
        assert made.weight.dtype == width
        assert 0 < (made(x) - layer(x)).abs().max() < error * layer(x).abs().max()


def test_a_family_without_linear_layers_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"SP-E425.*gpt2"):
        quantize.quantize_linear(families.model("gpt2"), "int8", CPU)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_nothing_of_a_quantised_backbone_is_compared_by_training_it(model: Path, kind: str) -> None:
    planned = make_plan(tiny_runs.recipe(model.parent, "backbone.quantize=int8"), load_backbone(model))
    with pytest.raises(RecipeError, match="SP-E267"):
        check(planned, [kind])  # type: ignore[list-item]


def test_rounded_weights_answer_nearly_alike_and_pass_the_gradient_to_a_prompt(model: Path) -> None:
    pytest.importorskip("torchao", reason="quantisation on the CPU is torchao's")
    exact, rounded = load_backbone(model, device="cpu"), load_backbone(model, device="cpu", quantize="int8")
    kinds = {type(module.weight).__name__ for name, module in rounded.model.named_modules() if name.endswith("_proj")}
    assert kinds == {"Int8Tensor"}
    assert type(rounded.model.get_output_embeddings().weight) is torch.nn.Parameter
    batch, grads, answers = families.batch("llama", slots=4), [], []
    for backbone in (exact, rounded):
        torch.manual_seed(0)
        vectors = families.leaf((1, 4, families.H))
        made = families.answer(backbone, batch, Injection(embeds=vectors))
        made.square().sum().backward()  # type: ignore[no-untyped-call]
        answers.append(made.detach().flatten())
        assert vectors.grad is not None
        grads.append(vectors.grad.flatten())
    for exactly, about in (answers, grads):
        assert not torch.equal(exactly, about)
        assert torch.cosine_similarity(exactly, about, dim=0) > 0.99
    assert exact.fingerprint != rounded.fingerprint


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix"])
def test_a_prompt_trained_on_rounded_weights_is_bound_to_them(model: Path, tmp_path: Path, method: str) -> None:
    pytest.importorskip("torchao", reason="quantisation on the CPU is torchao's")
    recipe = tiny_runs.recipe(model.parent, "backbone.quantize=int8", f"method.name={method}", "train.epochs=1")
    result = train(recipe, tmp_path / "run")
    artifact = Artifact.load(result.artifact)
    artifact.bind(load_backbone(model, quantize="int8"))
    with pytest.raises(ArtifactError, match=r"SP-E320.*weights"):
        artifact.bind(load_backbone(model))
