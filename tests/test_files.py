"""Files are whole or absent, whatever the system does, and only regular ones are read."""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.errors import ArtifactError, SoftpromptError
from softprompt.files import read_regular, sweep, write_atomically

CALLS = ["open", "write", "fsync", "close", "replace", "unlink", "stat", "fstat", "listdir"]
FAULTS = ["EIO", "ENOSPC", "EINTR", "short", "exit"]


class Exit(BaseException):
    """The process is gone: no call after this one reaches the system."""


class Faults:
    """Stands between the package and the system: counts the calls, and fails the n-th one in a chosen way."""

    def __init__(self, fault: str, n: int) -> None:
        self.fault, self.n = fault, n
        self.calls: list[str] = []
        self.dead = False
        self.real: dict[str, Callable[..., Any]] = {name: getattr(os, name) for name in CALLS}

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(name)
        hit = len(self.calls) == self.n
        self.dead = self.dead or (hit and self.fault == "exit")
        fails = self.dead or (hit and self.fault != "short")
        if fails and name == "close":
            self.real["close"](*args)  # the system closes it in any case
        if self.dead:
            raise Exit
        if fails:
            number = getattr(errno, self.fault)
            raise OSError(number, os.strerror(number))
        if self.fault == "short" and name == "write" and len(self.calls) >= self.n:
            descriptor, data = args
            return self.real["write"](descriptor, data[: max(1, len(data) // 3)])
        return self.real[name](*args, **kwargs)

    @contextmanager
    def active(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, lambda *a, _name=name, **k: self.call(_name, *a, **k))
            yield


def every_fault(act: Callable[[], object], prepare: Callable[[], object]) -> Iterator[tuple[Faults, Exception | None]]:
    """Run `act` once for each fault at each of its system calls; yield after each what was injected and raised."""
    for fault in FAULTS:
        n, reached = 0, True
        while reached:
            n += 1
            prepare()
            faults, raised = Faults(fault, n), None
            with suppress(Exit), faults.active():
                try:
                    act()
                except SoftpromptError as error:
                    raised = error
            reached = len(faults.calls) >= n
            if reached:
                yield faults, raised


def parts(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.endswith(".part")]


@settings(max_examples=30, deadline=None)
@given(data=st.binary(max_size=4096))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("round") / "a.bin"
    write_atomically(path, data)
    assert read_regular(path, 4096) == data
    assert parts(path.parent) == []


def test_the_bytes_are_on_the_disk_before_the_name_is_and_the_name_before_we_return(tmp_path: Path) -> None:
    faults = Faults("EIO", 0)
    with faults.active():
        write_atomically(tmp_path / "a.bin", b"new")
    order = [name for name in faults.calls if name not in ("stat", "close")]
    assert order == ["open", "write", "fsync", "replace", "open", "fsync"]


def test_every_fault_at_every_call_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path, old, new = tmp_path / "a.bin", b"old" * 100, b"new" * 200
    seen: set[tuple[str, str]] = set()

    def prepare() -> None:
        sweep(tmp_path)
        path.write_bytes(old)

    for faults, error in every_fault(lambda: write_atomically(path, new), prepare):
        call = faults.calls[faults.n - 1]
        seen.add((faults.fault, call))
        content = path.read_bytes()
        assert content in (old, new)
        renamed = "replace" in faults.calls[: faults.n - 1]
        assert content == (new if renamed or faults.fault == "short" else old)
        if faults.fault == "exit":
            sweep(tmp_path)
        elif faults.fault != "short":
            assert isinstance(error, SoftpromptError)
            assert error.code == "SP-E501"
            assert os.strerror(getattr(errno, faults.fault)).lower() in str(error)
        assert parts(tmp_path) == []
    assert {call for _, call in seen} >= {"open", "write", "fsync", "close", "replace"}
    assert {fault for fault, _ in seen} == set(FAULTS)


def test_a_killed_write_leaves_a_part_that_the_sweep_takes_and_nothing_else(tmp_path: Path) -> None:
    mine = tmp_path / "movie.part"
    mine.write_bytes(b"someone's download")
    faults = Faults("exit", 3)
    with suppress(Exit), faults.active():
        write_atomically(tmp_path / "a.bin", b"new")
    assert len(parts(tmp_path)) == 2
    removed = sweep(tmp_path)
    assert [path.suffix for path in removed] == [".part"]
    assert parts(tmp_path) == ["movie.part"]
    assert sweep(tmp_path / "absent") == []


def test_an_interrupt_while_writing_removes_the_part_and_goes_on_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a.bin", b"new")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_a_folder_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(tmp_path / "a.bin", b"new")
    assert (tmp_path / "a.bin").read_bytes() == b"new"


def test_a_place_that_is_no_file_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(SoftpromptError, match=r"SP-E501 .*in its place"):
            write_atomically(tmp_path / name, b"new")
    with pytest.raises(SoftpromptError, match=r"SP-E501 .*a device in its place"):
        write_atomically(Path("/dev/null"), b"new")
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


@pytest.mark.parametrize("name", ["absent/a.bin", "a\0.bin", "x" * 300, "file/a.bin"])
def test_a_path_that_cannot_be_written_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SoftpromptError, match=r"^SP-E501 [^\n]*$"):
        write_atomically(tmp_path / name, b"new")
    assert os.listdir(tmp_path) == ["file"]


def irregular(folder: Path) -> Iterator[tuple[str, Path]]:
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    (folder / "to_pipe").symlink_to(folder / "pipe")
    (folder / "to_folder").symlink_to(folder / "folder")
    (folder / "dangling").symlink_to(folder / "absent")
    (folder / "loop").symlink_to(folder / "loop")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(folder)  # the name of a socket has at most 107 bytes
        listener.bind("socket")
        os.chdir(here)
    for name in ("pipe", "folder", "to_pipe", "to_folder", "dangling", "loop", "socket", "absent", "nul\0"):
        yield name, folder / name
    yield "zero", Path("/dev/zero")


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    for name, path in irregular(tmp_path):
        with pytest.raises(ArtifactError) as caught:
            read_regular(path, 100)
        assert caught.value.code == "SP-E308", name
    with pytest.raises(ArtifactError, match="named pipe"):
        read_regular(tmp_path / "to_pipe", 100)


def test_a_link_to_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"text")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_regular(tmp_path / "link", 4) == b"text"


def test_a_file_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ArtifactError) as caught:
        read_regular(tmp_path / "sparse", 1 << 29)
    assert caught.value.code == "SP-E304"


@pytest.mark.parametrize("change", [b"", b"0123", b"0123456789abc", b"other text"], ids=["gone", "cut", "more", "same"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: bytes
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"0123456789")
    real, times = os.fstat, []

    def fstat(descriptor: int) -> os.stat_result:
        if times:  # before the second look: after the read
            path.write_bytes(change)
            os.utime(path, ns=(1, 1))
        times.append(descriptor)
        return real(descriptor)

    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(ArtifactError, match=r"SP-E308 .* changed while it was read"):
        read_regular(path, 100)


def test_a_file_that_claims_to_be_empty_but_is_not_is_refused() -> None:
    endless = Path("/proc/self/status")
    if not endless.exists():
        pytest.skip("needs /proc")
    with pytest.raises(ArtifactError, match="SP-E308"):
        read_regular(endless, 1 << 20)
