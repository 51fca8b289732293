"""Images: the model's own processor, the prompt's places after CLS, and files that are no images."""

from pathlib import Path

import pytest
import speakers
import torch
from speakers import P, speaker

from softprompt.core import TEXT, Example
from softprompt.errors import DataError, RecipeError
from softprompt.images import ImageTemplate

Image = pytest.importorskip("PIL.Image")


def template(text: str = "{soft}") -> ImageTemplate:
    return ImageTemplate(text, speaker("vit"), length=P)


def example(path: Path) -> Example:
    return Example({}, "good", path, where=f"{path.name}:1")


def test_pixels_are_those_of_the_models_processor() -> None:
    for path in speakers.pictures():
        row = template().encode(example(path))
        with Image.open(path) as image:
            expected = speakers.processor()(image, return_tensors="pt")["pixel_values"][0]
        assert row.pixels is not None
        assert row.pixels.shape == (3, 16, 16)
        assert torch.equal(row.pixels, expected)


def test_the_prompt_has_its_places_after_cls() -> None:
    row = template().encode(example(speakers.pictures()[0]))
    assert row.slots == [TEXT, 0, 1, 2, 3]
    assert len(row.ids) == 1 + P
    for text in ("", "{soft}"):
        bare = template(text).without_soft().encode(example(speakers.pictures()[0]))
        assert bare.slots == [TEXT]
    assert template("{soft:4}").vectors == P


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_every_mode_of_eight_bits_is_read(tmp_path: Path, mode: str) -> None:
    path = tmp_path / f"image.{'jpg' if mode == 'CMYK' else 'png'}"
    Image.new(mode, (9, 7)).save(path)
    assert template().encode(example(path)).pixels is not None


def test_sixteen_bits_are_refused_because_reading_them_would_clip_to_white(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.new("I;16", (9, 7), 40_000).save(path)
    with pytest.raises(DataError, match=r"SP-E129 deep.png:1.*more than 8 bits"):
        template().encode(example(path))


def whole_png() -> bytes:
    return speakers.pictures()[0].read_bytes()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        b"\x89PNG\r\n\x1a\n",
        whole_png()[:40],
        whole_png()[:33] + b"\x00\x00\x00\x05" + whole_png()[37:],  # a shorter chunk: what follows it is no chunk
        whole_png()[:30] + b"\xff" * 30 + whole_png()[60:],
        b"\xff\xd8\xff" + b"\x00" * 50,
        b"GIF89a" + b"\xff" * 50,
        b"BM" + b"\xff" * 60,
        b"II*\x00" + b"\xff" * 60,
    ],
)
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"SP-E129 broken\.png:1") as caught:
        template().encode(example(path))
    assert "\n" not in str(caught.value)


def test_a_picture_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    path = tmp_path / "bomb.png"
    Image.new("RGB", (9, 7)).save(path)
    with pytest.raises(DataError, match="SP-E129"):
        template().encode(example(path))


def test_an_absent_image_is_refused(tmp_path: Path) -> None:
    for absent in (None, tmp_path / "absent.png", tmp_path):
        with pytest.raises(DataError, match="SP-E129"):
            template().encode(Example({}, "good", absent))


def test_text_around_an_image_is_refused_and_not_ignored() -> None:
    for text in ("{soft}{text}", "a photo of {mask}", "{soft:7}"):
        with pytest.raises(RecipeError, match="SP-E220"):
            template(text)


def test_a_backbone_without_a_processor_is_refused() -> None:
    blind = speakers.fresh("vit")
    blind.tokenizer = None
    with pytest.raises(RecipeError, match="SP-E221"):
        ImageTemplate("", blind, length=P)


def test_the_hash_follows_the_processor() -> None:
    other = speakers.fresh("vit")
    assert ImageTemplate("{soft}", other, length=P).hash == template().hash
    other.tokenizer.image_mean = [0.1, 0.2, 0.3]
    assert ImageTemplate("{soft}", other, length=P).hash != template().hash
    assert template("").hash != template().hash
