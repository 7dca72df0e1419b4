"""Memory that batches are made in: aligned as TensorFlow wants it, and used again once nobody holds the batch.

A batch of 32 images of 160 × 160 is 2.5 MB: fresh from the system, it costs 600 page faults. So blocks are kept. Whether a
block is free is not guessed from how many batches came after it: a user may hold a batch as long as he likes. Every view of a
block, and every tensor made of a view without a copy, counts as a reference to the block itself; a block without any is free.
"""

from __future__ import annotations

import sys
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64
"""Bytes. TensorFlow copies what is aligned less."""


class BatchMemory:
    """Blocks for arrays of one shape and dtype; at most ``keep`` of them are kept for later."""

    def __init__(self, shape: tuple[int, ...], dtype: str, keep: int) -> None:
        self._shape, self._dtype, self._keep = shape, np.dtype(dtype), keep
        self._bytes = int(np.prod(shape, dtype=np.int64)) * self._dtype.itemsize
        self._blocks: list[NDArray[np.uint8]] = []
        self._whole: list[NDArray[Any]] = []
        """A view of each block, made once: making one takes 4 µs, a fortieth of copying a batch into it."""
        self._lock = Lock()

    def take(self, count: int) -> NDArray[Any]:
        """An array of ``shape``, cut to its first ``count`` rows, with anything in it, that nobody else holds."""
        with self._lock:
            for index, whole in enumerate(self._whole):
                if _references(self._blocks, index) == UNHELD:
                    return whole[:count]
            block = np.empty(self._bytes + ALIGNMENT, np.uint8)
            whole = self._view(block)
            if len(self._blocks) < self._keep:
                self._blocks.append(block)
                self._whole.append(whole)
            return whole[:count]

    def _view(self, block: NDArray[np.uint8]) -> NDArray[Any]:
        start = -block.ctypes.data % ALIGNMENT
        return block[start : start + self._bytes].view(self._dtype).reshape(self._shape)


def _references(blocks: list[NDArray[np.uint8]], index: int) -> int:
    return sys.getrefcount(blocks[index])


def _unheld() -> int:
    block = np.empty(1, np.uint8)
    blocks, whole = [block], block.view(np.int8)
    del block
    assert whole.base is blocks[0]
    return _references(blocks, 0)


UNHELD = _unheld()
"""What is counted of a block that only its list and its one view know."""
