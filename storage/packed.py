"""Many short texts in two arrays: what a million keys cost is their bytes and an offset each, not a Python object each."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from storage.errors import DataError


def pack(texts: Iterable[str]) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
    """UTF-8 bytes one after the other (uint8), and where each begins and the last ends (uint64, n + 1)."""
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    offsets = np.zeros(len(encoded) + 1, np.uint64)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    return np.frombuffer(b"".join(encoded), np.uint8), offsets


def unpack(blob: NDArray[np.uint8], offsets: NDArray[np.uint64], index: int) -> str:
    """The text at ``index``."""
    return blob[int(offsets[index]) : int(offsets[index + 1])].tobytes().decode("utf-8", "surrogateescape")


def check_offsets(offsets: NDArray[np.uint64], samples: int, length: int, where: str) -> NDArray[np.uint64]:
    """``offsets`` if they cut ``length`` bytes into ``samples`` pieces, in order; DataError, naming ``where``, if not."""
    ordered = len(offsets) == samples + 1 and offsets[0] == 0 and offsets[-1] == length
    if not ordered or np.any(offsets[1:] < offsets[:-1]):
        raise DataError(f"{where}: offsets do not cut {length} bytes into {samples} samples; the shard is damaged")
    return offsets


def leads_out(blob: NDArray[np.uint8], offsets: NDArray[np.uint64]) -> int | None:
    """The first text that is no relative path inside a folder: with a part that is empty, ``.`` or ``..``, or a zero; or None."""
    slashes = np.flatnonzero(blob == ord("/"))
    # A part runs from behind a slash, or a text's start, to the next slash or the text's end.
    begins = np.sort(np.concatenate([slashes + 1, offsets[:-1].astype(np.int64)]))
    ends = np.sort(np.concatenate([slashes, offsets[1:].astype(np.int64)]))
    lengths = ends - begins
    dots = np.cumsum(np.concatenate([[0], blob == ord(".")]))
    wrong = (lengths <= 2) & (dots[ends] - dots[begins] == lengths)
    at = np.concatenate([begins[wrong], np.flatnonzero(blob == 0)])
    return int(np.searchsorted(offsets, at.min(), side="right")) - 1 if len(at) else None
