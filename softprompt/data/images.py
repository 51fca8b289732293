"""A folder of images, one sub-folder a class."""

import hashlib
from pathlib import Path

from softprompt.data.dataset import Columns, Table
from softprompt.data.problem import Problem, quote
from softprompt.data.source import display, load_bytes
from softprompt.errors import DataError

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff"})
MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"II*\x00", b"MM\x00*")


def read_images(folder: Path, *, labelled: bool = True) -> Table:
    """Images by class, sorted by name. Without `labelled`, images directly in the folder will do.

    The hash covers the relative path and the content of every image. Raises DataError where there is none.
    """
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    table = Table(display(folder), "", ("image", "label"), nameless=True, kind="classification")
    table.columns = Columns((), "label", "image")
    digest = hashlib.sha256()
    other = 0
    places: list[tuple[Path, str | None]] = [(path, path.name) for path in classes] or [(folder, None)]
    for place, name in places:
        for path in sorted(place.iterdir()):
            if path.suffix.lower() in PICTURES and path.is_file():
                _add(table, path, name, folder, digest)
            else:
                other += 1
    if other:
        table.notes.append(f"{other} files or folders that are not images were passed over")
    table.sha256 = digest.hexdigest()
    if (labelled and not classes) or not (table.rows or table.problems):
        expected = "a sub-folder of images for each class" if labelled else "images"
        raise DataError("SP-E103", "a folder with none", expected, "name a file or an image folder", where=table.name)
    return table


def read_picture(path: Path) -> Table:
    """One image without a class. Raises DataError where there is none."""
    table = Table(display(path), "", ("image", "label"), nameless=True, kind="classification")
    table.columns = Columns((), "label", "image")
    load_bytes(path)  # says what is wrong with the path
    digest = hashlib.sha256()
    _add(table, path, None, path.parent, digest)
    table.sha256 = digest.hexdigest()
    return table


def _add(table: Table, path: Path, name: str | None, folder: Path, digest: "hashlib._Hash") -> None:
    data = path.read_bytes()
    digest.update(f"{path.relative_to(folder).as_posix()}\0{len(data)}\0".encode("utf-8", "surrogateescape"))
    digest.update(data)
    if data.startswith(MAGIC):
        table.add(0, (path, name))
    else:
        table.reject(Problem(display(path), "SP-E122", quote(data[:12]), "image data", "remove or replace the file"))
