"""The bytes of an artifact: a valid safetensors file with a card and a SHA-256 over every byte of it."""

import hashlib
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from softprompt.errors import ArtifactError
from softprompt.files import read_regular, write_atomically

FORMAT = 1
NAME = "[!-~]{1,128}"  # of a tensor: printable ASCII without spaces
FILE_LIMIT = 512 << 20  # bytes
HEADER_LIMIT = 1 << 20  # bytes
TENSOR_LIMIT = 4096
ZEROS = "0" * 64  # stands where the digest goes while the digest is computed
DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
}
AGAIN = "get the file again from where it came from"
FOREIGN = "give a file that `softprompt train` wrote; adapters of other libraries need `softprompt import`"

# What people hand over instead: first bytes, name, whether opening it the usual way could run code.
MAGIC: list[tuple[bytes, str, bool]] = [
    *[(bytes([0x80, protocol]), "a pickle file", True) for protocol in range(2, 6)],
    (b"PK\x03\x04", "a zip archive (PyTorch's pickle format is one)", True),
    (b"\x1f\x8b", "a gzip file", False),
    (b"BZh", "a bzip2 file", False),
    (b"\xfd7zXZ\x00", "an xz file", False),
    (b"\x28\xb5\x2f\xfd", "a zstandard file", False),
    (b"7z\xbc\xaf\x27\x1c", "a 7-zip archive", False),
]

Size = Annotated[int, Field(ge=0, le=FILE_LIMIT, strict=True)]
Extent = Annotated[int, Field(ge=1, le=FILE_LIMIT, strict=True)]


class _Entry(BaseModel):
    """What the header says of one tensor."""

    model_config = ConfigDict(extra="forbid")

    dtype: Literal["F32", "F16", "BF16", "I64", "I32", "U8"]
    shape: list[Extent] = Field(max_length=8)
    data_offsets: tuple[Size, Size]


class _Seal(BaseModel):
    """What the header says of the file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    softprompt: str
    card: str
    sha256: str


_ENTRIES = TypeAdapter(dict[Annotated[str, Field(pattern=f"^{NAME}$")], _Entry])


class _Header(NamedTuple):
    raw: bytes
    seal: _Seal
    entries: dict[str, _Entry]


def pack(tensors: dict[str, Tensor], card_json: str) -> bytes:
    """One artifact: equal input gives equal bytes, and what `unpack` would refuse is never made (ArtifactError)."""
    dense = {name: _dense(name, tensor) for name, tensor in tensors.items()}
    try:
        plain = safetensors.torch.save(dense)
        start = 8 + int.from_bytes(plain[:8], "little")
        seal = {"softprompt": str(FORMAT), "sha256": ZEROS, "card": card_json}
        # Our own header: safetensors orders metadata at random, and this must be one and the same file every time.
        header: dict[str, Any] = {"__metadata__": seal, **json.loads(plain[8:start])}
        raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ArtifactError("SP-E306", "text that is not Unicode", "a card as JSON text", "mend the card") from error
    raw += b" " * (-len(raw) % 8)
    blank = len(raw).to_bytes(8, "little") + raw + plain[start:]
    data = blank.replace(_digits(ZEROS), _digits(hashlib.sha256(blank).hexdigest()), 1)
    unpack(data)
    return data


def unpack(data: bytes) -> tuple[dict[str, Tensor], str]:
    """Tensors (copies, by name) and the card's JSON text, after every byte was checked.

    Raises ArtifactError, cheapest check first: SP-E304 too large, E303 pickle or archive, E302 not safetensors or cut,
    E309 bad tensors, E306 not an artifact of ours, E307 made by a newer version, E301 checksum, E305 NaN or infinity.
    """
    if len(data) > FILE_LIMIT:
        raise _too_large(f"{len(data):,} bytes", f"at most {FILE_LIMIT:,}")
    header = _parse(_raw_header(data))
    _check_length(header.raw, header.entries, len(data))
    _check_digest(header, data)
    tensors = _tensors(data)
    _check_card(header.seal.card)
    return tensors, header.seal.card


def read_file(path: Path) -> tuple[dict[str, Tensor], str]:
    """`unpack` of a file; also raises ArtifactError SP-E308 when it cannot be read (folder, pipe, missing)."""
    data = read_regular(path, FILE_LIMIT)
    try:
        return unpack(data)
    except ArtifactError as error:
        raise ArtifactError(error.code, error.found, error.expected, error.do, where=str(path)) from error


def read_foreign(path: Path) -> dict[str, Tensor]:
    """The tensors of another library's safetensors file: every check of `read_file` but seal, card and checksum."""
    data = read_regular(path, FILE_LIMIT)
    try:
        raw = _raw_header(data)
        content = _content(raw)
        content.pop("__metadata__", None)
        _check_length(raw, _entries(content), len(data))
        return _tensors(data)
    except ArtifactError as error:
        do = "save the adapter again as safetensors" if error.do == FOREIGN else error.do
        raise ArtifactError(error.code, error.found, error.expected, do, where=str(path)) from error


