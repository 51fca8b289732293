"""Images and labels in MNIST's idx format become examples; damaged files are refused in one line."""

import gzip
import struct
from pathlib import Path

import pytest
import speakers
import torch

from softprompt.data import check, idx, leakage, read, read_inputs
from softprompt.errors import DataError
from softprompt.example import Raster
from softprompt.images import ImageTemplate

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "mnist_t10k"
LABELS = [7, 2, 1, 0, 7, 2]
SIDE = (5, 4)  # height and width differ, so that mixing them up shows
PIXELS = [bytes((i * 20 + k) % 256 for k in range(20)) for i in range(len(LABELS))]


def images(count: int = len(LABELS), pixels: bytes = b"".join(PIXELS), start: bytes = b"\x00\x00\x08\x03") -> bytes:
    return start + struct.pack(">III", count, *SIDE) + pixels


def labels(count: int = len(LABELS), values: bytes = bytes(LABELS), start: bytes = b"\x00\x00\x08\x01") -> bytes:
    return start + struct.pack(">I", count) + values


def store(folder: Path, *, data: bytes | None = None, names: bytes | None = None, packed: str = "") -> Path:
    """A pair of files; those whose name is in `packed` are gzip data. Returns the images."""
    folder.mkdir(exist_ok=True)
    for name, content in (("images-idx3", data or images()), ("labels-idx1", names or labels())):
        zipped = name[:6] in packed
        path = folder / f"train-{name}-ubyte{'.gz' if zipped else ''}"
        path.write_bytes(gzip.compress(content) if zipped else content)
    return next(folder.glob("*idx3*"))


def rasters(path: Path) -> list[tuple[int, int, bytes]]:
    found = [example.image for example in read(path).examples]
    assert all(isinstance(image, Raster) for image in found)
    return [(image.width, image.height, image.pixels) for image in found]


@pytest.mark.parametrize("packed", ["", "images", "labels", "images and labels"])
def test_images_get_the_labels_of_the_file_beside_them(tmp_path: Path, packed: str) -> None:
    path = store(tmp_path, packed=packed)
    data = read(path)
    assert [example.label for example in data.examples] == [str(label) for label in LABELS]
    assert (data.kind, data.labels) == ("classification", ("0", "1", "2", "7"))
    assert data.columns.image == "image"
    assert data.columns.text == ()
    assert [example.where for example in data.examples] == [f"{path}:{i}" for i in range(1, 7)]
    assert rasters(path) == [(4, 5, pixels) for pixels in PIXELS]
    assert any("labels-idx1-ubyte" in note for note in data.notes)


def test_the_hash_covers_both_files(tmp_path: Path) -> None:
    one = read(store(tmp_path / "a")).sha256
    assert one == read(store(tmp_path / "b")).sha256
    assert one != read(store(tmp_path / "c", names=labels(values=bytes([7, 2, 1, 0, 7, 1])))).sha256
    assert one != read(store(tmp_path / "d", data=images(pixels=b"".join(PIXELS[::-1])))).sha256


def test_without_labels_images_can_be_predicted_on(tmp_path: Path) -> None:
    path = store(tmp_path)
    next(tmp_path.glob("*idx1*")).unlink()
    data = read_inputs(path)
    assert len(data) == 6
    assert all(example.label is None for example in data.examples)
    with pytest.raises(DataError, match=r"SP-E101 .*images without labels.*train-labels-idx1-ubyte"):
        read(path)


def test_a_folder_is_no_idx_file_whatever_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "train-images-idx3-ubyte"
    folder.mkdir()
    with pytest.raises(DataError, match="SP-E103"):
        read(folder)


def test_another_name_is_read_where_the_format_is_given(tmp_path: Path) -> None:
    path = store(tmp_path)
    other, (beside,) = path.with_name("my-images"), tmp_path.glob("*idx1*")
    path.rename(other)
    beside.rename(tmp_path / "my-labels")
    assert len(read(other, format="idx")) == 6


