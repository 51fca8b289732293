"""Bytes and text of a source, with every byte that is not text found before anything is parsed."""

import codecs
import hashlib
import io
import re
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path

from softprompt.data.problem import Problem
from softprompt.errors import DataError

STANDARD_INPUT = "-"
DAMAGE = re.compile("[\x00\ud800-\udfff]")  # NUL, and bytes that did not decode (kept as lone surrogates)
MAGIC = {
    b"\x1f\x8b": "gzip data",
    b"PK\x03\x04": "a zip archive (or an Excel workbook)",
    b"BZh": "bzip2 data",
    b"\xfd7zXZ\x00": "xz data",
    b"\x28\xb5\x2f\xfd": "zstandard data",
    b"PAR1": "Parquet data",
    b"SQLite format 3": "an SQLite database",
}
WIDE = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass(frozen=True)
class Text:
    """The text of a source and the physical lines that hold bytes which are not text."""

    name: str
    text: str
    sha256: str
    newline: str = "\n"
    damaged: dict[int, Problem] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Physical lines, ends kept. Never `splitlines`: U+2028 and its like are text."""
        return list(io.StringIO(self.text, newline=self.newline))

    def damage(self, first: int, last: int) -> Problem | None:
        """What is wrong with the bytes of lines `first` to `last`, if anything."""
        if not self.damaged:
            return None
        return next((self.damaged[line] for line in range(first, last + 1) if line in self.damaged), None)


def display(source: str | Path) -> str:
    """The name of a source in messages."""
    # A name that is not UTF-8 must not stop the message about it from being printed.
    return "<stdin>" if str(source) == STANDARD_INPUT else str(source).encode("utf-8", "backslashreplace").decode()


def load_bytes(source: str | Path) -> bytes:
    """The bytes of a regular file or of standard input. Raises DataError for anything else, and for no bytes."""
    name = display(source)
    data = sys.stdin.buffer.read() if str(source) == STANDARD_INPUT else _file_bytes(Path(source), name)
    if not data:
        raise _empty(name)
    return data


def _empty(name: str) -> DataError:
    return DataError("SP-E103", "an empty file", "rows of data", "check how the file was written", where=name)


def _file_bytes(path: Path, name: str) -> bytes:
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a path"
        raise DataError("SP-E101", reason.lower(), "a file that can be read", "check the path", where=name) from None
    what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
    do = "name a file in it" if stat.S_ISDIR(mode) else "pass `-` and send the data to standard input"
    raise DataError("SP-E101", what, "a regular file", do, where=name)


def refuse_binary(data: bytes, name: str) -> None:
    """Raise DataError for compressed and binary files, whatever their extension says."""
    for magic, what in MAGIC.items():
        if data.startswith(magic):
            do = "--set data.format=parquet" if magic == b"PAR1" else "unpack or export it to a text file first"
            raise DataError("SP-E116", what, "plain text", do, where=name)


def load_text(source: str | Path, encoding: str = "utf-8") -> Text:
    """The text of a source. Undecodable bytes and NULs are kept and listed in `damaged`; a BOM is taken off."""
    name = display(source)
    data = load_bytes(source)
    refuse_binary(data, name)
    text = _decode(data, encoding, name)
    notes = []
    if text.startswith("\ufeff"):
        text = text[1:]
        notes.append("a byte order mark at the start of the file was taken off")
    if not text.strip():
        raise _empty(name)
    newline = "\n" if "\n" in text or "\r" not in text else "\r"
    damaged = _damaged(text, encoding, name, newline, data)
    return Text(name, text, hashlib.sha256(data).hexdigest(), newline, damaged, tuple(notes))


def _decode(data: bytes, encoding: str, name: str) -> str:
    try:
        codec = codecs.lookup(encoding).name
    except LookupError:
        found, do = f"encoding '{encoding}'", "use a name such as utf-8, cp1252 or utf-16"
        raise DataError("SP-E105", found, "an encoding Python knows", do, where=name) from None
    wide = WIDE.get(data[:2])
    if codec == "utf-8" and wide:
        do = f"convert it to UTF-8, or --set data.encoding={wide}"
        raise DataError("SP-E105", f"{wide} text", "UTF-8", do, where=name)
    try:
        return data.decode(codec)
    except UnicodeDecodeError:
        pass
    try:
        return data.decode(codec, "surrogateescape")
    except UnicodeDecodeError as error:  # codecs of two or more bytes cannot keep what they do not know
        found = f"a byte that is not {encoding} at offset {error.start}"
        raise DataError("SP-E105", found, encoding, "name the right encoding", where=name) from None


def _damaged(text: str, encoding: str, name: str, newline: str, data: bytes) -> dict[int, Problem]:
    damaged: dict[int, Problem] = {}
    line, offset, position = 1, 3 if data.startswith(codecs.BOM_UTF8) else 0, 0
    guess = ""
    for match in DAMAGE.finditer(text):
        before = text[position : match.start()]
        position = match.start()
        line += before.count(newline)
        offset += len(before.encode(encoding, "surrogateescape"))
        if line in damaged:
            continue
        where = f"{name}:{line}"
        if match[0] == "\0":
            do = "remove it; NUL often means a damaged or a binary file"
            damaged[line] = Problem(where, "SP-E106", f"a NUL at byte offset {offset}", "text without NUL", do)
        else:
            guess = guess or _guess(data)
            found = f"byte 0x{ord(match[0]) - 0xDC00:02x} at byte offset {offset}"
            do = f"convert the file (`iconv -f {guess} -t utf-8`), or --set data.encoding={guess} if that is what it is"
            damaged[line] = Problem(where, "SP-E105", found, f"{encoding} text", do)
    return damaged


def _guess(data: bytes) -> str:
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return "iso-8859-1"
    return "cp1252"
