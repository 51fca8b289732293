"""Images and labels in the idx format of MNIST (yann.lecun.com/exdb/mnist), packed with gzip or not.

A file is 00 00, a type (08: bytes), the number of dimensions, each dimension as a big-endian uint32, then the values.
"""

import hashlib
import struct
import zlib
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Final

from softprompt.data.dataset import Columns, Table
from softprompt.data.source import display, load_bytes
from softprompt.errors import DataError
from softprompt.example import Raster

MARK: Final = "idx3-ubyte"  # in the name of a file of images
GZIP: Final = b"\x1f\x8b"
LIMIT: Final = 1 << 30  # bytes of an unpacked file
BYTES: Final = 8  # the type of unsigned bytes; all others hold no images


def read_idx(path: Path, *, labelled: bool = True) -> Table:
    """Greyscale images by number, counted from 1; their labels are read from the file of labels beside it.

    Without `labelled`, no labels are looked for. Raises DataError for damaged files and for labels that do not pair up.
    """
    name = display(path)
    packed = load_bytes(path)
    (count, height, width), pixels = values(packed, 3, name)
    table = Table(name, "", ("image", "label"), nameless=True, kind="classification")
    table.columns = Columns((), "label", "image")
    digest = hashlib.sha256(packed)
    labels: Sequence[int | None] = [None] * count
    if labelled:
        other = labels_beside(path)
        beside = load_bytes(other)
        digest.update(beside)
        (given,), labels = values(beside, 1, display(other))
        if given != count:
            found, do = f"{given:,} labels for {count:,} images", "get both files again, from one source"
            raise DataError("SP-E117", found, "one label an image", do, where=display(other))
        table.notes.append(f"labels: {display(other)}")
    size = height * width
    for i, label in enumerate(labels):
        raster = Raster(width, height, pixels[i * size : (i + 1) * size])
        table.add(i + 1, (raster, None if label is None else str(label)))
    table.sha256 = digest.hexdigest()
    return table


def labels_beside(path: Path) -> Path:
    """The labels of a file of images: `train-images-idx3-ubyte` has `train-labels-idx1-ubyte`, packed or not."""
    name = path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    found = [other for ending in ("", ".gz") if (other := path.with_name(name + ending)).is_file()]
    if not found or name == path.name.removesuffix(".gz"):
        do = "put the file of labels beside the images"
        raise DataError("SP-E101", "images without labels", f"{name} or {name}.gz", do, where=display(path))
    return found[0]


def values(data: bytes, dimensions: int, name: str) -> tuple[tuple[int, ...], bytes]:
    """The shape and the values of an idx file of so many dimensions. Raises DataError where it holds something else."""
    if data.startswith(GZIP):
        data = unpacked(data, name)
    start = 4 + 4 * dimensions
    if len(data) < start or data[:4] != bytes((0, 0, BYTES, dimensions)):
        raise damaged(name, f"a file that begins with {data[:4].hex(' ') or 'nothing'}", f"00 00 08 {dimensions:02}")
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    if 0 in shape:
        raise DataError("SP-E103", "no values", "images and labels", "get the file again", where=name)
    if len(data) - start != prod(shape):
        found = f"{len(data) - start:,} values, where the header says {' x '.join(map(str, shape))}"
        raise damaged(name, found[:80], f"{prod(shape):,} values")
    return shape, data[start:]


def unpacked(data: bytes, name: str) -> bytes:
    """The content of gzip data, at most LIMIT of it. Raises DataError for damaged or endless data."""
    reader = zlib.decompressobj(wbits=31)
    try:
        content = reader.decompress(data, LIMIT)
    except zlib.error as error:
        raise damaged(name, f"gzip data that cannot be unpacked ({error})"[:80], "whole gzip data") from error
    if reader.unconsumed_tail:
        found, do = f"more than {LIMIT:,} bytes", "split the file"
        raise DataError("SP-E109", found, "less in one file", do, where=name)
    if not reader.eof:
        raise damaged(name, "gzip data that end too early", "whole gzip data")
    return content


def damaged(name: str, found: str, expected: str) -> DataError:
    """A file that is cut off, or no idx file."""
    return DataError("SP-E117", found, expected, "get the file again", where=name)
