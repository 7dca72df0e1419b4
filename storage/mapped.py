"""Stored bytes without a copy: the files of a split, mapped one behind the other into one array, or one tensor of TensorFlow's.

A format that knows where its samples lie in its files (``Places``) is read from the page cache: rows of pixels are gathered,
by TensorFlow's own kernels or NumPy's, and encoded files are cut out. Nothing is read, and no memory taken, until a page is touched.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from storage.errors import DataError

if TYPE_CHECKING:
    import tensorflow as tf

Tensor: TypeAlias = Any

_PAGE, _HUGE_PAGE = 4096, 2 << 20
_ALIGNMENT = 64
"""Of a tensor's first byte."""
_LARGEST_GAP = 1 << 30
"""Addresses, not memory, that may lie between two files."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the samples of one shard lie in a file: ``starts`` and ``sizes`` in bytes, int64 (n,)."""

    path: Path
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]


def check_places(places: Places) -> Places:
    """``places`` if they lie inside their file. DataError if not: nothing is ever read beside a file."""
    size = places.path.stat().st_size
    # Compared without adding: a hostile start must not overflow.
    inside = (places.starts >= 0) & (places.sizes >= 0) & (places.sizes <= size) & (places.starts <= size - places.sizes)
    if not inside.all():
        number = int(np.argmin(inside))
        raise DataError(
            f"{places.path}: sample {number} is said to lie at byte {places.starts[number]}, {places.sizes[number]} long; "
            f"the file has {size} bytes, so it is damaged or hostile"
        )
    return places


