"""What all formats share when a dataset is read: finding it, checking its manifest, one split over many shards."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from itertools import islice
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from pydantic_core import from_json

from storage import FORMATS
from storage.base import (
    MANIFEST,
    Batch,
    DatasetInfo,
    Reader,
    Sample,
    SplitInfo,
    SupportsChecking,
    SupportsRandomAccess,
    SupportsSeeking,
)
from storage.checksum import crc32c, digest
from storage.errors import DataError, UsageError

if TYPE_CHECKING:
    import tensorflow as tf

    from storage.graph_source import Source


class StoredDataset:
    """One split of a stored dataset, opened. Samples are numbered from 0 through its shards, in order.

    Shards are opened when they are first needed, never before: an object that was made before a fork may be used after.
    Once it is closed, what would read a shard raises UsageError.
    """

    def __init__(self, path: Path, info: DatasetInfo, split: str) -> None:
        self.path = path
        self.info = info
        self.split = split
        self._shards = info.splits[split].shards
        self._ends = np.cumsum([shard.samples for shard in self._shards], dtype=np.int64)
        self._open = ExitStack()
        self.portable = False
        """Whether graphs are to run in other processes, which see the same files: set before the first ``graph_read``."""
        self._opening = Lock()
        self._closed = False
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
            for sample in self.shard(number):
                yield sample
                self._check_open()

    def shard(self, number: int) -> Reader:
        """The reader of one shard."""
        if number not in self._readers:
            with self._opening:
                if number not in self._readers:
                    self._check_open()
                    shard = self._shards[number]
                    file = self.path / shard.file
                    if not file.is_file():
                        raise DataError(f"{file}: the shard is missing, or no file")
                    opened = FORMATS[self.info.format].open_shard(file, shard)
                    self._readers[number] = self._open.enter_context(opened)
        return self._readers[number]

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError(f"{self.path} is closed: open it again to read on")

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
        """The key of one sample. Needs random access. IndexError if there is no such sample."""
        number, at = self._place(index)
        return self._random(number).key(at)

    def sample(self, index: int) -> Sample:
        """One sample, compared with its checksum; where the format has no random access, found by a first walk over its shard.

        Raises IndexError if there is no such sample, DataError if it is not what was written.
        """
        number, at = self._place(index)
        reader = self.shard(number)
        if not isinstance(reader, SupportsRandomAccess):
            return reader.at(at) if isinstance(reader, SupportsSeeking) else next(islice(reader, at, None))
        if isinstance(reader, SupportsChecking):
            stored = reader.stored(at)
            if crc32c(stored) != int(reader.crc32c[at]):
                file = self.path / self._shards[number].file
                raise DataError(f"{file}: sample {at} ({reader.key(at)}) does not match its checksum")
            if self.info.payload == "encoded":
                return Sample(reader.key(at), int(reader.labels()[at]), stored)
        batch = reader.read(np.array([at]))
        return Sample(reader.key(at), int(batch.labels[0]), batch.images[0])

    def _place(self, index: int) -> tuple[int, int]:
        """A sample's shard, and its number there."""
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: there is no sample {index}; {self.split} has {len(self)}, numbered from 0")
        number = int(np.searchsorted(self._ends, index, side="right"))
        return number, index - self._start(number)

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """The samples at ``indices``, in that order. Needs random access; several threads may call it.

        Raises IndexError if there is no such sample, UsageError if the format is only read in order, or if these are not whole
        numbers, one a sample.
        """
        indices = _whole_numbers(indices)
        if not len(indices):
            return Batch([] if self.info.image_size is None else np.empty((0, *self.info.image_size, 3), np.uint8), indices)
        for end in (int(indices.min()), int(indices.max())):
            self._place(end)
        if len(self._shards) == 1:
            return self._random(0).read(indices)
        where = np.searchsorted(self._ends, indices, side="right")
        labels = np.empty(len(indices), np.int64)
        files: list[bytes] = [b""] * len(indices)
        pixels = None
        for number in np.unique(where):
            positions = np.flatnonzero(where == number)
            batch = self._random(int(number)).read(indices[positions] - self._start(int(number)))
            labels[positions] = batch.labels
            if isinstance(batch.images, list):
                for position, image in zip(positions, batch.images, strict=True):
                    files[position] = bytes(image)
            else:
                pixels = np.empty((len(indices), *batch.images.shape[1:]), np.uint8) if pixels is None else pixels
                pixels[positions] = batch.images
        return Batch(files if pixels is None else pixels, labels)

    @property
    def supports_random_access(self) -> bool:
        """Whether ``labels``, ``key``, ``read`` and ``graph_read`` work."""
        return all(isinstance(self.shard(number), SupportsRandomAccess) for number in range(len(self._shards)))

    @cached_property
    def _source(self) -> Source:
        import tensorflow as tf

        from storage.graph_source import open_source

        readers = [self.shard(number) for number in range(self.shards)]
        with tf.init_scope():
            source = open_source(self.info, readers, self.read, portable=self.portable)
        if source is None:
            raise UsageError(f"{self.path}: its images do not lie in its files as they are, so only Python can read them")
        return source

    @cached_property
    def _label_tensor(self) -> tf.Tensor:
        import tensorflow as tf

        with tf.init_scope(), tf.device("CPU:0"):
            return tf.constant(self.labels)

    def graph_read(self, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Images and int64 labels at ``indices`` (int64, (n,)), inside a TensorFlow graph: see ``SupportsGraphRead``.

        Natively where the files can be mapped or are files of their own, else with one call into Python a batch.
        """
        import tensorflow as tf

        return self._source.read(indices), tf.gather(self._label_tensor, indices)

    def graph_fetch(self, where: tf.Tensor) -> tf.Tensor:
        """One encoded image, a string scalar, by its row of ``graph_read``."""
        return self._source.fetch(where)

    def stream(self, shards: tf.data.Dataset) -> tf.data.Dataset:
        """From a dataset of shard numbers (int64 scalars) to (number of the sample, record), shard after shard.

        Records are strings, for ``graph_parse``.
        """
        if self.info.format != "tfrecord":
            raise UsageError(f"{self.info.format} is read at random, not streamed: use graph_read")
        import tensorflow as tf

        from storage import tfrecord

        files = tf.constant([os.fsencode((self.path / shard.file).resolve()) for shard in self._shards])
        starts = tf.constant([self._start(number) for number in range(len(self._shards))], tf.int64)
        return shards.flat_map(lambda number: tfrecord.records(files[number], starts[number]))

    def graph_parse(self, records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Images and labels of the records of a batch (string, (n,)), as ``graph_read`` gives them."""
        from storage import tfrecord

        return tfrecord.parse(records, self.info.image_size)

    @property
    def shards(self) -> int:
        """How many shards this split has."""
        return len(self._shards)

    def _start(self, number: int) -> int:
        return int(self._ends[number - 1]) if number else 0

    def close(self) -> None:
        """Close every shard that was opened. None is opened any more."""
        with self._opening:
            self._closed = True
            self._readers.clear()
        for made in ("_source", "_label_tensor"):
            self.__dict__.pop(made, None)
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _whole_numbers(indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """``indices`` as int64 (n,). UsageError if they are something else: half a sample would be taken for the one below it."""
    with suppress(ValueError):  # rows of different lengths
        numbers = np.asarray(indices)
        if numbers.ndim == 1 and (numbers.dtype.kind in "iu" or not len(numbers)):
            return numbers.astype(np.int64, copy=False)
    raise UsageError(f"read takes a list of whole numbers, such as [3, 0, 7]; got {indices!r}")


def manifest_text(info: DatasetInfo) -> str:
    """What ``dataset.json`` holds: ``info``, and the digest of that."""
    content = info.model_dump(mode="json")
    return json.dumps({**content, "digest": _own_digest(content)}, indent=1, ensure_ascii=False)


def _own_digest(content: dict[str, Any]) -> str:
    """Of the values, not the bytes: who lays a manifest out anew, or sorts it, has not changed it."""
    return digest([json.dumps(content, sort_keys=True).encode()])


def read_info(path: Path) -> DatasetInfo:
    """The manifest of the dataset at ``path``. DataError, naming the file, if there is none, it is not one, or it is damaged."""
    manifest = path / MANIFEST
    if not manifest.is_file():
        raise DataError(f"{path} is not a stored dataset: it has no {MANIFEST}. Make one with python -m storage.convert.")
    try:
        content = from_json(manifest.read_bytes())
        stated = content.pop("digest", None) if isinstance(content, dict) else None
        info = DatasetInfo.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "file"
        raise DataError(f"{manifest} is not a dataset manifest: {field}: {first['msg']}") from error
    except ValueError as error:
        raise DataError(f"{manifest} is not a dataset manifest: {error}") from error
    if info.format not in FORMATS:
        raise DataError(f"{manifest}: unknown format {info.format!r}; expected one of: {', '.join(FORMATS)}")
    if stated not in (None, _own_digest(content)):
        raise DataError(f"{manifest} does not match its own digest: it is damaged. If you changed it, remove its 'digest'.")
    return info


def open_dataset(path: str | Path, split: str = "train") -> StoredDataset:
    """Open one split of a stored dataset, of any format, for reading."""
    info = read_info(Path(path))
    if split not in info.splits:
        raise UsageError(f"{path} has no split {split!r}; it has: {', '.join(info.splits)}")
    return StoredDataset(Path(path), info, split)
