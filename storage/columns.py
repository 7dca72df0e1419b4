"""What a shard keeps of every sample beside its image, while it is written: some bytes a sample, not Python objects."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.base import Sample
from storage.checksum import crc32c


class Columns:
    """Keys, labels, sizes and checksums of the samples that were added, in their order."""

    def __init__(self) -> None:
        self._keys = bytearray()
        self._key_ends = array("Q", [0])
        self._labels = array("q")
        self._sizes = array("Q")
        self._sums = array("I")

    def __len__(self) -> int:
        return len(self._labels)

    def add(self, sample: Sample, stored: bytes | NDArray[np.uint8]) -> None:
        """One sample, of which ``stored`` is what its checksum covers: a file's bytes, or pixels in C order."""
        self._keys += sample.key.encode("utf-8", "surrogateescape")
        self._key_ends.append(len(self._keys))
        self._labels.append(sample.label)
        self._sizes.append(len(stored) if isinstance(stored, bytes) else stored.nbytes)
        self._sums.append(crc32c(stored))

    def key(self, index: int) -> str:
        """The key of one sample."""
        return self._keys[self._key_ends[index] : self._key_ends[index + 1]].decode("utf-8", "surrogateescape")

    @property
    def key_bytes(self) -> int:
        """How long all keys are together, in UTF-8."""
        return len(self._keys)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Int64 (n,)."""
        return np.frombuffer(self._labels, np.int64)

    @property
    def sizes(self) -> NDArray[np.uint64]:
        """Bytes that are stored of each image: uint64 (n,)."""
        return np.frombuffer(self._sizes, np.uint64)

    def tables(self) -> dict[str, NDArray[Any]]:
        """``labels`` int64 (n,), ``keys`` uint8, ``key_offsets`` uint64 (n + 1,), ``crc32c`` uint32 (n,): what readers find by name.

        Nothing can be added while they are held.
        """
        return {
            "labels": self.labels,
            "keys": np.frombuffer(self._keys, np.uint8),
            "key_offsets": np.frombuffer(self._key_ends, np.uint64),
            "crc32c": np.frombuffer(self._sums, np.uint32),
        }
