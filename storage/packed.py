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
    cuts = offsets.astype(np.int64)
    # One place more at either end, so that looking before the first and behind the last byte is no special case.
    starts = np.zeros(len(blob) + 2, np.bool_)
    starts[cuts] = True
    slash = np.concatenate([blob == ord("/"), [False, False]])
    slashes, dots = np.flatnonzero(slash), np.flatnonzero(blob == ord("."))

    def begins(at: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether a part begins at these places."""
        return np.asarray(starts[at] | slash[at - 1])

    def ends(at: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether a part has its last byte at these places."""
        return np.asarray(starts[at + 1] | slash[at + 1])

    first = dots[begins(dots)]
    two = first[(blob[np.minimum(first + 1, len(blob) - 1)] == ord(".")) & ~ends(first)]
    wrong = (
        slashes[begins(slashes) | starts[slashes + 1]],
        first[ends(first)],
        two[ends(two + 1)],
        np.flatnonzero(blob == 0),
        cuts[:-1][np.diff(cuts) == 0],
    )
    places = np.concatenate(wrong)
    return int(np.searchsorted(cuts, places.min(), side="right")) - 1 if len(places) else None
