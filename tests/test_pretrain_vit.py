"""The script that pretrains a vision transformer: the same images for a seed, no digit, and a folder that loads."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf
from families import SIZES

from softprompt.backbones import load_backbone
from softprompt.example import Example, Raster
from softprompt.images import ImageTemplate

pytest.importorskip("PIL.ImageFont")
from PIL import ImageFont

from scripts.pretrain_vit import draw, train


@pytest.fixture(autouse=True)
def any_font(monkeypatch: pytest.MonkeyPatch) -> None:
    """The font that pillow brings along: matplotlib, whose fonts the script draws, need not be installed."""
    monkeypatch.setattr(draw, "fonts", lambda: ["any"])
    monkeypatch.setattr(draw, "font", lambda name, size: ImageFont.load_default(size))


def test_a_seed_gives_the_same_images_and_another_one_others() -> None:
    one, two, other = (draw.batch(20, random.Random(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one[0], two[0])
    assert np.array_equal(one[1], two[1])
    assert not np.array_equal(one[0], other[0])
    assert one[0].shape == (20, 28, 28, 3)
    assert one[0].dtype == np.uint8


def test_every_class_but_no_digit_is_drawn() -> None:
    images, labels = draw.batch(1200, random.Random(0))
    assert set(labels) == set(range(len(draw.CLASSES)))
    assert not any(name.isdigit() for name in draw.CLASSES)
    assert (images.std((1, 2, 3)) > 3).all()  # no image is empty


def test_the_saved_folder_is_a_backbone_that_sees_what_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "SIZES", SIZES)
    model = train.new_model(0)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    train.fit(model, steps=2, size=4, seed=0)
    assert all(not weight.equal(before[name]) for name, weight in model.named_parameters() if "k_proj.bias" not in name)
    train.save(model, tmp_path, {"steps": 2})
    frozen = load_backbone(tmp_path)
    grey = random.Random(3).randbytes(28 * 28)
    pixels = ImageTemplate("", frozen, length=1).encode(Example({}, None, Raster(28, 28, grey))).pixels
    assert pixels is not None
    expected = torch.frombuffer(bytearray(grey), dtype=torch.uint8).view(28, 28).float() / 127.5 - 1
    torch.testing.assert_close(pixels, expected.expand(3, 28, 28), atol=1e-5, rtol=0)
    saved = tf.ViTForImageClassification.from_pretrained(tmp_path)
    assert [saved.config.id2label[i] for i in range(len(draw.CLASSES))] == draw.CLASSES
