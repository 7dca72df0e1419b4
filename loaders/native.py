"""The native pipeline: TensorFlow's operations from the numbers of a batch's samples, or from records, to a finished batch.

A batch is a task of one thread; within it, samples are decoded one after the other by a dataset of its own, which tells those
that cannot be decoded from those that can. ``tfdata`` runs it in this process, ``tfdata_service`` on workers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import tensorflow as tf

from loaders import graph
from loaders.base import LoaderSpec, Stage
from loaders.graph_cache import GraphCache
from loaders.graph_transformations import map_

if TYPE_CHECKING:
    from storage.dataset import StoredDataset

Tensor: TypeAlias = Any
Lost: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""In a graph: what to do when of the samples of a batch (int64 numbers) only those at some places could be decoded."""
Skipped: TypeAlias = Callable[[Tensor], Tensor]
"""In a graph: counts how many samples (int64) of a batch were left out."""

BEFORE_WHOLE = (Stage.READ, Stage.DECODE, Stage.RESIZE)
"""Stages after which images are not yet a batch: a number stands for each."""


class Pipeline:
    """What happens to the samples of one split under a spec."""

    def __init__(
        self,
        dataset: StoredDataset,
        spec: LoaderSpec,
        lost: Lost,
        *,
        skipped: Skipped | None = None,
        buffer: int = 0,
        until: Stage = Stage.HAND_OVER,
    ) -> None:
        self._dataset, self._spec, self._buffer, self._until = dataset, spec, buffer, until
        self._lost, self._skipped = lost, skipped
        self._finish = graph.finisher(spec)
        self._cache = GraphCache(len(dataset), spec.image_size) if spec.cache else None

    def batch(self, epoch: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        """The batch of a number (int64) in the order of an epoch, over all samples: images and labels."""
        count, size = len(self._dataset), self._spec.batch_size
        numbers = tf.range(number * size, tf.minimum((number + 1) * size, count))
        if self._spec.shuffle:
            numbers = graph.permuted(numbers, count, self._spec.seed, epoch)
        return self._prepare(epoch, numbers, *self._dataset.graph_read(numbers))

    def records(self, epoch: Tensor) -> tf.data.Dataset:
        """Batches of (epoch, numbers, records) of shards in the order of an epoch, then shuffled through a buffer."""
        spec = self._spec
        shards = tf.data.Dataset.from_tensor_slices(self.shard_order(epoch))
        return self._shuffled(epoch, self._dataset.stream(shards), drop=spec.drop_remainder and spec.on_error == "stop")

    def shard_order(self, epoch: Tensor) -> Tensor:
        """The numbers of all shards (int64, (n,)) in the order of an epoch."""
        places, spec = tf.range(self._dataset.shards, dtype=tf.int64), self._spec
        return graph.permuted(places, self._dataset.shards, spec.seed, epoch) if spec.shuffle else places

    def shard_records(self, epoch: Tensor, shard: Tensor) -> tf.data.Dataset:
        """The same of one shard alone; its last batch may be short."""
        return self._shuffled(epoch, self._dataset.stream(tf.data.Dataset.from_tensors(shard)), drop=False)

    def _shuffled(self, epoch: Tensor, samples: tf.data.Dataset, *, drop: bool) -> tf.data.Dataset:
        if self._spec.shuffle:
            seed = tf.cast(graph.uniform(epoch, epoch, self._spec.seed, 2) * (1 << 24), tf.int64)
            samples = samples.shuffle(self._buffer, seed=seed, reshuffle_each_iteration=False)
        batches = samples.batch(self._spec.batch_size, drop_remainder=drop)
        return map_(batches, lambda numbers, records: (epoch, numbers, records))

    def parse(self, epoch: Tensor, numbers: Tensor, records: Tensor) -> tuple[Tensor, Tensor]:
        """The batch of some records: images and labels."""
        return self._prepare(epoch, numbers, *self._dataset.graph_parse(records))

    def _prepare(self, epoch: Tensor, numbers: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if images.dtype != tf.uint8:
            images, kept = self._decoded(numbers, images)
            if self._spec.on_error == "skip":
                labels, numbers = tf.gather(labels, kept), tf.gather(numbers, kept)
        if self._until in BEFORE_WHOLE:
            return images, labels
        return self._finish(images, numbers, epoch), labels

    def _decoded(self, numbers: Tensor, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 images (n, height, width, 3), and their places in the batch: all of them, unless some may be skipped."""
        if self._cache is None or self._until in BEFORE_WHOLE:
            return self._decode_all(numbers, encoded)
        return self._cache.get(numbers, lambda: self._decode_all(numbers, encoded))

    def _decode_all(self, numbers: Tensor, encoded: Tensor) -> tuple[Tensor, Tensor]:
        places = tf.range(tf.size(numbers))
        samples = map_(tf.data.Dataset.from_tensor_slices((encoded, places)), self._sample).ignore_errors()
        batch = samples.batch(self._spec.batch_size)
        nothing = tf.nest.map_structure(lambda part: tf.zeros([0, *part.shape[1:]], part.dtype), batch.element_spec)
        whole = batch.concatenate(tf.data.Dataset.from_tensors(nothing)).take(1).with_options(as_written())
        images, kept = whole.get_single_element()
        if self._spec.on_error == "stop":
            fine = tf.cond(tf.size(kept) == tf.size(numbers), lambda: True, lambda: self._lost(numbers, kept))
            with tf.control_dependencies([fine]):
                images = tf.identity(images)
        elif self._skipped is not None:
            with tf.control_dependencies([self._skipped(tf.cast(tf.size(numbers) - tf.size(kept), tf.int64))]):
                images = tf.identity(images)
        return images, kept

    def _sample(self, where: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """One image, or what stands for it up to the stage of the cut, and its place."""
        data = where if where.dtype == tf.string else self._dataset.graph_fetch(where)
        if self._until == Stage.READ:
            return tf.strings.length(data), place
        image = graph.decoder(self._dataset.info, self._spec)(data)
        if self._until == Stage.DECODE:
            return image[0, 0, 0], place
        image = graph.resizer(self._spec)(image)
        return (image[0, 0, 0] if self._until == Stage.RESIZE else image), place


def run_options(*, autotune: bool = False) -> tf.data.Options:
    """How tf.data runs a feed: with the parallelism that is written, unless it is to tune itself.

    Default optimizations stay on, which find nothing to do: without them, TensorFlow 2.21 crashes where ``fit`` under
    MirroredStrategy drops an iterator while a batch is being made.
    """
    options = tf.data.Options()
    if not autotune:
        options.autotune.enabled = False
    return options


def as_written() -> tf.data.Options:
    """For a pipeline that is started for each batch, or elsewhere: nothing is tuned, and no time spent on optimizing it."""
    options = run_options()
    options.experimental_optimization.apply_default_optimizations = False
    return options
