"""How plain Python reads a split at random into memory that is there: nothing is allocated for an image, or as good as nothing.

Where a format says where its images lie (``SupportsPlaces``), its files are mapped, and an encoded image is a view of the map.
A TFRecord's records say so too, once each has been read and its checksum verified. Files in folders are read into a scratch of
the caller's. Anything else goes through the format's own ``read``.
"""

from __future__ import annotations

import math
import mmap
import os
from bisect import bisect_right
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from storage.base import Reader, SupportsFiles, SupportsImagePlaces, SupportsPlaces, SupportsRandomAccess, all_places
from storage.errors import DataError, UsageError
from storage.files import check_regular
from storage.mapped import MappedRows

if TYPE_CHECKING:
    from storage.dataset import StoredDataset

Content: TypeAlias = memoryview | bytes


class ShardSource(Protocol):
    """Images of one shard, by number. Several threads may call these."""

    def fetch(self, index: int, scratch: memoryview) -> tuple[Content, int]:
        """What is stored of one image, and its label. It stays as it is until ``scratch`` is used again."""

    def gather(self, indices: NDArray[np.int64], out: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Raw images into ``out[rows]``; their labels, int64 (n,)."""


class PlainSource:
    """A split of any format. Each shard is opened when it is first needed. Several threads may read."""

    def __init__(self, dataset: StoredDataset) -> None:
        self._dataset = dataset
        self._ends = np.cumsum([shard.samples for shard in dataset.split_info.shards], dtype=np.int64)
        self._firsts = [0, *self._ends[:-1].tolist()]
        self._shards: list[ShardSource | None] = [None] * dataset.shards
        self._rows: _Rows | None = None
        self._joined = False
        self._opening = Lock()

    def _shard(self, number: int) -> ShardSource:
        source = self._shards[number]
        if source is None:
            with self._opening:
                source = self._shards[number] = self._shards[number] or _open(self._dataset.shard(number))
        return source

    def fetch(self, index: int, scratch: memoryview) -> tuple[Content, int]:
        """The stored file of one image, and its label. It stays as it is until ``scratch`` is used again, or ``close``."""
        number = bisect_right(self._firsts, index) - 1
        shard = self._shards[number] or self._shard(number)
        return shard.fetch(index - self._firsts[number], scratch)

    def gather(self, indices: NDArray[np.int64], out: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Raw images into ``out``, contiguous uint8 (n, height, width, 3); their labels, int64 (n,)."""
        together = self._together()
        if together is not None:
            return together.gather(indices, out)
        if len(self._shards) == 1:
            return self._shard(0).gather(indices, out, np.arange(len(indices)))
        where = np.searchsorted(self._ends, indices, side="right")
        labels = np.empty(len(indices), np.int64)
        for number in np.unique(where).tolist():
            rows = np.flatnonzero(where == number)
            labels[rows] = self._shard(number).gather(indices[rows] - self._firsts[number], out, rows)
        return labels

    def _together(self) -> _Rows | None:
        """All raw images as rows of one array, where the format stores them so, as HDF5 does. Found out once."""
        if not self._joined:
            with self._opening:
                if not self._joined:
                    self._rows = _rows(self._dataset)
                    self._joined = True
        return self._rows

    def close(self) -> None:
        """Let go of every map."""
        self._shards, self._rows = [], None


class _Rows:
    """Raw images of a whole split that lie one behind the other: a batch is a single call, whatever the shards."""

    def __init__(self, rows: MappedRows, labels: NDArray[np.int64]) -> None:
        self._rows, self._labels = rows, labels

    def gather(self, indices: NDArray[np.int64], out: NDArray[np.uint8]) -> NDArray[np.int64]:
        self._rows.take(indices, out.reshape(len(out), -1))
        return self._labels[indices]


def _rows(dataset: StoredDataset) -> _Rows | None:
    readers = [dataset.shard(number) for number in range(dataset.shards)]
    places = all_places(readers)
    row = math.prod(dataset.info.image_size or ()) * 3
    if places is None or not MappedRows.fit(places, row):
        return None
    labels = [reader.labels() for reader in readers if isinstance(reader, SupportsRandomAccess)]
    return _Rows(MappedRows(places, row), np.concatenate(labels))


def _open(reader: Reader) -> ShardSource:
    if isinstance(reader, SupportsFiles) and isinstance(reader, SupportsRandomAccess):
        return _Files(reader, reader.labels(), reader.sizes())
    if isinstance(reader, SupportsImagePlaces):
        return _Records(reader)
    places = reader.places() if isinstance(reader, SupportsPlaces) else None
    if not isinstance(reader, SupportsRandomAccess):
        raise UsageError("this format has neither random access nor records that can be found")
    if places is None:
        return _Through(reader)
    return _Mapped(places.path, places.starts, places.sizes, reader.labels())


class _Mapped:
    """Images that lie in a file as they are."""

    def __init__(self, path: Path, starts: NDArray[np.int64], sizes: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
        self._starts, self._sizes, self._labels = starts, sizes, labels
        # One number at a time, a memoryview is three times as quick as an array.
        self._start, self._size, self._label = starts.data, sizes.data, labels.data
        self._map: Content = b""
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size:
                self._map = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        self._bytes = np.frombuffer(self._map, np.uint8)

    def fetch(self, index: int, scratch: memoryview) -> tuple[Content, int]:  # noqa: ARG002
        start = self._start[index]
        return self._map[start : start + self._size[index]], self._label[index]

    def gather(self, indices: NDArray[np.int64], out: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        flat = out.reshape(len(out), -1)
        size = flat.shape[1]
        for start, row in zip(self._starts[indices].tolist(), rows.tolist(), strict=True):
            flat[row] = self._bytes[start : start + size]
        return self._labels[indices]


class _Records:
    """Images inside records of a stream, each at a place that is learnt when it is first asked for."""

    def __init__(self, reader: SupportsImagePlaces) -> None:
        count = len(reader)
        self._reader = reader
        self._known = bytearray(count)
        self._starts, self._sizes, self._labels = (np.zeros(count, np.int64) for _ in range(3))
        self._mapped = _Mapped(reader.path, self._starts, self._sizes, self._labels)

    def _learn(self, index: int) -> None:
        if not self._known[index]:
            self._starts[index], self._sizes[index], self._labels[index] = self._reader.image_place(index)
            self._known[index] = 1

    def fetch(self, index: int, scratch: memoryview) -> tuple[Content, int]:
        self._learn(index)
        return self._mapped.fetch(index, scratch)

    def gather(self, indices: NDArray[np.int64], out: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        size = out[0].nbytes
        for index in indices.tolist():
            self._learn(index)
            if self._sizes[index] != size:
                raise DataError(
                    f"{self._reader.path}: record {index} has {self._sizes[index]} bytes of pixels, expected {size}"
                )
        return self._mapped.gather(indices, out, rows)


class _Files:
    """Files in folders."""

    def __init__(self, reader: SupportsFiles, labels: NDArray[np.int64], sizes: NDArray[np.int64]) -> None:
        self._reader, self._size = reader, sizes.data
        names, offsets = reader.packed_names()
        self._names, self._offsets, self._label = names.data, offsets.data, labels.data
        self._folder, self._suffix = os.fsencode(reader.folder), os.fsencode(reader.suffix)

    def fetch(self, index: int, scratch: memoryview) -> tuple[Content, int]:
        name = self._names[self._offsets[index] : self._offsets[index + 1]]
        path = b"".join((self._folder, name, self._suffix))
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait for its other end
            try:
                length = os.readv(handle, [scratch])
                if length != self._size[index] or length == len(scratch):
                    check_regular(handle, path)
                # A file of the size that the index states is read whole by then: each call more lets go of Python's lock, and
                # takes it again from a thread that holds it. Any other is read until there is no more.
                while length != self._size[index] and (read := os.readv(handle, [scratch[length:]])):
                    length += read
                content = scratch[:length] if length < len(scratch) else _rest(handle, bytes(scratch))
            finally:
                os.close(handle)
        except FileNotFoundError as error:
            raise DataError(f"{os.fsdecode(path)}: the file is missing") from error
        except OSError as error:
            raise DataError(f"{os.fsdecode(path)}: {error.strerror}") from error
        return content, self._label[index]

    def gather(self, indices: NDArray[np.int64], out: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        assert isinstance(self._reader, SupportsRandomAccess)
        batch = self._reader.read(indices)
        out[rows] = np.asarray(batch.images)
        return batch.labels


def _rest(handle: int, begun: bytes) -> bytes:
    """A file that is larger than the scratch."""
    with open(handle, "rb", closefd=False) as file:
        return begun + file.read()


class _Through:
    """By the format's own means."""

    def __init__(self, reader: SupportsRandomAccess) -> None:
        self._reader = reader

    def fetch(self, index: int, scratch: memoryview) -> tuple[Content, int]:  # noqa: ARG002
        batch = self._reader.read(np.array([index]))
        image = batch.images[0]
        assert isinstance(image, bytes)
        return image, int(batch.labels[0])

    def gather(self, indices: NDArray[np.int64], out: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        batch = self._reader.read(indices)
        out[rows] = np.asarray(batch.images)
        return batch.labels
