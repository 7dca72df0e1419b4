"""Checksums: CRC32C for a sample, XXH3-128 for a shard. Against decay and accidents, not against an adversary."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import google_crc32c
import numpy as np
import xxhash
from numpy.typing import NDArray

from storage.files import open_regular

_CHUNK = 1 << 20


def crc32c(image: bytes | NDArray[np.uint8]) -> int:
    """CRC32C (Castagnoli, RFC 3720) of an encoded file, or of a raw image's bytes in C order."""
    return int(google_crc32c.value(image if isinstance(image, bytes) else np.ascontiguousarray(image)))


def digest(chunks: Iterable[bytes | memoryview]) -> str:
    """XXH3-128 over all chunks in order, as ``xxh3:HEX``."""
    state = xxhash.xxh3_128()
    for chunk in chunks:
        state.update(chunk)
    return f"xxh3:{state.hexdigest()}"


def file_chunks(path: Path) -> Iterator[memoryview]:
    """A file's bytes, a megabyte at a time, each in the place of the one before: use it at once."""
    chunk = memoryview(bytearray(_CHUNK))  # reused: fresh memory for each chunk costs more than hashing it
    with os.fdopen(open_regular(path), "rb", buffering=0) as file:
        while count := file.readinto(chunk):
            yield chunk[:count]


def written_digest(path: Path) -> str:
    """``digest`` of a file that this process has just written: mapped, which takes half the time of reading it.

    Not for files that may be damaged: a map answers an error of the disk by ending the process.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
        return f"xxh3:{xxhash.xxh3_128_hexdigest(content)}"
