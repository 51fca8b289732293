"""An artifact is data: what was written is read back, and anything else is refused, each cause by its own code."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import pickle
import random
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file
from safetensors.torch import save as plain_save
from torch import Tensor

from softprompt import container
from softprompt.container import pack, read_file, unpack, write_file
from softprompt.errors import ArtifactError, SoftpromptError

ZEROS = "0" * 64
CARD = '{"method": "prompt_tuning", "labels": ["good", "schlecht — 坏"]}'
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8]


def prompt(seed: int = 0, rows: int = 20, width: int = 768) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "prompt": torch.randn(rows, width, generator=generator),
        "scale": torch.tensor(0.5, dtype=torch.bfloat16),
        "ids": torch.arange(4),
    }


def code_of(data: bytes) -> str:
    with pytest.raises(ArtifactError) as caught:
        unpack(data)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return caught.value.code


def lay_out(header: dict[str, Any] | str | bytes, body: bytes = b"") -> bytes:
    """A file by the rules of safetensors, made without the package."""
    text = json.dumps(header, separators=(",", ":")) if isinstance(header, dict) else header
    raw = text.encode() if isinstance(text, str) else text
    return len(raw).to_bytes(8, "little") + raw + body


def seal(data: bytes) -> bytes:
    """The right checksum, as one who means harm would compute it."""
    digest = hashlib.sha256(data).hexdigest()
    return data.replace(f'"sha256":"{ZEROS}"'.encode(), f'"sha256":"{digest}"'.encode(), 1)


def metadata(**changes: Any) -> dict[str, Any]:
    return {"softprompt": "1", "sha256": ZEROS, "card": "{}"} | changes


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes


def forged(body: bytes = bytes(8), meta: Any = None, **tensors: Any) -> bytes:
    header = {"__metadata__": metadata() if meta is None else meta, **(tensors or {"a": entry()})}
    return seal(lay_out(header, body))


# ---------------------------------------------------------------------------------------------------- round trips


@settings(max_examples=80, deadline=None)
@given(
    shapes=st.dictionaries(
        st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=12),
        st.tuples(st.lists(st.integers(1, 4), max_size=3), st.sampled_from(DTYPES)),
        min_size=1,
        max_size=5,
    ),
    card=st.dictionaries(st.text(), st.text() | st.integers() | st.none(), max_size=4),
    escaped=st.booleans(),
)
def test_what_is_packed_is_unpacked(
    shapes: dict[str, tuple[list[int], torch.dtype]], card: dict[str, Any], escaped: bool
) -> None:
    tensors = {name: torch.randn(shape).mul(100).to(dtype) for name, (shape, dtype) in shapes.items()}
    text = json.dumps(card, ensure_ascii=escaped)
    data = pack(tensors, text)
    found, card_text = unpack(data)
    assert card_text == text
    assert list(found) == sorted(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert pack(found, text) == data


def test_equal_prompts_are_equal_files_in_whatever_order_they_are_given() -> None:
    tensors = prompt()
    backwards = dict(reversed(tensors.items()))
    assert len({pack(tensors, CARD) for _ in range(10)} | {pack(backwards, CARD)}) == 1


def test_the_plain_library_loads_it_and_finds_the_card(tmp_path: Path) -> None:
    path = tmp_path / "prompt.safetensors"
    write_file(path, prompt(), CARD)
    loaded = load_file(path)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in prompt().items())
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    assert facts.keys() == {"softprompt", "card", "sha256"}
    assert (facts["softprompt"], facts["card"]) == ("1", CARD)
    blank = path.read_bytes().replace(facts["sha256"].encode(), ZEROS.encode())
    assert hashlib.sha256(blank).hexdigest() == facts["sha256"]


def test_a_file_made_by_hand_from_the_description_is_accepted() -> None:
    tensors, card = unpack(forged())
    assert torch.equal(tensors["a"], torch.zeros(2))
    assert card == "{}"


def test_a_card_that_speaks_of_checksums_is_only_a_card() -> None:
    card = json.dumps({"sha256": ZEROS, "text": f'"sha256":"{ZEROS}"', "__metadata__": {"sha256": ZEROS}})
    compact = json.dumps(json.loads(card), separators=(",", ":"))
    for text in (card, compact):
        assert unpack(pack(prompt(), text))[1] == text


def test_views_shared_storage_and_gradients_are_packed_by_value() -> None:
    table = torch.randn(6, 4, requires_grad=True)
    found, _ = unpack(pack({"t": table.t(), "s": table[::2, 1:], "e": table[:1].expand(3, 4), "x": table}, "{}"))
    assert torch.equal(found["t"], table.t())
    assert torch.equal(found["s"], table[::2, 1:])
    assert torch.equal(found["e"], table[:1].expand(3, 4))
    found["x"].zero_()
    assert not torch.equal(found["t"], torch.zeros(4, 6))


def test_a_header_of_any_length_is_taken_for_what_it_is() -> None:
    """Headers of 640, 896, 1152 and 1408 bytes begin as a pickle does; every length up to there is tried."""
    starts = set()
    for size in range(1400):
        data = pack({"a": torch.ones(1)}, json.dumps({"pad": "x" * size}))
        starts.add(data[:2])
        unpack(data)
    assert starts >= {bytes([0x80, protocol]) for protocol in (2, 3, 4, 5)}


def test_denormals_and_extremes_are_finite_and_kept() -> None:
    values = torch.tensor([1e-45, -1e-45, 3.4e38, -0.0, 0.0])
    found, _ = unpack(pack({"a": values}, "{}"))
    assert torch.equal(found["a"].view(torch.int32), values.view(torch.int32))


# ------------------------------------------------------------------------------------------------ changed artifacts


def flip_bit(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def flip_header_bit(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(8 + int.from_bytes(data[:8], "little"))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def set_byte(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def append(data: bytes, rng: random.Random) -> bytes:
    return data + rng.choice([b"\0", b" ", data[-1:], rng.randbytes(rng.randrange(1, 5000)), data])


def zero_page(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(0, len(data), 4096)
    page = data[at : at + 4096]
    return data[:at] + bytes(len(page)) + data[at + 4096 :]


def swap_blocks(data: bytes, rng: random.Random) -> bytes:
    size = rng.choice([16, 512, 4096])
    blocks = [data[at : at + size] for at in range(0, len(data), size)]
    i, j = rng.sample(range(len(blocks)), 2)
    blocks[i], blocks[j] = blocks[j], blocks[i]
    return b"".join(blocks)


def remove_bytes(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randrange(1, 64) :]


def insert_bytes(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.choice([b" ", b"\0", rng.randbytes(8)]) + data[at:]


def interleave(data: bytes, rng: random.Random) -> bytes:
    other = pack(prompt(seed=1), CARD)
    size = rng.choice([1, 64, 512, 4096])
    pairs = zip(range(0, len(data), size), range(0, len(other), size), strict=False)
    first = rng.randrange(2)
    return b"".join(
        (data, other)[(i + first) % 2][at : at + size] for i, (at, _) in enumerate(pairs)
    )  # fmt: skip


MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [
    flip_bit,
    flip_header_bit,
    set_byte,
    cut,
    append,
    zero_page,
    swap_blocks,
    remove_bytes,
    insert_bytes,
    interleave,
]


def mutants(data: bytes, count: int) -> Iterator[bytes]:
    """Every truncation inside the header, then random changes of each kind in turn; never the file itself."""
    rng, made = random.Random(2024), 0
    for at in range(8 + int.from_bytes(data[:8], "little")):
        yield data[:at]
        made += 1
    while made < count:
        mutant = MUTATIONS[made % len(MUTATIONS)](data, rng)
        if mutant != data:
            yield mutant
            made += 1


def test_five_thousand_changed_artifacts_are_all_refused() -> None:
    data = pack(prompt(), CARD)
    codes: dict[str, int] = {}
    for mutant in mutants(data, 5000):
        try:
            unpack(mutant)
        except ArtifactError as error:
            codes[error.code] = codes.get(error.code, 0) + 1
    assert sum(codes.values()) == 5000, codes
    assert {"SP-E301", "SP-E302"} <= codes.keys()


def test_the_library_alone_would_have_loaded_most_flipped_bits() -> None:
    """Without this the test above could pass for the wrong reason."""
    data, rng, loaded = pack(prompt(), CARD), random.Random(3), 0
    for _ in range(200):
        try:
            load(flip_bit(data, rng))
        except (SafetensorError, ValueError):
            continue
        loaded += 1
    assert loaded > 150


def test_every_single_bit_of_the_header_is_covered() -> None:
    data = pack({"a": torch.ones(2)}, '{"a":1}')
    for at in range(8 + int.from_bytes(data[:8], "little")):
        for bit in range(8):
            code_of(data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :])


def test_a_digest_in_capitals_is_refused() -> None:
    data = pack(prompt(), CARD)
    digest = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["sha256"]
    assert digest != digest.upper()
    assert code_of(data.replace(digest.encode(), digest.upper().encode())) == "SP-E301"


def test_a_digest_that_is_spelled_with_spaces_or_escapes_covers_nothing_and_is_refused() -> None:
    data = pack({"a": torch.ones(2)}, "{}")
    size = int.from_bytes(data[:8], "little")
    for old, new in ((b'"sha256":"', b'"sha256": "'), (b'"sha256":"', b'"sha\\u003256":"')):
        header = data[8 : 8 + size].replace(old, new)
        assert code_of(lay_out(header, data[8 + size :])) == "SP-E301"


# ------------------------------------------------------------------------------------------------------ hostile set


class Bomb:
    """Unpickling it would leave a file behind."""

    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.canary,)


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", content)
    return buffer.getvalue()


def torch_file(value: Any, new: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


def archives(canary: str) -> Iterator[tuple[str, bytes]]:
    for protocol in (2, 3, 4, 5):
        yield f"pickle {protocol}", pickle.dumps(Bomb(canary), protocol)
    yield "pickle of nothing", pickle.dumps(None)
    yield "pickle whose ninth byte is a brace", b"\x80\x04\x95\x01\x01\x01\x01\x01{" + b"." * 50
    yield "torch zip", torch_file({"a": torch.ones(2)}, new=True)
    yield "torch legacy", torch_file({"a": torch.ones(2)}, new=False)
    yield "zip bomb", zipped(bytes(20_000_000))
    yield "gzip bomb", gzip.compress(bytes(20_000_000), mtime=0)
    yield "gzip of an artifact", gzip.compress(pack(prompt(), CARD))
    yield "bzip2", bz2.compress(bytes(1000))
    yield "xz", lzma.compress(bytes(1000))
    yield "zstandard", b"\x28\xb5\x2f\xfd" + bytes(100)
    yield "7-zip", b"7z\xbc\xaf\x27\x1c" + bytes(100)


def malformed() -> Iterator[tuple[str, bytes]]:
    whole = pack(prompt(), CARD)
    yield "empty", b""
    yield "one byte", b"{"
    yield "text", b"hello, this is a text file\n" * 10
    yield "page of a proxy", b"<!DOCTYPE html><html><body>403</body></html>"
    yield "zeros", bytes(10_000)
    yield "length only", (100).to_bytes(8, "little")
    yield "no header", lay_out(b"")
    yield "cut in the header", whole[:200]
    yield "cut in the data", whole[:-1]
    yield "something behind", whole + b"PK"
    yield "not JSON", lay_out(b"{not json}" + b" " * 20)
    yield "not UTF-8", lay_out(b'{"\xff\xfe":1}')
    yield "UTF-16", lay_out("{}".encode("utf-16-le"))
    yield "NaN in the header", lay_out(b'{"a":NaN}')
    yield "100,000 lists", lay_out(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    yield "100,000 objects", lay_out(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)
    yield "a number of 100,000 digits", lay_out(b'{"a":' + b"9" * 100_000 + b"}")
    yield "lone surrogate", forged(meta=metadata(card='{"a":"\ud800"}'))
    yield "hole in the data", forged(bytes(16), a=entry(), b=entry(shape=[1], data_offsets=[12, 16]))
    yield "overlap", forged(bytes(12), a=entry(), b=entry(data_offsets=[4, 12]))


def oversized() -> Iterator[tuple[str, bytes]]:
    yield "header of 2^63 bytes", (1 << 63).to_bytes(8, "little") + b"{" + b" " * 100
    yield "header of 2^64-1 bytes", b"\xff" * 8 + b"{}"
    yield "header of 99 MB", (99_000_000).to_bytes(8, "little") + b"{" + bytes(100)
    yield "header of a byte too many", lay_out(b"{" + b" " * (1 << 20))
    yield (
        "4,097 tensors",
        forged(bytes(4 * 4097), **{f"t{i}": entry(shape=[1], data_offsets=[4 * i, 4 * i + 4]) for i in range(4097)}),
    )
    yield (
        "a million tensors",
        lay_out(
            "{"
            + ",".join(f'"{i}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{i + 1}]}}' for i in range(10**6))
            + "}"
        ),
    )


def strangers() -> Iterator[tuple[str, bytes]]:
    yield "plain safetensors", plain_save({"a": torch.ones(2)})
    yield "safetensors of another tool", plain_save({"a": torch.ones(2)}, {"format": "pt"})
    yield "empty header", lay_out("{}")
    yield "metadata is text", forged(meta="1")
    yield "metadata is a list", forged(meta=[1, 2])
    yield "metadata is null", lay_out(b'{"__metadata__":null,"a":{}}')
    yield "no card", forged(meta={"softprompt": "1", "sha256": ZEROS})
    yield "no checksum", forged(meta={"softprompt": "1", "card": "{}"})
    yield "no version", forged(meta={"sha256": ZEROS, "card": "{}"})
    yield "one key more", forged(meta=metadata(extra="x"))
    yield "card is no text", forged(meta=metadata(card={"a": 1}))
    yield "version is a number", forged(meta=metadata(softprompt=1))
    for version in ("0", "-1", "1.0", "01", "", "x" * 10_000, "١", "9" * 10_000):
        yield f"version {version[:5]!r}", forged(meta=metadata(softprompt=version))
    for card in ("", "[]", "null", "{", '{"a":NaN}', '{"a":1,"a":2}', "[" * 100_000, '{"a":' * 50_000):
        yield f"card {card[:8]!r} of {len(card)}", forged(meta=metadata(card=card))


def bad_tensors() -> Iterator[tuple[str, bytes]]:
    yield "none", seal(lay_out({"__metadata__": metadata()}))
    meta = json.dumps(metadata(), separators=(",", ":"))
    item = json.dumps(entry(), separators=(",", ":"))
    yield "a name twice", seal(lay_out(f'{{"__metadata__":{meta},"a":{item},"a":{item}}}', bytes(8)))
    yield (
        "a name twice, once escaped",
        seal(lay_out(f'{{"__metadata__":{meta},"a":{item},"\\u0061":{item}}}', bytes(8))),
    )
    yield "metadata twice", lay_out(f'{{"__metadata__":{meta},"__metadata__":{meta},"a":{item}}}', bytes(8))
    many = ",".join(f'"{i}":1' for i in range(90_000))
    yield "90,000 keys and the last twice", lay_out(f'{{{many},"89999":1}}')
    for dtype in ("F8_E4M3", "F8_E5M2", "F64", "BOOL", "U64", "f32", "", "x" * 5000, None, 5):
        yield f"dtype {str(dtype)[:9]}", forged(a=entry(dtype=dtype))
    yield "no values", forged(b"", a=entry(shape=[0], data_offsets=[0, 0]))
    yield "no values in a second dimension", forged(b"", a=entry(shape=[5, 0], data_offsets=[0, 0]))
    shapes: list[Any] = [
        [-2],
        [2.0],
        [True, 2],
        ["2"],
        [None],
        "2",
        None,
        [3],
        [1],
        [2**31, 2**33],
        [2**63, 2],
        [1] * 100,
    ]
    for shape in shapes:
        yield f"shape {str(shape)[:20]}", forged(a=entry(shape=shape))
    for offsets in ([0], [0, 8, 8], [8, 0], [-8, 0], [0, 8.0], [0, 2**64], [0, None], "08", None, [0, 10**100]):
        yield f"offsets {str(offsets)[:20]}", forged(a=entry(data_offsets=offsets))
    yield "one key more", forged(a=entry(extra=1))
    yield "one key less", forged(a={"dtype": "F32", "shape": [2]})
    yield "no object", forged(a=5)
    for name in ("", "a b", "näme", "\x1b[2J", "a\nb", "x" * 129, "x" * 100_000, "\ud800"):
        yield f"name {name[:8]!r}", forged(**{name: entry()})


def not_finite() -> Iterator[tuple[str, bytes]]:
    for value in ("nan", "inf", "-inf"):
        for dtype, name in ((torch.float32, "F32"), (torch.float16, "F16"), (torch.bfloat16, "BF16")):
            body = bytes(torch.tensor([0.0, float(value)]).to(dtype).view(torch.uint8).tolist())
            yield f"{value} in {name}", forged(body, a=entry(dtype=name, data_offsets=[0, len(body)]))


def newer() -> Iterator[tuple[str, bytes]]:
    yield "version 2", forged(meta=metadata(softprompt="2"))
    yield "version 17 with other keys", forged(meta={"softprompt": "17", "blake3": "x"})


def changed() -> Iterator[tuple[str, bytes]]:
    data = pack(prompt(), CARD)
    yield "a value", data[:-1] + bytes([data[-1] ^ 1])
    yield "a word of the card", data.replace(b"good", b"goof")
    yield "no digest", lay_out({"__metadata__": metadata(), "a": entry()}, bytes(8))
    for digest in ("", "abc", "g" * 64, "0" * 63 + '"', "x" * 100_000):
        yield f"digest {digest[:5]!r} of {len(digest)}", forged(meta=metadata(sha256=digest))


HOSTILE: dict[str, Callable[[], Iterator[tuple[str, bytes]]]] = {
    "SP-E301": changed,
    "SP-E302": malformed,
    "SP-E304": oversized,
    "SP-E305": not_finite,
    "SP-E306": strangers,
    "SP-E307": newer,
    "SP-E309": bad_tensors,
}


@pytest.mark.parametrize("code", HOSTILE)
def test_each_hostile_file_is_refused_quickly_by_the_code_of_its_cause(code: str, tmp_path: Path) -> None:
    path = tmp_path / "prompt.safetensors"
    for name, data in HOSTILE[code]():
        path.write_bytes(data)
        start = time.process_time()
        with pytest.raises(ArtifactError) as caught:
            read_file(path)
        assert time.process_time() - start < 0.5, name
        assert caught.value.code == code, f"{name}: {caught.value}"
        assert caught.value.where == str(path)
        message = str(caught.value)
        assert len(message) < 500 + len(str(path)), name
        assert message.isprintable(), name


def test_pickles_and_archives_are_named_and_nothing_in_them_runs(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for name, data in archives(str(canary)):
        tracemalloc.start()
        with pytest.raises(ArtifactError) as caught:
            unpack(data)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert caught.value.code == "SP-E303", name
        assert "not opened" in str(caught.value)
        assert ("could run code" in str(caught.value)) == (
            "pickle" in name or "torch" in name or "zip b" in name[:5]
        ), name
        assert peak < 1 << 20, name
        assert not canary.exists()
    pickle.loads(pickle.dumps(Bomb(str(canary))))  # the bomb is live: it was not the test that was harmless
    assert canary.exists()


def test_there_are_more_than_a_hundred_hostile_files(tmp_path: Path) -> None:
    made = [case for family in HOSTILE.values() for case in family()] + list(archives(str(tmp_path / "canary")))
    assert len({data for _, data in made}) > 100


def test_nested_json_does_not_crash_where_the_stack_is_nearly_used_up() -> None:
    data = lay_out(b'{"a":' + b"[" * 100_000)

    def descend(depth: int) -> str:
        return code_of(data) if depth == 0 else descend(depth - 1)

    assert descend(600) == "SP-E302"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "absent")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "pipe", tmp_path / "dangling", Path("/dev/zero")):
        with pytest.raises(ArtifactError) as caught:
            read_file(path)
        assert caught.value.code == "SP-E308"


def test_a_file_over_the_limit_is_refused_by_size_alone(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with open(path, "wb") as file:
        file.truncate((512 << 20) + 1)
    start = time.process_time()
    with pytest.raises(ArtifactError, match="SP-E304"):
        read_file(path)
    assert time.process_time() - start < 0.1


def test_bytes_over_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pack(prompt(), CARD)
    monkeypatch.setattr(container, "FILE_LIMIT", len(data) - 1)
    assert code_of(data) == "SP-E304"


# ------------------------------------------------------------------------------------------------- what is not made


@pytest.mark.parametrize(
    ("tensors", "card", "code"),
    [
        ({"a": torch.tensor([float("nan")])}, "{}", "SP-E305"),
        ({"a": torch.tensor(float("-inf"), dtype=torch.bfloat16)}, "{}", "SP-E305"),
        ({}, "{}", "SP-E309"),
        ({"a": torch.zeros(0, 4)}, "{}", "SP-E309"),
        ({"a": torch.zeros(2, dtype=torch.float64)}, "{}", "SP-E309"),
        ({"a": torch.zeros(2, dtype=torch.bool)}, "{}", "SP-E309"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "{}", "SP-E309"),
        ({"a": torch.eye(2).to_sparse()}, "{}", "SP-E309"),
        ({"a": torch.zeros(2, device="meta")}, "{}", "SP-E309"),
        ({"a": torch.zeros([1] * 9)}, "{}", "SP-E309"),
        ({"": torch.zeros(2)}, "{}", "SP-E309"),
        ({"__metadata__": torch.zeros(2)}, "{}", "SP-E309"),
        ({"two words": torch.zeros(2)}, "{}", "SP-E309"),
        ({"\ud800": torch.zeros(2)}, "{}", "SP-E309"),
        ({f"t{i}": torch.zeros(1) for i in range(4097)}, "{}", "SP-E304"),
        ({"a": torch.zeros(2)}, json.dumps({"a": "x" * (1 << 20)}), "SP-E304"),
        ({"a": torch.zeros(2)}, "not json", "SP-E306"),
        ({"a": torch.zeros(2)}, "[1]", "SP-E306"),
        ({"a": torch.zeros(2)}, '{"a": NaN}', "SP-E306"),
        ({"a": torch.zeros(2)}, '{"a": 1, "a": 2}', "SP-E306"),
        ({"a": torch.zeros(2)}, '{"a": "\ud800"}', "SP-E306"),
        ({"a": torch.zeros(2)}, "[" * 100_000, "SP-E306"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(
    tmp_path: Path, tensors: dict[str, Tensor], card: str, code: str
) -> None:
    path = tmp_path / "prompt.safetensors"
    path.write_text("old")
    with pytest.raises(ArtifactError) as caught:
        write_file(path, tensors, card)
    assert caught.value.code == code
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == [path.name]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SoftpromptError, match=r"^SP-E501 [^\n]*$"):
        write_file(tmp_path / "absent" / "prompt.safetensors", prompt(), CARD)
