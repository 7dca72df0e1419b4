"""Writing so that nothing half-written is ever taken for whole: beside its place, synced, then renamed, by one at a time."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_SYNC_FILE_RANGE_WRITE, _ALL = 2, ctypes.c_int64(0)
_LIBC = ctypes.CDLL(None, use_errno=True)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; on leaving it is synced and renamed into place, on an error removed."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        sync(partial)
        into_place(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def alone(lock: Path, *, wait: bool) -> Iterator[None]:
    """Hold the file ``lock`` against everybody else, on this machine. BlockingIOError if another has it and ``wait`` is False."""
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it before has removed it: then this one may be a file that nobody else sees.
            if lock.exists() and os.path.samestat(os.fstat(handle), lock.stat()):
                break
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)


def missing_folders(path: Path) -> list[Path]:
    """``path`` and the folders above it, those that are not there, innermost first."""
    # Not Path.exists, which raises below a folder that may not be entered.
    return [folder for folder in (path, *path.parents) if not os.path.exists(folder)]  # noqa: PTH110


def open_regular(path: Path) -> int:
    """A handle to read ``path`` by. OSError if it is no regular file: a pipe or a device may wait, or go on, for ever."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait here for its other end
    try:
        check_regular(handle, path)
    except OSError:
        os.close(handle)
        raise
    return handle


class ReadFile(FileIO):
    """A file to read, which closes without a word when it is let go of: a dataset that trains a model is dropped, not closed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")

    def __del__(self) -> None:
        self.close()


def check_regular(handle: int, path: Path | str | bytes) -> None:
    """OSError if what is open is no regular file."""
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)


def into_place(written: Path, place: Path) -> None:
    """Rename what is written and synced to its place, so that it is there after a loss of power too."""
    written.replace(place)
    sync(place.parent)


def sync(path: Path) -> None:
    """fsync a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def begin_sync(path: Path) -> None:
    """Have the system begin to write a file that is being made, if it is there yet: ``sync`` then has little left to wait for.

    No more than a hint, and without effect where the system does not know it.
    """
    with suppress(OSError, AttributeError):
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _LIBC.sync_file_range(handle, _ALL, _ALL, _SYNC_FILE_RANGE_WRITE)
        finally:
            os.close(handle)


def sync_all(path: Path) -> None:
    """Everything written so far to the file system of ``path``: one call for many small files, where fsync is one each."""
    handle = os.open(path, os.O_RDONLY)
    try:
        syncfs = getattr(_LIBC, "syncfs", None)
        if syncfs is None or syncfs(handle) != 0:
            os.sync()
    finally:
        os.close(handle)


def exchange(one: Path, other: Path) -> bool:
    """Swap two paths in one step; False where the system or the file system cannot."""
    renameat2 = getattr(_LIBC, "renameat2", None)
    names = (os.fsencode(one), os.fsencode(other))
    return renameat2 is not None and renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0
