"""A training state survives bit for bit, and no failure hides the last valid one."""

import hashlib
import json
import os
import random
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load
from safetensors.torch import save as plain_save
from test_files import FAULTS, every_fault, parts
from torch import Tensor

from softprompt import checkpoint
from softprompt.checkpoint import JSON, State, newest, save
from softprompt.errors import SoftpromptError, TrainingError
from softprompt.files import sweep

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.uint8, torch.int64, torch.int32]
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def raw(tensor: Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())


def same(a: State, b: State) -> bool:
    facts = [
        (state.step, state.meta, {n: (t.dtype, t.shape, raw(t)) for n, t in state.tensors.items()}) for state in (a, b)
    ]
    return facts[0] == facts[1]


def noise(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> Tensor:
    """Every bit at random: NaNs with payloads, infinities, denormals."""
    count = torch.Size(shape).numel() * dtype.itemsize
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count,), generator=generator, dtype=torch.uint8).view(dtype).reshape(shape)


def state(step: int) -> State:
    return State(step, {"prompt": noise(torch.float32, (4, 8), step), "moment": torch.tensor(step)}, {"epoch": step})


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), max_size=4),
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=4, max_size=4),
    meta=st.dictionaries(st.text(), PLAIN, max_size=4),
    step=st.integers(0, 10**10),
)
def test_a_state_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory,
    shapes: list[tuple[int, ...]],
    dtypes: list[torch.dtype],
    meta: dict[str, JSON],
    step: int,
) -> None:
    folder = tmp_path_factory.mktemp("run")
    tensors = {f"t{i}": noise(dtypes[i], shape, i) for i, shape in enumerate(shapes)}
    before = State(step, tensors, meta)
    save(folder, before)
    after, notes = newest(folder)
    assert after is not None
    assert same(before, after)
    assert notes == []


def test_nan_payloads_scalars_views_and_shared_storage_come_back(tmp_path: Path) -> None:
    table = noise(torch.float32, (6, 4), 1)
    tensors = {
        "nan": torch.tensor([0x7FC00123, -0x3FFEDD], dtype=torch.int32).view(torch.float32),
        "scalar": torch.tensor(3.5, requires_grad=True),
        "transposed": table.t(),
        "strided": table[::2, 1:3],
        "expanded": table[:1].expand(5, 4),
        "tied": table,
        "tied_too": table,
    }
    before = State(7, tensors, {"best": float("-inf"), "names": ["a", None, True, 2**70]})
    save(tmp_path, before)
    after, _ = newest(tmp_path)
    assert after is not None
    assert same(before, after)
    after.tensors["tied"].zero_()
    assert raw(after.tensors["tied_too"]) == raw(table)


