"""The page cache: files proven resident, or proven gone, by mincore; or neither, and then it is said.

``mincore`` on a map tells which pages are in memory without touching them. ``posix_fadvise(DONTNEED)`` drops a file's clean
pages, no root needed; pages that another map holds, and a tmpfs, it leaves: the share afterwards shows it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CHUNK = 1 << 24


@dataclass(frozen=True)
class State:
    """``share`` of the dataset's pages that are resident, 0 to 1; None if there is nothing to ask about."""

    share: float | None
    bytes: int = 0


def warm(path: Path | None) -> State:
    """Read whatever of a dataset is not resident yet, then ask again."""
    if path is None:
        return State(None)
    state = resident(path)
    if state.share is not None and state.share < 1:
        for file in _files(path):
            with file.open("rb") as opened:
                while opened.read(CHUNK):
                    pass
        state = resident(path)
    return state


def drop(path: Path) -> State:
    """Drop exactly this dataset's pages; the state afterwards is the proof, or shows that there is none."""
    for file in _files(path):
        with file.open("rb") as opened:
            # Dirty pages are not dropped, so they are written first.
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return resident(path)


def resident(path: Path) -> State:
    """The share of a dataset's pages that are in memory."""
    pages = present = size = 0
    for file in _files(path):
        file_pages, file_present = _pages(file)
        pages, present, size = pages + file_pages, present + file_present, size + file.stat().st_size
    return State(present / pages if pages else None, size)


def _files(path: Path) -> Iterator[Path]:
    """The files that hold samples and indexes. The manifest is left out: it is open to whoever asks about the dataset."""
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.name != "dataset.json" and file.stat().st_size:
            yield file


def _pages(file: Path) -> tuple[int, int]:
    """(pages of a file, pages of them in memory)."""
    libc = ctypes.CDLL(None, use_errno=True)
    size = file.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    found = (ctypes.c_ubyte * pages)()
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), size, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
        address = _address(mapped)
        if libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), found):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(file))
    return pages, int((np.frombuffer(bytes(found), np.uint8) & 1).sum())


def _address(mapped: mmap.mmap) -> int:
    """Where a map lies. NumPy finds the address of a read-only buffer; ctypes wants a writable one."""
    return int(np.frombuffer(mapped, np.uint8, count=1).ctypes.data)
