"""How a TensorFlow graph reads a split at random: natively where the format says where its samples lie, else through Python.

A source is made once, eagerly: what it maps or holds is captured by the functions that use it, never made anew for a batch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from storage.base import Batch, DatasetInfo, Reader, SupportsFiles, all_places
from storage.mapped import GraphRows, MappedBytes, MappedRows, Places, cut

Tensor: TypeAlias = Any
_ALIGNMENT = 64


class Source(Protocol):
    """Images of one split. ``read`` is for a batch, ``fetch`` for one of its encoded images."""

    def read(self, indices: Tensor) -> Tensor:
        """Raw: uint8 (n, height, width, 3). Encoded: a row for each image that ``fetch`` can find it by, (n, …)."""

    def fetch(self, where: Tensor) -> Tensor:
        """One encoded image, a string scalar."""


def open_source(
    info: DatasetInfo, readers: Sequence[Reader], read: Callable[[NDArray[np.int64]], Batch], *, portable: bool = False
) -> Source | None:
    """The fastest source that the ``readers`` of a split's shards allow; where they allow none, one that calls ``read`` a batch.

    A ``portable`` one's graph runs in other processes, which see the same files; None if there is none.
    """
    raw = info.image_size if info.payload == "raw" else None
    if readers and all(isinstance(reader, SupportsFiles) for reader in readers):
        return _Files([reader for reader in readers if isinstance(reader, SupportsFiles)])
    places = [shard for shard in all_places(readers) or () if len(shard.starts)]
    if portable:
        return _Ranges(places, raw) if places else None
    if not places:
        return _Python(read, raw)
    if raw is None:
        return _Cut(MappedBytes(places))
    row = math.prod(raw) * 3
    if MappedRows.fit(places, row):
        return _Raw(GraphRows(MappedRows(places, row)).gather, raw)
    if MappedBytes.fit(places, row):
        pages = MappedBytes(places)
        return _Raw(lambda indices: pages.gather(indices, row), raw)
    return _Python(read, raw)


class _Raw:
    """Pixels out of mapped files."""

    def __init__(self, gather: Callable[[Tensor], Tensor], size: tuple[int, int]) -> None:
        self._gather, self._size = gather, size

    def read(self, indices: Tensor) -> Tensor:
        import tensorflow as tf

        return tf.reshape(self._gather(indices), (-1, *self._size, 3))

    def fetch(self, where: Tensor) -> Tensor:
        raise TypeError(f"raw images are read by the batch; got {where}")


class _Cut:
    """Encoded images out of mapped files."""

    def __init__(self, mapped: MappedBytes) -> None:
        self._mapped = mapped

    def read(self, indices: Tensor) -> Tensor:
        import tensorflow as tf

        return tf.stack(self._mapped.places(indices), axis=1)

    def fetch(self, where: Tensor) -> Tensor:
        return self._mapped.cut(where[0], where[1])


class _Files:
    """Files in folders. Their names stay packed: a million names cost their bytes, and become a path when they are read."""

    def __init__(self, shards: Sequence[SupportsFiles]) -> None:
        import tensorflow as tf

        packed = [shard.packed_names() for shard in shards]
        lengths = np.cumsum([0, *(len(names) for names, _ in packed)], dtype=np.int64)
        starts = [ends[:-1].astype(np.int64) + before for (_, ends), before in zip(packed, lengths, strict=False)]
        with tf.device("CPU:0"):
            self._names = tf.constant(np.concatenate([names for names, _ in packed]))
            self._starts = tf.constant(np.concatenate(starts))
            self._sizes = tf.constant(np.concatenate([np.diff(ends.astype(np.int64)) for _, ends in packed]))
        self._folder, self._suffix = os.fsencode(Path(shards[0].folder).resolve()) + b"/", shards[0].suffix

    def read(self, indices: Tensor) -> Tensor:
        import tensorflow as tf

        return tf.stack([tf.gather(self._starts, indices), tf.gather(self._sizes, indices)], axis=1)

    def fetch(self, where: Tensor) -> Tensor:
        import tensorflow as tf

        return tf.io.read_file(tf.strings.join([self._folder, cut(self._names, where[0], where[1]), self._suffix]))


class _Ranges:
    """Ranges of bytes, each read from its file by name: nothing is mapped, so that the graph can be sent elsewhere."""

    def __init__(self, shards: Sequence[Places], raw: tuple[int, int] | None) -> None:
        import tensorflow as tf

        self._raw = raw
        with tf.device("CPU:0"):
            self._files = tf.constant([os.fsencode(shard.path.resolve()) for shard in shards])
            self._lengths = tf.constant([shard.path.stat().st_size for shard in shards], tf.int64)
            self._ends = tf.constant(np.cumsum([len(shard.starts) for shard in shards]), tf.int64)
            self._starts = tf.constant(np.concatenate([shard.starts for shard in shards]))
            self._sizes = tf.constant(np.concatenate([shard.sizes for shard in shards]))

    def read(self, indices: Tensor) -> Tensor:
        import tensorflow as tf

        shards = tf.searchsorted(self._ends, indices, side="right", out_type=tf.int64)
        where = tf.stack([shards, tf.gather(self._starts, indices), tf.gather(self._sizes, indices)], axis=1)
        if self._raw is None:
            return where
        shape = (*self._raw, 3)
        images = tf.data.Dataset.from_tensor_slices(where).map(
            lambda one: tf.reshape(tf.io.decode_raw(self.fetch(one), tf.uint8), shape)
        )
        return images.batch(tf.size(indices, tf.int64)).get_single_element()

    def fetch(self, where: Tensor) -> Tensor:
        import tensorflow as tf

        file, before, size = where[0], where[1], where[2]
        behind = self._lengths[file] - before - size
        return tf.data.FixedLengthRecordDataset(self._files[file], size, before, behind).get_single_element()


class _Python:
    """Through Python, one call a batch: compressed files, and formats that say nothing of places."""

    def __init__(self, read: Callable[[NDArray[np.int64]], Batch], size: tuple[int, int] | None) -> None:
        self._batch, self._size = read, size

    def read(self, indices: Tensor) -> Tensor:
        import tensorflow as tf

        def read(wanted: NDArray[np.int64]) -> Any:
            images = self._batch(wanted).images
            return np.array(images, object) if isinstance(images, list) else _aligned(images)

        size = self._size
        images = tf.numpy_function(read, [indices], tf.string if size is None else tf.uint8, stateful=False)
        images.set_shape([indices.shape[0]] if size is None else [indices.shape[0], *size, 3])
        return images

    def fetch(self, where: Tensor) -> Tensor:
        return where


def _aligned(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``images`` where TensorFlow takes them without a copy of its own."""
    if images.ctypes.data % _ALIGNMENT == 0:
        return images
    buffer = np.empty(images.nbytes + _ALIGNMENT, np.uint8)
    aligned = buffer[-buffer.ctypes.data % _ALIGNMENT :][: images.nbytes].reshape(images.shape)
    aligned[...] = images
    return aligned
