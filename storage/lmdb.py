"""LMDB: a memory-mapped B+ tree in one file a shard.

Keys are the sample's number in the shard, 8 bytes big-endian, appended in order; values are the encoded file, or the pixels in
C order. ``labels``, ``keys``, ``key_offsets``, ``crc32c`` and ``shape`` follow under their names. Written in the engine version
that every LMDB reads.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage import lmdb_pages
from storage.base import Batch, Layout, Sample, ShardInfo
from storage.checksum import digest, file_chunks, written_digest
from storage.columns import Columns
from storage.errors import DataError
from storage.files import sync
from storage.mapped import Places
from storage.media import check_raw
from storage.packed import check_offsets, unpack

_MAP_BYTES = 1 << 27
_TRANSACTION_BYTES = 1 << 20
_NUMBER = struct.Struct(">Q")


class Lmdb:
    """The format ``lmdb``."""

    name = "lmdb"
    suffix = ".lmdb"

    def write_shard(self, samples: Iterable[Sample], path: Path, layout: Layout) -> ShardInfo:
        """Append all samples in transactions, the map growing with them; the file ends up no larger than its content."""
        path.unlink(missing_ok=True)  # an environment is opened, not truncated
        columns = Columns()
        with _disk_errors(path), closing(_Appender(path)) as writer:
            for number, sample in enumerate(samples):
                layout.check(sample)
                image = sample.image if isinstance(sample.image, bytes) else np.ascontiguousarray(sample.image)
                writer.put(_NUMBER.pack(number), image if isinstance(image, bytes) else image.data)
                columns.add(sample, image)
            shape = (0, 0, 0) if layout.image_size is None else (*layout.image_size, 3)
            tables = {**columns.tables(), "shape": np.array(shape, np.int64)}
            for name, table in sorted(tables.items()):
                writer.put(name.encode(), table.astype(table.dtype.newbyteorder("<")).tobytes())
        sync(path)
        return ShardInfo(file="", samples=len(columns), bytes=path.stat().st_size, digest=written_digest(path))

    def digest(self, path: Path, shard: ShardInfo) -> str:  # noqa: ARG002
        """What the shard's digest is now."""
        return digest(file_chunks(path))

    def structure_fault(self, path: Path) -> str | None:
        """What is wrong with the file's pages, found without the engine, which trusts its files; None if nothing is."""
        from lmdb import verify

        try:
            faults = verify.verify(str(path), subdir=False)
        except verify.VerifyError as error:
            return f"not an LMDB file, or damaged: {error}"
        return f"its pages are damaged, so the engine must not open it: {faults[0]}" if faults else None

    @contextmanager
    def open_shard(self, path: Path, shard: ShardInfo) -> Iterator[LmdbShard]:
        """Map one file, read only. An environment must not cross a fork: open after it."""
        if path.is_file() and (size := path.stat().st_size) != shard.bytes:
            # A page that the engine looks for beyond the file's end ends the process by a signal.
            raise DataError(f"{path}: expected {shard.bytes} bytes, found {size}; the shard is damaged")
        with _environment(path) as environment:
            yield LmdbShard(path, environment, shard)


LMDB = Lmdb()

_shared: dict[tuple[int, Path], tuple[Any, int]] = {}
"""By process and file: an open environment and how many use it. LMDB refuses to open a file twice in a process."""
_sharing = threading.Lock()


