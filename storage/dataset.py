"""What all formats share when a dataset is read: finding it, checking its manifest, one split over many shards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from storage import FORMATS
from storage.base import MANIFEST, Batch, DatasetInfo, Reader, Sample, SplitInfo, SupportsRandomAccess
from storage.errors import DataError, UsageError


class StoredDataset:
    """One split of a stored dataset, opened. Samples are numbered from 0 through its shards, in order.

    Shards are opened when they are first needed, never before: an object that was made before a fork may be used after.
    """

    def __init__(self, path: Path, info: DatasetInfo, split: str) -> None:
        self.path = path
        self.info = info
        self.split = split
        self._shards = info.splits[split].shards
        self._ends = np.cumsum([shard.samples for shard in self._shards], dtype=np.int64)
        self._open = ExitStack()
        self._readers: dict[int, Reader] = {}

    @property
    def split_info(self) -> SplitInfo:
        """This split's part of ``dataset.json``."""
        return self.info.splits[self.split]

    def __len__(self) -> int:
        return self.split_info.samples

    def __iter__(self) -> Iterator[Sample]:
        """All samples, shard by shard."""
        for number in range(len(self._shards)):
            yield from self.shard(number)

    def shard(self, number: int) -> Reader:
        """The reader of one shard."""
        if number not in self._readers:
            shard = self._shards[number]
            opened = FORMATS[self.info.format].open_shard(self.path / shard.file, shard)
            self._readers[number] = self._open.enter_context(opened)
        return self._readers[number]

    def _random(self, number: int) -> SupportsRandomAccess:
        reader = self.shard(number)
        if not isinstance(reader, SupportsRandomAccess):
            raise UsageError(f"{self.info.format} has no random access: iterate over it, or convert it to another format")
        return reader

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Labels of all samples, int64, shape (n,). Needs random access."""
        parts = [self._random(number).labels() for number in range(len(self._shards))]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def key(self, index: int) -> str:
        """The key of one sample. Needs random access."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self._random(number).key(index - self._start(number))

    def read(self, indices: NDArray[np.int64]) -> Batch:
        """The samples at ``indices``, in that order. Needs random access; several threads may call it."""
        where = np.searchsorted(self._ends, indices, side="right")
        images: list[bytes | NDArray[np.uint8]] = [b""] * len(indices)
        labels = np.empty(len(indices), np.int64)
        for number in np.unique(where):
            positions = np.flatnonzero(where == number)
            batch = self._random(int(number)).read(indices[positions] - self._start(int(number)))
            labels[positions] = batch.labels
            for position, image in zip(positions, batch.images, strict=True):
                images[position] = image
        if self.info.payload == "raw":
            return Batch(np.stack([np.asarray(image) for image in images]), labels)
        return Batch([bytes(image) for image in images], labels)

    def _start(self, number: int) -> int:
        return int(self._ends[number - 1]) if number else 0

    def close(self) -> None:
        """Close every shard that was opened."""
        self._readers.clear()
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def read_info(path: Path) -> DatasetInfo:
    """The manifest of the dataset at ``path``. DataError, naming the file, if there is none or it is not one."""
    manifest = path / MANIFEST
    if not manifest.is_file():
        raise DataError(f"{path} is not a stored dataset: it has no {MANIFEST}. Make one with python -m storage.convert.")
    try:
        return DatasetInfo.model_validate_json(manifest.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "file"
        raise DataError(f"{manifest} is not a dataset manifest: {field}: {first['msg']}") from error


def open_dataset(path: str | Path, split: str = "train") -> StoredDataset:
    """Open one split of a stored dataset, of any format, for reading."""
    info = read_info(Path(path))
    if split not in info.splits:
        raise UsageError(f"{path} has no split {split!r}; it has: {', '.join(info.splits)}")
    return StoredDataset(Path(path), info, split)
