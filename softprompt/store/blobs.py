"""The files of a store, named by the SHA-256 of their bytes: whole or absent, and checked whenever they are read."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

from softprompt.errors import ArtifactError, SoftpromptError
from softprompt.files import TEMPORARY, read_regular, write_atomically

LIMIT = 1 << 30  # bytes; above what an artifact may have, which is checked when it is published
SUFFIX = ".safetensors"
NAMED = re.compile(rf"([0-9a-f]{{64}})\{SUFFIX}")
State = Literal["intact", "damaged", "missing"]


def digest(data: bytes) -> str:
    """The SHA-256 in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


class Blobs:
    """A folder of files whose names are their checksums."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        """Where the file of a content is."""
        return self.folder / f"{sha256}{SUFFIX}"

    def put(self, data: bytes) -> str:
        """Write a content, and return its SHA-256 when it is on the disk; raises SP-E501 where it cannot be written.

        It is written even if it is there: that mends a damaged file, and waits for one that another process has
        written but not yet synced.
        """
        sha256 = digest(data)
        path = self.path(sha256)
        write_atomically(path, data)
        if os.name == "posix":  # elsewhere a read-only file cannot be replaced
            with suppress(OSError):
                os.chmod(path, 0o444)
        return sha256

    def has(self, sha256: str) -> bool:
        """Whether there is a file of that name, intact or not."""
        return self.path(sha256).is_file()

    def read(self, sha256: str) -> bytes:
        """The bytes of a content; raises `SoftpromptError` SP-E613 where they are gone or others."""
        path = self.path(sha256)
        try:
            data = read_regular(path, LIMIT)
        except ArtifactError as error:
            raise _damaged(error.found, path) from error
        if digest(data) != sha256:
            raise _damaged("bytes that do not match their SHA-256", path)
        return data

    def state(self, sha256: str) -> State:
        """Whether a content is as it was written."""
        if not self.has(sha256):
            return "missing"
        try:
            self.read(sha256)
        except SoftpromptError:
            return "damaged"
        return "intact"

    def discard(self, sha256: str) -> int:
        """Remove a file; the bytes that it took."""
        path = self.path(sha256)
        size = path.stat().st_size
        path.unlink()
        return size

    def set_aside(self, sha256: str, folder: Path) -> Path:
        """Move a damaged file where nobody loads it; the path that it has now."""
        folder.mkdir(exist_ok=True)
        path = folder / self.path(sha256).name
        os.replace(self.path(sha256), path)
        return path

    def listed(self) -> Iterator[tuple[str, float]]:
        """SHA-256 and time of every file."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if match := NAMED.fullmatch(entry.name):
                    yield match[1], entry.stat().st_mtime

    def unfinished(self) -> Iterator[tuple[Path, float]]:
        """Path and time of every file that a killed process, or one at work, has begun to write."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if TEMPORARY.fullmatch(entry.name):
                    with suppress(FileNotFoundError):  # its writer is done
                        yield Path(entry.path), entry.stat().st_mtime


def _damaged(found: str, path: Path) -> SoftpromptError:
    do = "`softprompt store repair`, with `--from` a folder or URL that has a copy"
    return SoftpromptError("SP-E613", found, "the file as it was published", do, where=str(path))