class Region:
    """Files mapped read only into one range of addresses, which is given back when the last tensor on it is gone."""

    def __init__(self, files: Sequence[tuple[Path, int]], length: int) -> None:
        """``files`` with the offset (a multiple of the page) of each in the range of ``length`` bytes."""
        libc = _libc()
        reserved = length + _HUGE_PAGE
        start = libc.mmap(None, reserved, _PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        if start == _FAILED:
            raise OSError(ctypes.get_errno(), f"cannot reserve {reserved} bytes of addresses")
        self._end = weakref.finalize(self, libc.munmap, start, reserved)
        self.address = -(-start // _HUGE_PAGE) * _HUGE_PAGE
        self.length = length
        for path, at in files:
            handle = os.open(path, os.O_RDONLY)
            try:
                size = os.fstat(handle).st_size
                flags = mmap.MAP_SHARED | _MAP_FIXED
                if size and libc.mmap(self.address + at, size, mmap.PROT_READ, flags, handle, 0) == _FAILED:
                    raise OSError(ctypes.get_errno(), f"cannot map {path}")
            finally:
                os.close(handle)

    def array(self, at: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The bytes from ``at`` on as a uint8 array, which must not be written to, without a copy."""
        assert at + math.prod(shape) <= self.length
        return np.asarray(_Bytes(self, self.address + at, shape))

    def tensor(self, at: int, shape: tuple[int, ...]) -> tf.Tensor:
        """The same as a tensor. ``at`` must be a multiple of 64."""
        import tensorflow as tf

        assert at % _ALIGNMENT == 0
        with tf.device("CPU:0"):
            return tf.experimental.dlpack.from_dlpack(self.array(at, shape).__dlpack__())


class _Bytes:
    """NumPy's view of mapped bytes; keeps the region. (Not marked read only, since DLPack could not say so; nobody writes.)"""

    def __init__(self, region: Region, address: int, shape: tuple[int, ...]) -> None:
        self.region = region
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": shape, "data": (address, False)}


class MappedRows:
    """Raw samples that lie one behind the other in each file, as one array of rows; some between two files are nobody's."""

    def __init__(self, shards: Sequence[Places], row: int) -> None:
        """``shards`` must ``fit``."""
        files, firsts, at = [], [], 0
        page = next(p for p in _powers_down(_HUGE_PAGE, _PAGE) if p == _PAGE or math.lcm(p, row) <= _LARGEST_GAP)
        base = int(shards[0].starts[0])
        for shard in shards:
            start = int(shard.starts[0])
            # A multiple of the page that puts this file's rows in step with the first file's.
            at = _congruent(at, page, (base - start) % row, row)
            files.append((shard.path, at))
            firsts.append((at + start - base) // row)
            at += shard.path.stat().st_size
        counts = np.array([len(shard.starts) for shard in shards])
        self._base, self._shape = base, (firsts[-1] + int(counts[-1]), row)
        self._region = Region(files, max(at, base + math.prod(self._shape)))
        self._rows = self._region.array(base, self._shape)
        self.ends = np.cumsum(counts)
        """Samples up to the end of each file, int64."""
        self.shifts = np.array(firsts) - (self.ends - counts)
        """What to add to a sample's number for its row, by file."""

    @staticmethod
    def fit(shards: Sequence[Places], row: int) -> bool:
        """Whether each shard's samples lie one behind the other, ``row`` bytes each, in step across the files."""
        if not shards or any(len(shard.starts) == 0 for shard in shards):
            return False
        base = int(shards[0].starts[0])
        return base % _ALIGNMENT == 0 and all(
            bool((shard.sizes == row).all())
            and bool((np.diff(shard.starts) == row).all())
            and (int(shard.starts[0]) - base) % math.gcd(_PAGE, row) == 0
            for shard in shards
        )

    def tensor(self) -> tf.Tensor:
        """All rows, uint8 (rows, row), without a copy."""
        return self._region.tensor(self._base, self._shape)

    def take(self, indices: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Samples ``indices``, which must exist, into ``out``, contiguous uint8 (n, row)."""
        if len(self.ends) > 1:
            indices = indices + self.shifts[np.searchsorted(self.ends, indices, side="right")]
        # No number is out of range: "clip" is what copies straight into place, and lets go of Python's lock once for all.
        self._rows.take(indices, 0, out, "clip")


class _Captured:
    """A tensor that functions read without a copy of their own.

    tf.data copies what a function captures, all of it, when it looks for something to optimize: with mapped files that is the whole
    dataset, and the addresses between two files. A variable's handle is captured instead, and reading it shares the tensor.
    """

    def __init__(self, tensor: tf.Tensor) -> None:
        import tensorflow as tf
        from tensorflow.python.eager import context

        self._dtype, self._shape = tensor.dtype, tensor.shape
        with tf.init_scope(), tf.device("CPU:0"):
            # Without a name: it is gone with the last that holds its handle. Not a tf.Variable, which a strategy would mirror.
            self._handle = tf.raw_ops.VarHandleOp(dtype=self._dtype, shape=self._shape, shared_name=context.anonymous_name())
            tf.raw_ops.AssignVariableOp(resource=self._handle, value=tensor)

    def read(self) -> tf.Tensor:
        """The tensor, in the graph that asks for it."""
        import tensorflow as tf

        return tf.ensure_shape(tf.raw_ops.ReadVariableOp(resource=self._handle, dtype=self._dtype), self._shape)


class GraphRows:
    """``MappedRows`` as a graph gathers them: made once, eagerly, and captured."""

    def __init__(self, rows: MappedRows) -> None:
        import tensorflow as tf

        self._rows = _Captured(rows.tensor())
        self._ends, self._shifts = tf.constant(rows.ends, tf.int64), tf.constant(rows.shifts, tf.int64)

    def gather(self, indices: Tensor) -> Tensor:
        """uint8 (n, row) at ``indices``, int64 (n,)."""
        import tensorflow as tf

        if len(self._ends) > 1:
            indices += tf.gather(self._shifts, tf.searchsorted(self._ends, indices, side="right"))
        return tf.gather(self._rows.read(), indices)


class MappedBytes:
    """Samples anywhere in their files, of any size."""

    def __init__(self, shards: Sequence[Places]) -> None:
        import tensorflow as tf

        files, starts, at = [], [], 0
        for shard in shards:
            files.append((shard.path, at))
            starts.append(shard.starts + at)
            at += -(-shard.path.stat().st_size // _PAGE) * _PAGE
        length = max(at, _PAGE)
        self._bytes = _Captured(Region(files, length).tensor(0, (length,)))
        self._starts = tf.constant(np.concatenate(starts), tf.int64)
        self._sizes = tf.constant(np.concatenate([shard.sizes for shard in shards]), tf.int64)
        self._header = int(starts[0][0]) % _PAGE if len(starts[0]) else 0

    @staticmethod
    def fit(shards: Sequence[Places], row: int) -> bool:
        """Whether all samples begin equally far behind a page's start, ``row`` bytes each, so that pages can be gathered."""
        if not shards or len(shards[0].starts) == 0:
            return False
        header = int(shards[0].starts[0]) % _PAGE
        return all(bool((s.starts % _PAGE == header).all()) and bool((s.sizes == row).all()) for s in shards)

    def gather(self, indices: Tensor, row: int) -> Tensor:
        """uint8 (n, row): their pages gathered, then what is theirs cut out. See ``fit``."""
        import tensorflow as tf

        count = -(-(self._header + row) // _PAGE)
        pages = tf.reshape(self._bytes.read(), (-1, _PAGE))
        first = tf.gather(self._starts, indices) // _PAGE
        found = tf.gather(pages, first[:, tf.newaxis] + tf.range(count, dtype=tf.int64))
        return tf.reshape(found, (-1, count * _PAGE))[:, self._header : self._header + row]

    def places(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Start and size in the region, int64 (n,) each, for ``cut``."""
        import tensorflow as tf

        return tf.gather(self._starts, indices), tf.gather(self._sizes, indices)

    def cut(self, start: Tensor, size: Tensor) -> Tensor:
        """One sample as a string scalar."""
        return cut(self._bytes.read(), start, size)


def cut(content: Tensor, start: Tensor, size: Tensor) -> Tensor:
    """``size`` bytes from ``start`` on of a uint8 vector, as a string scalar.

    TensorFlow has no operation from bytes to a string, but a serialized tensor ends with its bytes. A slice that begins at a
    multiple of 64 is not copied.
    """
    import tensorflow as tf

    before = start % _ALIGNMENT
    part = tf.slice(content, [start - before], [before + size])
    serialized = tf.io.serialize_tensor(part)
    length = tf.cast(size, tf.int32)
    return tf.strings.substr(serialized, -length, length)


def _powers_down(largest: int, least: int) -> list[int]:
    return [1 << power for power in range(largest.bit_length() - 1, least.bit_length() - 2, -1)]


def _congruent(least: int, page: int, rest: int, row: int) -> int:
    """The first multiple of ``page`` from ``least`` on that leaves ``rest`` when divided by ``row``."""
    common = math.gcd(page, row)
    step = row // common
    first = -(-least // page)
    wanted = rest // common * pow(page // common, -1, step) % step if step > 1 else 0
    return (first + (wanted - first) % step) * page


_FAILED = ctypes.c_void_p(-1).value
_PROT_NONE, _MAP_FIXED = 0, 0x10


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_int64]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc
