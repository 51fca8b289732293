"""The backbones that come with the package are whole, checked, and really trained."""

import json
import math
import shutil

import pytest
import torch

from softprompt.backbones import embedded, load_backbone
from softprompt.backbones.embedded import NANO, TINY, locate, verify
from softprompt.errors import BackboneError
from softprompt.recipe import Recipe

OWN = {TINY: 24_000_000, NANO: 1_500_000}  # bytes that each may have at most
TEXT = "The government of the United States of America is one of the people, by the people and for the people."


@pytest.fixture(params=list(OWN))
def name(request):
    return request.param


def test_our_backbones_are_as_small_as_promised(name):
    folder = embedded.Path(locate(name))
    assert sum(file.stat().st_size for file in folder.iterdir()) <= OWN[name]


def test_our_backbones_are_loaded_in_float32_with_a_context_of_512(name):
    backbone = load_backbone(name)
    assert backbone.spec.kind == "causal"
    assert backbone.spec.positions == 512
    assert {weight.dtype for weight in backbone.model.parameters()} == {torch.float32}


def test_our_backbones_have_learnt_english(name):
    """A text costs far fewer bits than with the weights at random."""
    backbone = load_backbone(name)
    ids = torch.tensor([backbone.tokenizer(TEXT)["input_ids"]])
    with torch.inference_mode():
        logits = backbone.model(ids).logits[0, :-1]
    nats = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
    assert nats / math.log(2) / len(TEXT.encode()) < 2.6
    assert nats / len(ids[0, 1:]) < 0.7 * math.log(len(backbone.tokenizer))


def test_every_text_survives_the_tokenizer(name):
    tokenizer = load_backbone(name).tokenizer
    for text in ("Plain words.", "  two  spaces\n\nand lines", "Ünïcödé 漢字 🙂", "1234567890", ""):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id


@pytest.mark.parametrize("damage", ["changed", "missing", "no sums", "bad sums"])
def test_a_damaged_backbone_is_refused(tmp_path, damage):
    folder = tmp_path / "nano"
    shutil.copytree(locate(NANO), folder)
    sums = folder / embedded.CHECKSUMS
    match damage:
        case "changed":
            whole = bytearray((folder / "model.safetensors").read_bytes())
            whole[-1] ^= 1
            (folder / "model.safetensors").write_bytes(whole)
        case "missing":
            (folder / "tokenizer.json").unlink()
        case "no sums":
            sums.unlink()
        case "bad sums":
            sums.write_text("{")
    with pytest.raises(BackboneError, match="SP-E423"):
        verify(folder)


def test_the_checksums_cover_everything_that_is_read():
    folder = embedded.Path(locate(NANO))
    covered = set(json.loads((folder / embedded.CHECKSUMS).read_text()))
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= covered


def test_a_recipe_without_a_model_means_our_own():
    assert Recipe().backbone.name == TINY
