"""Directory: the files themselves, ``SPLIT/CLASS/FILE``, as most people keep them.

A shard is a range of keys with a sidecar index, ``index/SPLIT-00000.npz`` (keys, labels, sizes, CRC32C), so that labels and
checksums need no walk. A raw payload is a lossless PNG of the resized image, ``FILE.png``; where that name would be too long for a
file system, the digest of ``CLASS/FILE`` stands for FILE.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from storage import pixels
from storage.base import Batch, DatasetInfo, Layout, Sample, ShardInfo
from storage.checksum import digest, file_chunks
from storage.columns import Columns
from storage.errors import DataError
from storage.files import open_regular, sync, sync_all
from storage.packed import check_offsets, leads_out, pack, unpack

Scalar = TypeVar("Scalar", bound=np.generic)
_LONGEST_NAME_BYTES = 255


def split_of(index: Path) -> str:
    """The split that a sidecar index belongs to: ``index/train-00000.npz`` is of ``train``."""
    return index.stem.rsplit("-", 1)[0]


def image_path(index: Path, key: str, payload: str) -> Path:
    """Where a sample's file is. DataError if the key would lead out of the split."""
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in key:
        raise DataError(_escapes(index, key))
    if payload == "raw":
        name = parts[-1] + ".png"
        if len(os.fsencode(name)) > _LONGEST_NAME_BYTES:
            name = digest([os.fsencode(key)]).removeprefix("xxh3:") + ".png"
        parts[-1] = name
    return index.parent.parent.joinpath(split_of(index), *parts)


def _escapes(index: Path, key: str) -> str:
    return f"{index}: the key {key!r} leads out of the dataset; the index is damaged or hostile"


class Directory:
    """The format ``directory``."""

    name = "directory"
    suffix = ".npz"

    def write_shard(self, samples: Iterable[Sample], path: Path, layout: Layout) -> ShardInfo:
        """Write the files, then their index at ``path``; all are synced."""
        columns = Columns()
        folders: set[Path] = set()
        for sample in samples:
            data = sample.image if isinstance(sample.image, bytes) else pixels.encode_png(sample.image)
            file = image_path(path, sample.key, layout.payload)
            if file.parent not in folders:
                file.parent.mkdir(parents=True, exist_ok=True)
                folders.add(file.parent)
            file.write_bytes(data)
            columns.add(sample, data)
        sync_all(path.parent)
        with path.open("wb") as file_:
            payload = np.frombuffer(layout.payload.encode(), np.uint8)
            np.savez(file_, allow_pickle=False, **columns.tables(), sizes=columns.sizes, payload=payload)
        sync(path)
        written = (image_path(path, columns.key(number), layout.payload) for number in range(len(columns)))
        total = path.stat().st_size + int(columns.sizes.sum())
        return ShardInfo(file="", samples=len(columns), bytes=total, digest=digest(self._chunks(path, written)))

    def digest(self, path: Path, shard: ShardInfo) -> str:
        """What the shard's digest is now: over the index, then each file in its order. Empty if a file cannot be read."""
        with self.open_shard(path, shard) as reader:
            try:
                return digest(self._chunks(path, [reader.path(i) for i in range(len(reader))]))
            except OSError:
                return ""

    @staticmethod
    def _chunks(index: Path, files: Iterable[Path]) -> Iterator[memoryview]:
        yield from file_chunks(index)
        for file in files:
            yield from file_chunks(file)

    @contextmanager
    def open_shard(self, path: Path, shard: ShardInfo) -> Iterator[DirectoryShard]:
        """Open one range of files by its index."""
        yield DirectoryShard(path, shard)


DIRECTORY = Directory()


def _content(path: Path) -> bytes:
    with os.fdopen(open_regular(path), "rb") as file:
        return file.read()


def _column(stored: zipfile.ZipFile, name: str, dtype: type[Scalar]) -> NDArray[Scalar]:
    """One array of an index, at no more memory than the file has bytes, whatever its headers claim. ValueError if it lies."""
    member = stored.getinfo(f"{name}.npy")
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed; an index never is")
    data = io.BytesIO(stored.read(member))
    if np.lib.format.read_magic(data) != (1, 0):
        raise ValueError(f"{name} is no array of version 1.0")
    shape, _, found = np.lib.format.read_array_header_1_0(data)
    column = np.frombuffer(data.getbuffer()[data.tell() :], dtype)
    if shape != column.shape or found != np.dtype(dtype):
        raise ValueError(f"{name} claims {found} {shape}, expected {np.dtype(dtype)} {column.shape}")
    return column


