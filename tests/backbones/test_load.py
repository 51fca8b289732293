"""Loading from a folder: the right class, every weight present, and one line where that cannot be."""

from pathlib import Path

import pytest
import torch
import transformers as tf
from families import IMAGES, SIZES, WORDS, model
from safetensors.torch import load_file, save_file
from torch import nn

from softprompt.backbones import wrap
from softprompt.backbones.load import family, load_backbone, read_weights
from softprompt.errors import BackboneError, Unsupported


def read(folder: Path) -> nn.Module:
    return read_weights(str(folder), tf.AutoConfig.from_pretrained(folder), None, torch.float32)


@pytest.mark.parametrize("name", ["llama", "bert", "t5", "vit"])
def test_a_saved_model_is_the_same_backbone(name: str, tmp_path: Path) -> None:
    made = model(name)
    made.save_pretrained(tmp_path)
    loaded = read(tmp_path)
    assert type(loaded) is type(made)
    assert wrap(loaded).fingerprint == wrap(made).fingerprint


@pytest.mark.parametrize("made", [tf.ElectraForPreTraining, tf.BertModel, tf.BertForSequenceClassification])
def test_an_encoder_never_gets_a_random_head(made: type[tf.PreTrainedModel], tmp_path: Path) -> None:
    """ELECTRA's discriminator says that it was pre-trained, but not to name words."""
    made(made.config_class(**WORDS)).save_pretrained(tmp_path)
    assert "MaskedLM" not in type(read(tmp_path)).__name__


def test_a_checkpoint_that_lacks_a_weight_is_refused(tmp_path: Path) -> None:
    model("llama").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=r"SP-E405 .*layers\.1\.mlp\.up_proj"):
        read(tmp_path)


def test_of_clip_the_vision_tower_is_loaded(tmp_path: Path) -> None:
    words = SIZES | {"vocab_size": 96, "max_position_embeddings": 64}
    whole = tf.CLIPModel(tf.CLIPConfig(text_config=words, vision_config=IMAGES))
    whole.save_pretrained(tmp_path)
    tf.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16).save_pretrained(tmp_path)
    frozen = load_backbone(tmp_path, device="cpu")
    assert frozen.spec.kind == "vision"
    assert frozen.model.state_dict()["post_layernorm.weight"].equal(whole.vision_model.post_layernorm.weight)


@pytest.mark.parametrize(
    "config",
    [tf.Wav2Vec2Config(), tf.SiglipVisionConfig(), tf.LlavaConfig()],
    ids=lambda c: c.model_type,
)
def test_a_model_of_another_kind_is_refused(config: tf.PretrainedConfig) -> None:
    with pytest.raises(Unsupported, match="SP-E416"):
        family(config)


def test_a_model_that_cannot_be_run_is_refused_in_one_line() -> None:
    broken = model("llama")
    broken.model.layers[0].self_attn = nn.Identity()
    with pytest.raises(Unsupported, match="SP-E416 found model type llama, which cannot be run"):
        wrap(broken)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="SP-E401"):
        load_backbone(tmp_path)


def test_an_unknown_type_or_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="SP-E404"):
        load_backbone(tmp_path, dtype="float12", device="cpu")
    with pytest.raises(BackboneError, match="SP-E403"):
        load_backbone(tmp_path, device="abacus")


@pytest.mark.parametrize("name", ["llama", "bert", "t5", "vit"])
def test_a_model_can_be_wrapped_again(name: str) -> None:
    made = model(name)
    first, second = wrap(made), wrap(made)
    assert first.unsupported == second.unsupported
    assert first.spec == second.spec
