"""Visual prompt tuning equals a ViT run by hand, with prompt tokens inserted and, where deep, replaced."""

from pathlib import Path
from typing import Any

import pytest
import speakers
import torch
import transformers as tf
from families import HEADS, IMAGES, H, L, P, answer, backbone, batch, model, start
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from softprompt.artifact import Artifact
from softprompt.backbones import load_backbone
from softprompt.core import Injection, Start
from softprompt.errors import RecipeError, Unsupported
from softprompt.heads import Classifier
from softprompt.methods import find
from softprompt.methods.vpt import VisualPromptTuning
from softprompt.plan import Plan
from softprompt.prompt import Prompt
from softprompt.recipe import make_recipe
from softprompt.untrained import build


def built(**options: Any) -> VisualPromptTuning:
    torch.manual_seed(0)
    return VisualPromptTuning(backbone("vit").spec, start(backbone("vit")), **options)


def layer_by_hand(layer: nn.Module, x: Tensor) -> Tensor:
    """A pre-norm transformer layer over [B, T, H], from its weights alone."""
    weights = dict(layer.named_parameters())

    def linear(name: str, value: Tensor) -> Tensor:
        return F.linear(value, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name: str, value: Tensor) -> Tensor:
        return F.layer_norm(value, (H,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-12)

    def heads(value: Tensor) -> Tensor:
        return value.unflatten(-1, (HEADS, H // HEADS)).transpose(1, 2)

    seen = norm("layernorm_before", x)
    query, key, value = (heads(linear(f"attention.{part}_proj", seen)) for part in "qkv")
    shares = (query @ key.transpose(-1, -2) / (H // HEADS) ** 0.5).softmax(-1)
    x = x + linear("attention.o_proj", (shares @ value).transpose(1, 2).flatten(2))
    return x + linear("mlp.fc2", F.gelu(linear("mlp.fc1", norm("layernorm_after", x))))


def by_hand(method: VisualPromptTuning, pixels: Tensor) -> Tensor:
    """CLS and patches [B, 1 + N, H] after the last norm; equations 4 to 6 of the paper, for all tokens."""
    bare = model("vit")
    x = bare.embeddings(pixels)
    layers = next(m for m in bare.modules() if isinstance(m, nn.ModuleList) and len(m) == L)
    prompts = method.prompts.expand(L, P, H)
    for i, layer in enumerate(layers):
        tail = x[:, 1:] if i == 0 else x[:, 1 + P :]
        kept = prompts[i].expand(len(x), -1, -1) if i == 0 or method.deep else x[:, 1 : 1 + P]
        x = layer_by_hand(layer, torch.cat([x[:, :1], kept, tail], 1))
    x = F.layer_norm(x, (H,), bare.layernorm.weight, bare.layernorm.bias, 1e-12)
    return torch.cat([x[:, :1], x[:, 1 + P :]], 1)


@pytest.mark.parametrize("deep", [True, False])
def test_states_and_gradients_equal_layers_run_by_hand(deep: bool) -> None:
    method, data = built(deep=deep), batch("vit")
    made = answer(backbone("vit"), data, method(data, torch.zeros(0)))
    ours = made if deep else torch.cat([made[:, :1], made[:, 1 + P :]], 1)
    assert data.pixels is not None
    theirs = by_hand(method, data.pixels)
    assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad(x[:, 0].square().mean(), method.prompts)[0] for x in (ours, theirs)]
    assert gradients[0].abs().sum() > 0
    assert_close(*gradients, atol=1e-6, rtol=1e-4)


def test_deep_and_shallow_differ_although_they_begin_with_the_same_vectors() -> None:
    data = batch("vit")
    deep, shallow = (built(deep=deep) for deep in (True, False))
    assert deep.prompts[0].equal(shallow.prompts[0])
    states = [answer(backbone("vit"), data, m(data, torch.zeros(0)))[:, 0] for m in (deep, shallow)]
    assert not torch.allclose(states[0], states[1], atol=1e-3)


@pytest.mark.parametrize(("deep", "layers"), [(True, L), (False, 1)])
def test_it_has_as_many_parameters_as_the_paper_says(deep: bool, layers: int) -> None:
    """P x H at the input, L x P x H where deep; the linear head is counted apart."""
    assert sum(parameter.numel() for parameter in built(deep=deep).parameters()) == layers * P * H


def test_every_layer_begins_uniform_within_the_bound_of_the_first() -> None:
    bound = 0.3
    vectors = (torch.rand(400, H) * 2 - 1) * bound
    method = VisualPromptTuning(backbone("vit").spec, Start(vectors))
    assert method.prompts[0].equal(vectors)
    for later in method.prompts[1:]:
        assert bound * 0.95 < later.abs().max() < bound * 1.05
        assert abs(later.mean()) < bound * 0.05
        assert_close(later.square().mean().sqrt().item(), bound / 3**0.5, atol=0, rtol=0.05)
    assert not method.prompts[1].equal(method.prompts[2])


@pytest.mark.parametrize("deep", [True, False])
def test_dropout_acts_in_training_only(deep: bool) -> None:
    method = built(deep=deep, dropout=0.5)

    def vectors(given: Injection) -> Tensor:
        made = given.deep if given.embeds is None else (given.embeds,)
        assert made is not None
        return torch.cat(made)

    data = batch("vit")
    assert (vectors(method.train()(data, torch.zeros(0))) == 0).any()
    assert vectors(method.eval()(data, torch.zeros(0))).equal(method.prompts)


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
@pytest.mark.parametrize("deep", [True, False])
def test_text_is_refused_and_not_ignored(family: str, deep: bool) -> None:
    with pytest.raises(Unsupported, match="SP-E410"):
        VisualPromptTuning(backbone(family).spec, start(backbone(family)), deep=deep)


@pytest.mark.parametrize("deep", [True, False])
def test_a_run_records_no_keys_for_it_so_it_may_be_longer_than_its_images(
    deep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four images have 64 patches between them."""
    frozen, length = speakers.speaker("vit"), 100
    monkeypatch.setattr(frozen, "record", None)
    settings = {"method": {"name": "vpt", "length": length, "options": {"deep": deep}}, "init": {"kind": "random"}}
    task = {"kind": "classification", "head": "classifier", "template": "" if deep else "{soft}"}
    recipe = make_recipe(settings | {"task": task})
    made = build(Plan(recipe, speakers.examples("classifier", "vit"), [], [], ("bad", "good"), {}), frozen)
    assert made.method.length == length


def whole(deep: bool) -> Prompt:
    return speakers.prompt(
        "vit", "vpt", "classifier", options={"deep": deep}, task={"template": "" if deep else "{soft}"}
    )


@pytest.mark.parametrize("deep", [True, False])
def test_a_saved_prompt_answers_with_the_same_bits(tmp_path: Path, deep: bool) -> None:
    prompt = whole(deep)
    examples = speakers.examples("classifier", "vit")
    Artifact.of(prompt, {}, {}).save(tmp_path / "p.safetensors")
    again = Artifact.load(tmp_path / "p.safetensors").bind(speakers.speaker("vit"))
    assert again.predict(examples) == prompt.predict(examples)
    assert again.method.options() == {"deep": deep, "dropout": 0.0}


@pytest.mark.parametrize("deep", [True, False])
def test_a_head_that_reads_the_mean_reads_no_prompt_vector(deep: bool) -> None:
    prompt = whole(deep)
    data = prompt.batch([prompt.row(example) for example in speakers.examples("classifier", "vit")])
    output, first = prompt(data), 1 if deep else 1 + speakers.P
    assert output.hidden is not None
    assert output.hidden.shape[1] == first + 16
    mean = torch.cat([output.hidden[:, :1], output.hidden[:, first:]], 1).mean(1)
    assert isinstance(prompt.head, Classifier)
    assert_close(prompt.head.scores(output, data), prompt.head.linear(mean).log_softmax(-1))


def test_a_checkpoint_with_a_classifier_in_place_of_a_pooler_is_the_same_at_every_load(tmp_path: Path) -> None:
    tf.ViTForImageClassification(tf.ViTConfig(**IMAGES)).save_pretrained(tmp_path)
    speakers.processor().save_pretrained(tmp_path)
    one, two = load_backbone(tmp_path), load_backbone(tmp_path)
    assert one.fingerprint == two.fingerprint
    data = batch("vit")
    assert answer(one, data).equal(answer(two, data))


def test_slots_that_do_not_fit_the_depth_are_refused() -> None:
    with pytest.raises(RecipeError, match="SP-E220"):
        speakers.prompt("vit", "vpt", "classifier", task={"template": "{soft}"})
    with pytest.raises(RecipeError, match="SP-E220"):
        speakers.prompt("vit", "vpt", "classifier", options={"deep": False}, task={"template": ""})


def test_the_method_is_found_by_its_name() -> None:
    assert find("vpt") is VisualPromptTuning