def strays(root: Path, info: DatasetInfo) -> Iterator[str]:
    """Files below a split that no index lists, a line each: who walks the folder would take them for samples."""
    for split, stored in info.splits.items():
        folders = [entry for entry in os.scandir(root / split) if entry.is_dir()] if (root / split).is_dir() else []
        if sum(1 for folder in folders for _ in os.scandir(folder)) == stored.samples:
            continue
        listed: set[Path] = set()
        for shard in stored.shards:
            with suppress(DataError), DIRECTORY.open_shard(root / shard.file, shard) as reader:
                listed.update(reader.path(index) for index in range(len(reader)))
        found = (Path(entry.path) for folder in folders for entry in os.scandir(folder))
        yield from (f"{path}: no index lists it, so it is not of this dataset" for path in found if path not in listed)


class DirectoryShard:
    """A range of files. Reads are plain file reads: any number of threads, any number of processes."""

    def __init__(self, path: Path, shard: ShardInfo) -> None:
        self._path = path
        if path.parent.name != "index":
            raise DataError(f"{path} is no index of a directory shard: it has to lie in the dataset's folder 'index'")
        self._labels = self._column("labels", np.int64)
        self.payload = self._column("payload", np.uint8).tobytes().decode("ascii", "replace")
        if len(self._labels) != shard.samples:
            raise DataError(f"{path}: expected {shard.samples} samples, found {len(self._labels)}; the index is damaged")

    def _column(self, name: str, dtype: type[Scalar]) -> NDArray[Scalar]:
        """One array of the index, read when it is asked for: all of them would cost fifty bytes a sample."""
        try:
            # From memory: zipfile would allocate whatever size the file claims for its table of contents.
            with zipfile.ZipFile(io.BytesIO(_content(self._path))) as stored:
                return _column(stored, name, dtype)
        except (OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, EOFError, SyntaxError) as error:
            raise DataError(f"{self._path} is not the index of a directory shard: {error}") from error

    def _of_each(self, name: str, dtype: type[Scalar]) -> NDArray[Scalar]:
        """A column that has a row a sample. DataError if it has more or fewer."""
        column = self._column(name, dtype)
        if len(column) != len(self):
            raise DataError(f"{self._path}: expected {len(self)} {name}, found {len(column)}; the index is damaged")
        return column

    @cached_property
    def _keys(self) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
        blob, ends = self._column("keys", np.uint8), self._column("key_offsets", np.uint64)
        return blob, check_offsets(ends, len(self), len(blob), str(self._path))

    @cached_property
    def _sizes(self) -> NDArray[np.uint64]:
        return self._of_each("sizes", np.uint64)

    @cached_property
    def crc32c(self) -> NDArray[np.uint32]:
        """The checksum of each file, uint32, (n,)."""
        return self._of_each("crc32c", np.uint32)

    def __len__(self) -> int:
        return len(self._labels)

    def __iter__(self) -> Iterator[Sample]:
        for index in range(len(self)):
            data = self._read(index)
            image = data if self.payload == "encoded" else pixels.decode(data)
            yield Sample(self.key(index), int(self._labels[index]), image)

    def labels(self) -> NDArray[np.int64]:
        """Labels, int64, (n,)."""
        return self._labels

    def key(self, index: int) -> str:
        """The key of one sample."""
        return unpack(*self._keys, index)

    def sizes(self) -> NDArray[np.int64]:
        """Bytes of each file, int64, (n,)."""
        return self._sizes.astype(np.int64)

    @property
    def folder(self) -> str:
        """Where the split's files are, with a slash behind it."""
        return f"{self._path.parent.parent / split_of(self._path)}/"

    @property
    def suffix(self) -> str:
        """What a file's name has behind its key."""
        return "" if self.payload == "encoded" else ".png"

    def packed_names(self) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
        """All keys, packed. DataError if one would lead out of the split."""
        blob, ends = self._keys
        wrong = leads_out(blob, ends)
        if wrong is not None:
            raise DataError(_escapes(self._path, self.key(wrong)))
        # A raw image whose name would be too long for a file has another one.
        longest = _LONGEST_NAME_BYTES - len(self.suffix)
        if not self.suffix or not np.any(np.diff(ends) > longest):
            return blob, ends
        folder = Path(self.folder)
        return pack(str(self.path(i).relative_to(folder)).removesuffix(self.suffix) for i in range(len(self)))

    def path(self, index: int) -> Path:
        """The file of one sample."""
        return image_path(self._path, self.key(index), self.payload)

    def stored(self, index: int) -> bytes:
        """The bytes that this sample's CRC32C covers: the file's."""
        return self._read(index)

    def read(self, indices: NDArray[np.int64]) -> Batch:
        """Files (encoded), or decoded PNGs of shape (n, height, width, 3) (raw)."""
        files = [self._read(int(index)) for index in indices]
        labels = self._labels[indices]
        if self.payload == "encoded":
            return Batch(files, labels)
        return Batch(np.stack([pixels.decode(file) for file in files]), labels)

    def _read(self, index: int) -> bytes:
        path = self.path(index)
        try:
            return _content(path)
        except FileNotFoundError as error:
            raise DataError(f"{path}: the file is missing") from error
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from error