@contextmanager
def _environment(path: Path) -> Iterator[Any]:
    import lmdb

    if not path.is_file():
        raise DataError(f"{path} is missing")
    mine = os.getpid(), path.resolve()
    with _sharing:
        environment, users = _shared.get(mine, (None, 0))
        if environment is None:
            try:
                environment = lmdb.open(
                    str(path), subdir=False, readonly=True, lock=False, readahead=False, create=False, lib_version=0
                )
            except lmdb.Error as error:
                raise DataError(f"{path} is not an LMDB file, or is damaged: {error}") from error
        _shared[mine] = environment, users + 1
    try:
        yield environment
    finally:
        with _sharing:
            environment, users = _shared.pop(mine)
            if users > 1:
                _shared[mine] = environment, users - 1
            else:
                environment.close()


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Raises OSError where LMDB fails to write: a write cut short, as by a full disk, is an input/output error to it."""
    import lmdb

    try:
        yield
    except lmdb.Error as error:
        full = shutil.disk_usage(path.parent).free < _TRANSACTION_BYTES
        raise OSError(errno.ENOSPC if full else errno.EIO, f"LMDB: {error}", str(path)) from error


class _Appender:
    """Puts in key order, some megabytes a transaction; grows the map when it is full, with no transaction open.

    A transaction holds its pages in memory until it is committed: one for a whole shard would touch as much memory as the shard
    has, and what no longer lies in the processor's cache by then takes twice as long to write.
    """

    def __init__(self, path: Path) -> None:
        import lmdb

        self._full = lmdb.MapFullError
        self._environment = lmdb.open(
            str(path), subdir=False, map_size=_MAP_BYTES, lock=False, sync=False, metasync=False, lib_version=0
        )
        self._transaction = self._environment.begin(write=True)
        self._pending: list[tuple[bytes, bytes | memoryview]] = []
        self._pending_bytes = 0

    def put(self, key: bytes, value: bytes | memoryview) -> None:
        self._pending.append((key, value))
        self._pending_bytes += memoryview(value).nbytes
        try:
            self._transaction.put(key, value, append=True)
        except self._full:
            self._grow()
        if self._pending_bytes >= _TRANSACTION_BYTES:
            self.commit()
            self._transaction = self._environment.begin(write=True)

    def commit(self) -> None:
        try:
            self._transaction.commit()
        except self._full:  # its own tables need pages too
            self._grow()
            self._transaction.commit()
        self._pending.clear()
        self._pending_bytes = 0

    def _grow(self) -> None:
        """A full map aborts the transaction: enlarge it and put again what was pending."""
        self._transaction.abort()
        size = self._environment.info()["map_size"] * 2
        while True:
            self._environment.set_mapsize(size)
            self._transaction = self._environment.begin(write=True)
            try:
                for key, value in self._pending:
                    self._transaction.put(key, value, append=True)
            except self._full:
                self._transaction.abort()
                size *= 2
            else:
                return

    def close(self) -> None:
        self.commit()
        self._environment.sync(True)
        self._environment.close()


class LmdbShard:
    """One mapped file. Any number of threads may read; value pages are faulted in with the GIL released."""

    def __init__(self, path: Path, environment: Any, shard: ShardInfo) -> None:
        self._path = path
        self.environment = environment
        with self._reading() as transaction:
            self._labels = self._table(transaction, "labels", "<i8").astype(np.int64)
            self.crc32c = self._table(transaction, "crc32c", "<u4").astype(np.uint32)
            shape = self._table(transaction, "shape", "<i8").tolist()
        if len(shape) != 3:
            raise DataError(f"{path} is damaged: a shape has three sides, got {shape}")
        height, width, channels = shape
        if any(shape):
            check_raw((height, width, channels), str(path))
        if len(self._labels) != shard.samples or len(self.crc32c) != shard.samples:
            raise DataError(f"{path}: expected {shard.samples} samples, found {len(self._labels)}; the shard is damaged")
        self.shape = (height, width, channels)
        self.payload = "raw" if height else "encoded"

    def __len__(self) -> int:
        return len(self._labels)

    def __iter__(self) -> Iterator[Sample]:
        for index in range(len(self)):
            data = self.stored(index)
            yield Sample(
                self.key(index), int(self._labels[index]), data if self.payload == "encoded" else self._pixels(data)
            )

    def labels(self) -> NDArray[np.int64]:
        """Labels, int64, (n,)."""
        return self._labels

    def _table(self, transaction: Any, name: str, dtype: str) -> NDArray[Any]:
        table = transaction.get(name.encode())
        if table is None:
            raise DataError(f"{self._path} has no table {name!r}; it is not a shard that feedbench wrote")
        try:
            return np.frombuffer(table, dtype)
        except ValueError as error:
            raise DataError(f"{self._path} is damaged: {name}: {error}") from error

    @cached_property
    def _keys(self) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
        """Read when the first key is asked for: training needs none, and they are most of what a sample costs in memory."""
        with self._reading() as transaction:
            blob = self._table(transaction, "keys", "|u1")
            ends = self._table(transaction, "key_offsets", "<u8").astype(np.uint64)
        return blob, check_offsets(ends, len(self), len(blob), str(self._path))

    def key(self, index: int) -> str:
        """The key of one sample. DataError if the table of keys is damaged."""
        return unpack(*self._keys, index)

    def sizes(self) -> NDArray[np.int64]:
        """Bytes of each image, int64, (n,)."""
        with self._reading(buffers=True) as transaction:
            return np.array([len(self._value(transaction, index)) for index in range(len(self))], np.int64)

    def places(self) -> Places | None:
        """Where the images lie in the file; None if its pages are not as this module writes them."""
        return lmdb_pages.places(self._path, len(self))

    def stored(self, index: int) -> bytes:
        """The bytes that this sample's CRC32C covers: the file's, or the pixels in C order."""
        with self._reading() as transaction:
            return bytes(self._value(transaction, index))

    def read(self, indices: NDArray[np.int64]) -> Batch:
        """Samples at ``indices``, in one transaction."""
        labels = self._labels[indices]
        if self.payload == "encoded":
            with self._reading() as transaction:
                return Batch([self._value(transaction, int(index)) for index in indices], labels)
        images = np.empty((len(indices), *self.shape), np.uint8)
        with self._reading(buffers=True) as transaction:
            for row, index in enumerate(indices):
                images[row] = self._pixels(self._value(transaction, int(index)))
        return Batch(images, labels)

    @contextmanager
    def _reading(self, *, buffers: bool = False) -> Iterator[Any]:
        """A transaction. DataError where the engine finds the file damaged, or closed."""
        import lmdb

        try:
            with self.environment.begin(buffers=buffers) as transaction:
                yield transaction
        except lmdb.Error as error:
            raise DataError(f"{self._path} is closed or damaged: {error}") from error

    def _value(self, transaction: Any, index: int) -> Any:
        value = transaction.get(_NUMBER.pack(index))
        if value is None:
            raise DataError(f"{self._path}: sample {index} ({self.key(index)}) is missing; the shard is damaged")
        return value

    def _pixels(self, value: Any) -> NDArray[np.uint8]:
        try:
            return np.frombuffer(value, np.uint8).reshape(self.shape)
        except ValueError as error:
            raise DataError(f"{self._path}: a sample has {len(value)} bytes, expected {self.shape}") from error
