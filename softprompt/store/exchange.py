"""Stores elsewhere: a folder or any URL of fsspec with a catalogue and the files that it names."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from softprompt.errors import ArtifactError, SoftpromptError
from softprompt.files import write_atomically
from softprompt.store import facts
from softprompt.store.blobs import LIMIT, SUFFIX, digest
from softprompt.store.names import ALIAS, NAME

CATALOGUE = "store.json"
CATALOGUE_LIMIT = 256 << 20  # bytes
Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
Number = Annotated[int, Field(ge=1, lt=10**9, strict=True)]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Text = Annotated[str, Field(max_length=4000)]


class Part(BaseModel):
    """A part of a catalogue; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Origin(Part):
    """What a version was made from."""

    relation: Literal["warm-start", "transfer", "compression"]
    label: Text
    sha256: Hash | Literal[""]


class Listed(Part):
    """A version."""

    name: Name
    version: Number
    sha256: Hash
    created: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    note: Text = ""
    parents: tuple[Origin, ...] = ()


class Pointer(Part):
    """An alias."""

    name: Name
    alias: Annotated[str, Field(pattern=f"^{ALIAS.pattern}$")]
    version: Number


class Catalogue(Part):
    """What is in a store elsewhere. It comes from outside: names and hashes are checked before they are used."""

    format: Literal[1] = 1
    versions: tuple[Listed, ...] = ()
    aliases: tuple[Pointer, ...] = ()


class Shelf:
    """A folder, here or elsewhere, in which a store is laid out: `store.json`, and `blobs/SHA256.safetensors`."""

    def __init__(self, url: str) -> None:
        self.shown = re.sub(r"//[^/@]*@", "//", url)  # a password is nobody's business
        with self._reached():
            self._system, root = fsspec.url_to_fs(url)
            self._root = str(root).rstrip("/")
            self._system.invalidate_cache()
        self.local = Path(self._root or "/") if isinstance(self._system, LocalFileSystem) else None

    @staticmethod
    def blob(sha256: str) -> str:
        """Where a content is."""
        return f"blobs/{sha256}{SUFFIX}"

    def has(self, name: str, size: int | None = None) -> bool:
        """Whether there is a file, of `size` bytes if given; raises `SoftpromptError` SP-E617 if it cannot be known."""
        path = f"{self._root}/{name}"
        with self._reached():
            return bool(self._system.isfile(path)) and size in (None, self._system.size(path))

    def read(self, name: str, limit: int) -> bytes:
        """A file of at most `limit` bytes; raises `SoftpromptError` SP-E617."""
        with self._reached(), self._system.open(f"{self._root}/{name}", "rb") as file:
            data: bytes = file.read(limit + 1)
        if len(data) > limit:
            expected = f"at most {limit:,} bytes"
            raise SoftpromptError("SP-E617", f"a longer {name}", expected, "check the address", where=self.shown)
        return data

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all where the system can; raises `SoftpromptError` SP-E617 or SP-E501."""
        path = f"{self._root}/{name}"
        with self._reached():
            self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
            if self.local is None:
                self._system.pipe_file(path, data)
        if self.local is not None:
            write_atomically(Path(path), data)

    def catalogue(self) -> Catalogue | None:
        """What is there, or None where nothing is; raises `SoftpromptError` SP-E617 for what cannot be read."""
        if not self.has(CATALOGUE):
            return None
        try:
            return Catalogue.model_validate_json(self.read(CATALOGUE, CATALOGUE_LIMIT))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            found = f"a {CATALOGUE} with {'.'.join(map(str, first['loc']))[:80]}: {first['msg']}"
            do = "update softprompt, or get the export again"
            raise SoftpromptError("SP-E617", found, "one of this version", do, where=self.shown) from error

    def prompt(self, sha256: str) -> tuple[bytes, facts.Facts]:
        """A content and what it says; raises SP-E617 for other bytes, and `ArtifactError` for what is no prompt."""
        data = self.read(self.blob(sha256), LIMIT)
        if digest(data) != sha256:
            found, do = f"bytes in {self.blob(sha256)} that do not match their SHA-256", "export or push it again"
            raise SoftpromptError("SP-E617", found, "the file as it was published", do, where=self.shown)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"prompt{SUFFIX}"
            path.write_bytes(data)
            try:
                _, artifact = facts.checked(path)
            except ArtifactError as error:
                raise ArtifactError(error.code, error.found, error.expected, error.do, where=self.shown) from error
        return data, facts.gather(artifact, len(data), ())

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except SoftpromptError:
            raise
        except Exception as error:  # file systems of other packages raise what they like
            found = f"{type(error).__name__}: {error}"[:200]
            do = "check the address and your access; s3:// needs `pip install s3fs`, gs:// gcsfs, hf:// huggingface_hub"
            raise SoftpromptError("SP-E617", found, "a place that can be reached", do, where=self.shown) from error
