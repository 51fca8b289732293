"""Files that are whole or absent: written by temp file, fsync, rename and fsync of the folder; read only if regular."""

import errno
import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from softprompt.errors import ArtifactError, SoftpromptError

TEMPORARY = re.compile(r"\.softprompt-[0-9a-f]{16}\.part")  # only our own: `.part` files of others are left alone
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP)  # what network and user-space file systems answer


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` at `path` so that a reader, or a machine after a crash, sees the old file or the new one, never less.

    Raises SoftpromptError SP-E501 when the system refuses; the old file is then intact and no temporary file is left.
    (If only the last step fails, the fsync of the folder, the new file is whole and in place, but may not outlive a
    power cut.)
    """
    temporary = path.parent / f".softprompt-{secrets.token_hex(8)}.part"
    try:
        _refuse_special(path)
        _write_through(temporary, data)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, ValueError) as error:  # ValueError: a path that cannot be one, such as one with a NUL
        _discard(temporary)
        do = "free space, or choose an existing folder that you may write to, then repeat"
        raise SoftpromptError("SP-E501", _reason(error), "to write the file", do, where=str(path)) from error
    except BaseException:  # Ctrl-C, or a signal handler that ends the process
        _discard(temporary)
        raise


def sweep(folder: Path) -> list[Path]:
    """Remove what killed writers left in `folder`, and say what was removed.

    Call it when no one else writes there: it also takes the temporary file of a writer at work, whose write then fails
    with SP-E501. A file that cannot be removed stays; it does no harm.
    """
    removed: list[Path] = []
    with suppress(OSError):
        for name in sorted(os.listdir(folder)):
            if TEMPORARY.fullmatch(name):
                os.unlink(folder / name)
                removed.append(folder / name)
    return removed


def read_regular(path: Path, limit: int) -> bytes:
    """The bytes of a regular file, or of one that a link leads to, of at most `limit` bytes.

    Raises ArtifactError SP-E308 when there is no such file, when it is a folder, a pipe or a device, or when it changes
    while being read, and SP-E304 when it is larger.
    """
    where = str(path)
    try:
        _require_regular(os.stat(path), where)  # before opening: opening a device can set it going
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:
            before = os.fstat(descriptor)
            _require_regular(before, where)  # again: the name may lead to a pipe by now, which is why NONBLOCK
            if before.st_size > limit:
                found, do = f"{before.st_size:,} bytes", "check that this is the right file"
                raise ArtifactError("SP-E304", found, f"at most {limit:,} bytes", do, where=where)
            data = file.read(before.st_size + 1)
            after = os.fstat(descriptor)
    except (OSError, ValueError) as error:
        do = "check the path and that you may read it"
        raise ArtifactError("SP-E308", _reason(error), "a readable file", do, where=where) from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or len(data) != before.st_size:
        found, do = "a file that changed while it was read", "wait until its writer is done, then repeat"
        raise ArtifactError("SP-E308", found, "a file at rest", do, where=where)
    return data


def _require_regular(status: os.stat_result, where: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        do = "give the path of the file itself"
        raise ArtifactError("SP-E308", _kind(status.st_mode), "a regular file", do, where=where)


def _refuse_special(path: Path) -> None:
    """A rename would replace what is not a file too: `/dev/null` written by root would be gone."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"{_kind(mode)} in its place")


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device"


def _write_through(path: Path, data: bytes) -> None:
    """Create `path` with `data` on the disk, not only in the cache."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o666)  # the umask decides, as for any other file of this user
    try:
        rest = memoryview(data)
        while rest:  # a write may take only a part; Python itself repeats one that a signal cut short (PEP 475)
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Without this the rename itself may be forgotten in a power cut."""
    if os.name == "nt":  # folders cannot be opened there, and renames are journalled
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def _discard(path: Path) -> None:
    with suppress(OSError, ValueError):
        os.unlink(path)


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