def test_equal_states_are_equal_files_and_hold_plain_safetensors(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first, second = save(tmp_path, state(5)), save(tmp_path / "other", state(5))
    assert first.name == "state-000000005.sp"
    assert first.read_bytes() == second.read_bytes()
    header, payload = first.read_bytes().split(b"\n", 1)
    assert header.startswith(b"softprompt-state 1 ")
    assert raw(load(payload)["prompt"]) == raw(state(5).tensors["prompt"])


def test_an_empty_or_absent_folder_holds_no_state(tmp_path: Path) -> None:
    assert newest(tmp_path) == (None, [])
    assert newest(tmp_path / "absent") == (None, [])


def test_only_the_newest_states_are_kept(tmp_path: Path) -> None:
    for step in range(1, 8):
        save(tmp_path, state(step), keep=3)
    assert sorted(os.listdir(tmp_path)) == [f"state-{step:09d}.sp" for step in (5, 6, 7)]


def test_a_state_of_a_later_step_is_never_dropped(tmp_path: Path) -> None:
    for step in (8, 9):
        save(tmp_path, state(step), keep=1)
    for step in (1, 2, 3):
        save(tmp_path, state(step), keep=1)
    assert sorted(os.listdir(tmp_path)) == [f"state-{step:09d}.sp" for step in (3, 9)]


def test_order_is_by_number_not_by_name(tmp_path: Path) -> None:
    for step in (999_999_999, 1_000_000_000):
        save(tmp_path, state(step))
    found, _ = newest(tmp_path)
    assert found is not None
    assert found.step == 1_000_000_000


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("state-1.sp", "state-000000009.sp.bak", "notes.txt", "xstate-000000009.sp"):
        (tmp_path / name).write_text("mine")
    for step in range(5):
        save(tmp_path, state(step), keep=1)
    found, notes = newest(tmp_path)
    assert found is not None
    assert (found.step, notes, len(os.listdir(tmp_path))) == (4, [], 5)


def damaged(data: bytes, seed: int) -> bytes:
    """One of: a flipped bit, a cut, an appended byte, a zeroed run."""
    rng = random.Random(seed)
    at = rng.randrange(len(data))
    match seed % 4:
        case 0:
            return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        case 1:
            return data[:at]
        case 2:
            return data + bytes([rng.randrange(256)])
        case _:
            return data[:at] + bytes(len(data[at : at + 64])) + data[at + 64 :]


def test_the_newest_valid_state_wins_whatever_the_damage_to_newer_ones(tmp_path: Path) -> None:
    save(tmp_path, state(1))
    path = save(tmp_path, state(2))
    whole = path.read_bytes()
    changed = [data for seed in range(800) if (data := damaged(whole, seed)) != whole]
    assert len(changed) > 700
    for data in changed:
        path.write_bytes(data)
        found, notes = newest(tmp_path)
        assert found is not None
        assert same(found, state(1))
        assert len(notes) == 1
        assert notes[0].startswith("SP-E503 ")
        assert path.name in notes[0]


def test_every_damage_at_once_leaves_a_list_and_no_state(tmp_path: Path) -> None:
    good = save(tmp_path, state(1)).read_bytes()
    save(tmp_path, state(1)).write_bytes(b"")
    (tmp_path / "state-000000002.sp").mkdir()
    os.mkfifo(tmp_path / "state-000000003.sp")
    (tmp_path / "state-000000004.sp").write_bytes(good)  # the state of step 1
    (tmp_path / "state-000000005.sp").write_bytes(good.replace(b"state 1 ", b"state 2 ", 1))
    (tmp_path / "state-000000006.sp").symlink_to(tmp_path / "absent")
    (tmp_path / "state-000000007.sp").write_bytes(b"\x80\x04}.")
    found, notes = newest(tmp_path)
    assert found is None
    assert [note.split()[0] for note in notes] == [
        "SP-E503",
        "SP-E308",
        "SP-E503",
        "SP-E503",
        "SP-E308",
        "SP-E308",
        "SP-E503",
    ]


@pytest.mark.parametrize("meta", ["[" * 100_000, "{}", '{"step": 2}', "[]", "null", '{"step": 2, "meta": NaN'])
def test_a_valid_checksum_over_nonsense_is_passed_over(tmp_path: Path, meta: str) -> None:
    payload = plain_save({"a": torch.ones(1)}, {"state": meta})
    for n, content in enumerate((payload, payload[:20], b"", b"\xff" * 40)):
        digest = hashlib.sha256(content).hexdigest()
        path = tmp_path / f"state-{n:09d}.sp"
        path.write_bytes(f"softprompt-state 1 {digest}\n".encode() + content)
    found, notes = newest(tmp_path)
    assert found is None
    assert len(notes) == 4


def test_every_fault_at_every_system_call_of_a_save_leaves_a_readable_state(tmp_path: Path) -> None:
    injected: dict[str, int] = dict.fromkeys(FAULTS, 0)

    def prepare() -> None:
        for name in os.listdir(tmp_path):
            os.unlink(tmp_path / name)
        save(tmp_path, state(1))

    for faults, error in every_fault(lambda: save(tmp_path, state(2), keep=1), prepare):
        injected[faults.fault] += 1
        found, notes = newest(tmp_path)
        assert notes == []
        assert found is not None
        assert same(found, state(found.step))
        if error is None and faults.fault != "exit":
            assert found.step == 2
        else:
            renamed = "replace" in faults.calls[: faults.n - 1]
            assert found.step == (2 if renamed else 1)
        if faults.fault == "exit":
            sweep(tmp_path)
        assert parts(tmp_path) == []
        if error is not None:
            assert isinstance(error, SoftpromptError)
            assert error.code == "SP-E501"
    assert min(injected.values()) >= 10


def test_a_reader_beside_the_writer_never_sees_a_torn_state(tmp_path: Path) -> None:
    save(tmp_path, state(0))
    writer = threading.Thread(target=lambda: [save(tmp_path, state(step), keep=50) for step in range(1, 40)])
    writer.start()
    seen = []
    while writer.is_alive():
        found, notes = newest(tmp_path)
        assert found is not None
        assert same(found, state(found.step))
        assert notes == []
        seen.append(found.step)
    writer.join()
    assert seen
    assert seen == sorted(seen)


def test_a_state_too_large_to_read_back_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "LIMIT", 300)
    with pytest.raises(TrainingError, match="SP-E502"):
        save(tmp_path, state(1))
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_listed_is_an_error_and_not_a_fresh_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="SP-E504"):
        newest(tmp_path / "file")
    with pytest.raises(SoftpromptError, match="SP-E501"):
        save(tmp_path / "file", state(1))


@pytest.mark.parametrize(("step", "keep"), [(1, 0), (-1, 3)])
def test_a_negative_step_or_keeping_nothing_is_refused(tmp_path: Path, step: int, keep: int) -> None:
    with pytest.raises(ValueError, match="keep and step"):
        save(tmp_path, State(step, {}, {}), keep)


def test_the_metadata_is_json_that_anyone_can_read(tmp_path: Path) -> None:
    payload = save(tmp_path, state(3)).read_bytes().split(b"\n", 1)[1]
    header = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
    assert json.loads(header["__metadata__"]["state"]) == {"step": 3, "meta": {"epoch": 3}}
