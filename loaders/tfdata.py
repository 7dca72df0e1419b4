"""``tf.data``, graph-native throughout: what a careful user of TensorFlow would write.

A batch is a task: its samples are read, decoded, resized and augmented by TensorFlow's kernels, ``workers`` batches at a time.
Parallelism is explicit and autotuning is off (option ``autotune`` turns it on). The order is global where the format has
random access; a stream of TFRecord shards is read shards at random, then through ``buffer`` samples (option). What each format
costs, and what was rejected, stands in ``docs/tfdata.md``.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from loaders import graph
from loaders.base import STAGES, LoaderSpec, Stage, check_epoch
from loaders.closable import Closable
from loaders.graph_counter import GraphCounter
from loaders.graph_transformations import flat_map, map_
from loaders.native import Pipeline, run_options
from loaders.preprocess import augment_and_scale
from loaders.sample import batches_in, options_of
from loaders.unreadable import damaged, unreadable
from storage.base import DatasetInfo
from storage.errors import DataError, FeedbenchError, UsageError

if TYPE_CHECKING:
    from storage.dataset import StoredDataset


@dataclass(frozen=True, kw_only=True)
class Options:
    """What only this loader knows: whether tf.data tunes itself, and how many samples of a stream are shuffled among."""

    autotune: bool = False
    buffer: int = 1024

    def __post_init__(self) -> None:
        if self.buffer < 1:
            raise UsageError(f"buffer must be at least 1, got {self.buffer}")


class TfdataFeed(Closable):
    """A ``tf.data.Dataset``, built once; each pass takes the number of its epoch from a counter when it begins."""

    def __init__(self, dataset: StoredDataset, spec: LoaderSpec, until: Stage = Stage.HAND_OVER) -> None:
        self._stored = dataset
        self.spec = spec
        self._until = until
        self._length = batches_in(len(dataset), spec)
        self._beginning = Lock()
        self._failures: dict[int, FeedbenchError] = {}
        self.layers = augment_and_scale(spec) if spec.placement == "model" else []
        self._counter = GraphCounter()
        self._skipped = GraphCounter()
        self._wrapped = self._build(options_of(Options, spec))
        super().__init__(self._wrapped._variant_tensor)

    def _build(self, options: Options) -> tf.data.Dataset:
        spec = self.spec
        # Kept, since the graph does not keep the cache of decoded images.
        self._pipeline = pipeline = Pipeline(
            self._stored, spec, self._lost, skipped=self._skipped.add, buffer=options.buffer, until=self._until
        )
        calls = tf.data.AUTOTUNE if options.autotune and not spec.workers else spec.threads()
        how: dict[str, Any] = {"calls": calls, "deterministic": spec.deterministic}
        # A pass takes its number when its first batch is asked for.
        one = map_(tf.data.Dataset.from_tensors(0), lambda start: self._counter.take())  # noqa: ARG005 - TensorFlow warns of a parameter named _
        if self._stored.info.format == "tfrecord":
            batches = map_(flat_map(one, pipeline.records), pipeline.parse, **how)
        else:
            # Batches that lose samples are cut anew, so that only the very last may be short.
            count = -(-len(self._stored) // spec.batch_size) if spec.on_error == "skip" else self._length
            numbers = tf.data.Dataset.range(count)
            # Zipped, which runs no operation: a function that hands the number on would run a dozen for each batch, one by one.
            numbered = flat_map(
                one, lambda epoch: tf.data.Dataset.zip((tf.data.Dataset.from_tensors(epoch).repeat(), numbers))
            )
            batches = map_(numbered, pipeline.batch, **how)
        if self._until == Stage.HAND_OVER:
            if spec.on_error == "skip":
                batches = batches.rebatch(spec.batch_size, drop_remainder=spec.drop_remainder)
            else:
                batches = batches.apply(tf.data.experimental.assert_cardinality(self._length))
            if spec.prefetch:
                batches = batches.prefetch(spec.prefetch)
        run = run_options(autotune=options.autotune)
        run.deterministic = spec.deterministic
        run.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        return batches.with_options(run)

    def _lost(self, numbers: Any, kept: Any) -> Any:
        """End with an error that names the first sample that was lost."""

        # TensorFlow lets go of a Python function only when the process ends: it must not hold the feed.
        feed, path = weakref.ref(self), self._stored.path

        def fail(wanted: Any, good: Any) -> bool:
            lost = min(set(range(len(wanted))) - set(good.tolist()))
            number = int(wanted[lost])
            owner = feed()
            if owner is None:  # Only an iterator of it is left.
                raise DataError(f"{path}: sample {number} cannot be read")
            owner._failures[number] = unreadable(owner._stored, number)
            raise owner._failures[number]

        return tf.numpy_function(fail, [numbers, kept], tf.bool)

    def epoch(self, n: int) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """The n-th pass. UsageError once the feed is closed."""
        check_epoch(n)
        self.check_open()
        try:
            delivered = 0
            with self._beginning:
                coming = self._counter.value()
                self._counter.set(n)
                try:
                    batches = iter(self._wrapped)
                    first = next(batches, None)
                finally:
                    self._counter.set(coming)
            while first is not None:
                delivered += len(first[1])
                yield first
                first = next(batches, None)
        except tf.errors.OpError as error:
            raise self._named(error) or self._damaged(n, delivered) or error from None

    def _named(self, error: Exception) -> FeedbenchError | None:
        # Batches ahead of the one that ends the pass may have failed too.
        return next((failure for failure in self._failures.values() if str(failure) in str(error)), None)

    def _damaged(self, n: int, delivered: int) -> DataError | None:
        """What is wrong with a stream in the n-th pass, behind ``delivered`` samples: TensorFlow does not say in which file."""
        if self.closed or self._stored.info.format != "tfrecord":
            return None
        shards = self._pipeline.shard_order(tf.constant(n, tf.int64)).numpy()
        ends = np.cumsum([self._stored.split_info.shards[number].samples for number in shards])
        return damaged(self._stored, shards[np.searchsorted(ends, delivered, side="right") :].tolist())

    @property
    def skipped(self) -> int:
        """Unreadable samples that were left out of batches so far, in all passes, whoever took them."""
        return self._skipped.value()

    def __len__(self) -> int:
        return self._length

    @property
    def element_spec(self) -> Any:
        """What a batch looks like."""
        return self._wrapped.element_spec

    def _inputs(self) -> list[tf.data.Dataset]:
        return [self._wrapped]

    def close(self) -> None:
        """Close the stored dataset: no pass begins after this; one that is under way reads on from what it holds."""
        self.closed = True
        self._stored.close()


class TfdataLoader:
    """See the module."""

    name = "tfdata"
    options = Options
    stages: tuple[Stage, ...] = STAGES

    def unsupported(self, info: DatasetInfo, spec: LoaderSpec) -> str | None:
        """Media types that TensorFlow decodes; raw images of the size that is asked for."""
        others = sorted(set(info.media_types) - graph.MEDIA_TYPES)
        if info.payload == "encoded" and others:
            return f"TensorFlow does not decode {', '.join(others)} as RGB"
        if info.payload == "raw" and info.image_size != spec.image_size:
            return f"the stored images are {info.image_size}, and image_size is {spec.image_size}"
        return None

    def build(self, dataset: StoredDataset, spec: LoaderSpec, *, until: Stage = Stage.HAND_OVER) -> TfdataFeed:
        """The pipeline, built once for all epochs."""
        return TfdataFeed(dataset, spec, until)


LOADER = TfdataLoader()