def write_foreign(path: Path, tensors: dict[str, Tensor]) -> None:
    """A plain safetensors file, without a card, for other libraries; raises as `write_file` does."""
    dense = {name: _dense(name, tensor) for name, tensor in tensors.items()}
    write_atomically(path, safetensors.torch.save(dense, {"format": "pt"}))


def write_file(path: Path, tensors: dict[str, Tensor], card_json: str) -> None:
    """`pack` into a file that is whole or absent; also raises SoftpromptError SP-E501 when it cannot be written."""
    write_atomically(path, pack(tensors, card_json))


def _dense(name: str, tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU that shares no storage."""
    named = re.fullmatch(NAME, name) is not None and name != "__metadata__"
    storable = tensor.dtype in DTYPES.values() and tensor.layout == torch.strided and not tensor.is_meta
    if not (named and storable):
        found = f"tensor {_short(name)} ({tensor.dtype}, {tensor.layout}, {tensor.device.type})"
        raise _bad_tensors(found, f"dense tensors of {', '.join(map(str, DTYPES.values()))}")
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _digits(digest: str) -> bytes:
    """How the digest stands in the header, and nowhere else: inside a JSON string these quotes would be escaped."""
    return f'"sha256":"{digest}"'.encode()


def _raw_header(data: bytes) -> bytes:
    size = int.from_bytes(data[:8], "little")
    # The ninth byte first: a header of 640 bytes begins with the two bytes of a pickle.
    if data[8:9] != b"{":
        raise _foreign(data)
    if size > HEADER_LIMIT:
        if _archive(data):
            raise _foreign(data)
        raise _too_large(f"a header of {size:,} bytes", f"at most {HEADER_LIMIT:,}")
    if 8 + size > len(data):
        raise ArtifactError("SP-E302", f"a header cut at byte {len(data):,}", f"{8 + size:,} bytes", AGAIN)
    return data[8 : 8 + size]


def _archive(data: bytes) -> str:
    for magic, name, unsafe in MAGIC:
        if data.startswith(magic):
            return f"{name}; it could run code; not opened" if unsafe else f"{name}; not opened"
    return ""


def _foreign(data: bytes) -> ArtifactError:
    if archive := _archive(data):
        return ArtifactError("SP-E303", archive, "a safetensors file", FOREIGN)
    found = "an empty file" if not data else f"{len(data):,} bytes that are not safetensors"
    return ArtifactError("SP-E302", found, "a safetensors file", FOREIGN)


def _parse(raw: bytes) -> _Header:
    content = _content(raw)
    if "__metadata__" not in content:
        raise ArtifactError("SP-E306", "safetensors without a card", "a softprompt artifact", FOREIGN)
    seal = _parse_seal(content.pop("__metadata__"))
    return _Header(raw, seal, _entries(content))


def _content(raw: bytes) -> dict[str, Any]:
    """The header as JSON: an object, because it begins with a brace."""
    try:
        content: dict[str, Any] = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactError("SP-E302", f"a header that is not JSON ({_short(str(error))})", "JSON", AGAIN) from error
    return content


def _entries(content: dict[str, Any]) -> dict[str, _Entry]:
    if len(content) > TENSOR_LIMIT:
        raise _too_large(f"{len(content):,} tensors", f"at most {TENSOR_LIMIT:,}")
    if not content:
        raise _bad_tensors("no tensor", "at least one")
    try:
        return _ENTRIES.validate_python(content)
    except ValidationError as error:
        raise _bad_tensors(_first(error), "named, dense, non-empty tensors of a known dtype") from error


def _parse_seal(content: Any) -> _Seal:
    version = content.get("softprompt") if isinstance(content, dict) else None
    if isinstance(version, str) and re.fullmatch(r"[1-9][0-9]{0,8}", version) and int(version) > FORMAT:
        raise ArtifactError("SP-E307", f"format {version}", f"format {FORMAT}", "install a newer softprompt")
    try:
        seal = _Seal.model_validate(content)
    except ValidationError as error:
        raise ArtifactError("SP-E306", f"metadata with {_first(error)}", "a softprompt artifact", FOREIGN) from error
    if seal.softprompt != str(FORMAT):
        found = f"format {_short(seal.softprompt)}"
        raise ArtifactError("SP-E306", found, f"format {FORMAT}", FOREIGN)
    return seal


def _tensors(data: bytes) -> dict[str, Tensor]:
    """Copies of all tensors, sorted by name."""
    try:
        tensors = {name: tensor.clone() for name, tensor in safetensors.torch.load(data).items()}
    except (safetensors.SafetensorError, ValueError) as error:
        raise ArtifactError(
            "SP-E302", f"a header that safetensors refuses ({_short(str(error))})", "a valid one", AGAIN
        ) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            do = "train again with a lower learning rate; this prompt cannot work"
            raise ArtifactError("SP-E305", f"NaN or infinity in tensor {name!r}", "finite numbers", do)
    return dict(sorted(tensors.items()))


def _check_length(raw: bytes, entries: dict[str, _Entry], length: int) -> None:
    for name, entry in entries.items():
        start, end = entry.data_offsets
        if end - start != math.prod(entry.shape) * DTYPES[entry.dtype].itemsize:
            raise _bad_tensors(f"tensor {name!r} of shape {entry.shape} in {end - start:,} bytes", "room for its shape")
    expected = 8 + len(raw) + max(entry.data_offsets[1] for entry in entries.values())
    if length != expected:
        raise ArtifactError("SP-E302", f"{length:,} bytes", f"the {expected:,} that the header announces", AGAIN)


def _check_digest(header: _Header, data: bytes) -> None:
    digest = header.seal.sha256
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ArtifactError("SP-E301", f"the SHA-256 {_short(digest)}", "64 hexadecimal digits", AGAIN)
    field = _digits(digest)
    whole = hashlib.sha256(data[:8])
    whole.update(header.raw.replace(field, _digits(ZEROS), 1))
    whole.update(memoryview(data)[8 + len(header.raw) :])
    # A digest spelled another way is not blanked: it would have to be the digest of a file that holds it.
    if whole.hexdigest() != digest:
        raise ArtifactError("SP-E301", "bytes that do not match their SHA-256", "the file as it was written", AGAIN)


def _check_card(card: str) -> None:
    try:
        content = json.loads(card, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError, ArtifactError) as error:
        raise ArtifactError("SP-E306", f"a card that is not JSON ({_short(str(error))})", "JSON", FOREIGN) from error
    if not isinstance(content, dict):
        raise ArtifactError("SP-E306", "a card that is not a JSON object", "an object", FOREIGN)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise _bad_tensors(f"the key {_short(twice)} more than once", "every key once")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{_short('.'.join(map(str, problem['loc'])) or 'header')}: {problem['msg'].lower()}"


def _short(text: str) -> str:
    """At most 60 characters, quoted, without control characters: it comes from a file that no one vouches for."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _too_large(found: str, expected: str) -> ArtifactError:
    return ArtifactError("SP-E304", found, expected, "check that this is the right file")


def _bad_tensors(found: str, expected: str) -> ArtifactError:
    return ArtifactError("SP-E309", found, expected, AGAIN)