CUT = images()[:-1]
DAMAGED = {
    "nothing but a beginning": (images()[:9], "begins with 00 00 08 03"),
    "text": (b"no idx file at all", "begins with 6e 6f 20 69"),
    "floats": (images(start=b"\x00\x00\x0d\x03"), "begins with 00 00 0d 03"),
    "labels in place of images": (labels() + bytes(20), "begins with 00 00 08 01"),
    "a pixel too few": (CUT, "119 values, where the header says 6 x 5 x 4"),
    "a pixel too many": (images() + b"\x00", "121 values"),
    "an endless promise": (images(count=2**32 - 1), "4294967295 x 5 x 4"),
    "gzip cut off": (gzip.compress(images())[:-12], "gzip data that"),
    "gzip with a wrong byte": (gzip.compress(images())[:12] + b"\xff\xff\xff" + gzip.compress(images())[15:], "gzip"),
    "gzip of a file cut off": (gzip.compress(CUT), "119 values"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_images_are_refused_in_one_line(tmp_path: Path, what: str) -> None:
    data, found = DAMAGED[what]
    path = store(tmp_path, data=data)
    with pytest.raises(DataError, match=f"SP-E117 {path}: .*{found}") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert [problem.code for problem in check(path).problems] == ["SP-E117"]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (labels(count=5, values=bytes(LABELS[:5])), "5 labels for 6 images"),
        (labels(values=bytes(LABELS[:5])), "5 values, where the header says 6"),
        (images(), "begins with 00 00 08 03"),
    ],
)
def test_labels_that_do_not_pair_up_are_refused(tmp_path: Path, names: bytes, found: str) -> None:
    path = store(tmp_path, names=names)
    with pytest.raises(DataError, match=f"SP-E117 .*train-labels-idx1-ubyte: .*{found}"):
        read(path)


def test_no_image_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="SP-E103"):
        read(store(tmp_path, data=images(count=0, pixels=b"")))


def test_gzip_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx, "LIMIT", 50)
    with pytest.raises(DataError, match="SP-E109"):
        read(store(tmp_path, packed="images"))


def test_an_encoding_is_refused_because_idx_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="SP-E115"):
        read(store(tmp_path), encoding="latin-1")


def test_an_image_that_was_trained_on_is_found_in_another_file(tmp_path: Path) -> None:
    train = read(store(tmp_path / "a"))
    test = read(store(tmp_path / "b", data=images(pixels=b"".join([bytes(20), *PIXELS[1:3], bytes(60)]))))
    assert sorted(problem.where[-2:] for problem in leakage(train, test)) == [":2", ":3"]


def test_pixels_are_scaled_and_normalised_by_the_models_processor_with_grey_in_all_channels() -> None:
    image_module = pytest.importorskip("PIL.Image")
    side = 28
    grey = bytes(range(256)) + bytes(side * side - 256)
    frozen = speakers.fresh("vit")
    frozen.tokenizer.image_mean, frozen.tokenizer.image_std = [0.1, 0.2, 0.3], [0.5, 0.4, 0.3]
    template = ImageTemplate("", frozen, length=speakers.P)
    row = template.encode(speakers.Example({}, "7", Raster(side, side, grey)))
    picture = image_module.frombytes("L", (side, side), grey)
    assert row.pixels is not None
    assert row.pixels.shape == (3, 16, 16)  # the size of the model, not of the file
    expected = frozen.tokenizer(picture.convert("RGB"), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(row.pixels, expected)
    back = row.pixels * torch.tensor([0.5, 0.4, 0.3])[:, None, None] + torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    torch.testing.assert_close(back[0], back[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(back[0], back[2], atol=1e-5, rtol=0)


def test_one_picture_can_be_predicted_on(tmp_path: Path) -> None:
    picture = speakers.pictures()[0]
    data = read_inputs(picture)
    assert [example.image for example in data.examples] == [picture]
    with pytest.raises(DataError, match="SP-E101"):
        read_inputs(tmp_path / "absent.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match="SP-E122"):
        read_inputs(tmp_path / "text.png")


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="the real data are not beside the repository")
def test_the_real_test_images_of_mnist_are_read() -> None:
    data = read(SHARED / "t10k-images-idx3-ubyte.gz")
    assert len(data) == 10_000
    assert data.labels == tuple("0123456789")
    first = data.examples[0]
    assert first.label == "7"
    assert isinstance(first.image, Raster)
    assert (first.image.width, first.image.height) == (28, 28)
    ink = [sum(e.image.pixels) / 784 for e in data.examples[:2000]]  # type: ignore[union-attr]
    assert 30 < sum(ink) / len(ink) < 37  # the mean grey of MNIST is 33.3
