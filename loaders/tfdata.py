"""``tf.data``, graph-native throughout: what a careful user of TensorFlow would write.

A batch is a task: its samples are read, decoded, resized and augmented by TensorFlow's kernels, ``workers`` batches at a time.
Parallelism is explicit and autotuning is off (option ``autotune`` turns it on). The order is global where the format has
random access; a stream of TFRecord shards is read shards at random, then through ``buffer`` samples (option). What each format
costs, and what was rejected, stands in ``docs/tfdata.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import tensorflow as tf

from loaders import graph
from loaders.base import STAGES, LoaderSpec, Stage
from loaders.preprocess import augment_and_scale
from loaders.sample import batches_in, options_of
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
        if not isinstance(self.autotune, bool):
            raise UsageError(f"autotune must be true or false, got {self.autotune!r}")
        if self.buffer < 1:
            raise UsageError(f"buffer must be at least 1, got {self.buffer}")


class TfdataFeed(tf.data.Dataset):  # type: ignore[misc]  # TensorFlow ships no types
    """A ``tf.data.Dataset``, built once; each pass takes the number of its epoch from a counter when it begins."""

    def __init__(self, dataset: StoredDataset, spec: LoaderSpec, until: Stage = Stage.HAND_OVER) -> None:
        self._stored = dataset
        self.spec = spec
        self._until = until
        self._length = batches_in(len(dataset), spec)
        self._beginning = Lock()
        self._failure: FeedbenchError | None = None
        self.skipped = 0
        self.layers = augment_and_scale(spec) if spec.placement == "model" else []
        self._counter = Counter()
        self._wrapped = self._pipeline(options_of(Options, spec))
        super().__init__(self._wrapped._variant_tensor)

    def _pipeline(self, options: Options) -> tf.data.Dataset:
        spec = self.spec
        one = tf.data.Dataset.from_tensors(0).map(_plain(lambda _: self._counter.take()))
        source = one.flat_map(_plain(self._batches if self._stored.info.format != "tfrecord" else self._stream(options)))
        calls = tf.data.AUTOTUNE if options.autotune and not spec.workers else spec.threads()
        batches = source.map(_plain(self._prepare), num_parallel_calls=calls, deterministic=spec.deterministic)
        if self._until == Stage.HAND_OVER:
            if spec.on_error == "skip":
                batches = batches.rebatch(spec.batch_size, drop_remainder=spec.drop_remainder)
            else:
                batches = batches.apply(tf.data.experimental.assert_cardinality(self._length))
            if spec.prefetch:
                batches = batches.prefetch(spec.prefetch)
        return batches.with_options(_run(spec, options))

    def _batches(self, epoch: Any) -> tf.data.Dataset:
        """(epoch, numbers of the batch's samples) in the order of the epoch, over all samples."""
        count, size = len(self._stored), self.spec.batch_size

        def numbers(batch: Any) -> Any:
            positions = tf.range(batch * size, tf.minimum((batch + 1) * size, count))
            if self.spec.shuffle:
                positions = graph.permuted(positions, count, self.spec.seed, epoch)
            return epoch, positions

        return tf.data.Dataset.range(self._length).map(_plain(numbers))

    def _stream(self, options: Options) -> Any:
        """(epoch, numbers, records) of shards in the order of the epoch, shuffled through a buffer."""
        stored, spec = self._stored, self.spec

        def stream(epoch: Any) -> tf.data.Dataset:
            shards = tf.data.Dataset.range(stored.shards)
            if spec.shuffle:
                shards = shards.map(_plain(lambda place: graph.permuted(place, stored.shards, spec.seed, epoch)))
            samples = stored.stream(shards)
            if spec.shuffle:
                seed = tf.cast(graph.uniform(epoch, epoch, spec.seed, 2) * (1 << 24), tf.int64)
                samples = samples.shuffle(options.buffer, seed=seed, reshuffle_each_iteration=False)
            batches = samples.batch(spec.batch_size, drop_remainder=spec.drop_remainder)
            return batches.map(_plain(lambda numbers, records: (epoch, numbers, records)))

        return stream

    def _prepare(self, epoch: Any, numbers: Any, records: Any = None) -> Any:
        """From samples' numbers (or records) to (images, labels), or what stands for them up to the stage of the cut."""
        if records is None:
            images, labels = self._stored.graph_read(numbers)
        else:
            images, labels = self._stored.graph_parse(records)
        if images.dtype != tf.uint8:
            images, kept = self._decoded(images, numbers)
            if self.spec.on_error == "skip":
                labels, numbers = tf.gather(labels, kept), tf.gather(numbers, kept)
        if self._until in (Stage.READ, Stage.DECODE, Stage.RESIZE):
            return images, labels
        return graph.finisher(self.spec)(images, numbers, epoch), labels

    def _decoded(self, encoded: Any, numbers: Any) -> tuple[Any, Any]:
        """uint8 images (n, height, width, 3), and their places in the batch: all of them, unless some may be skipped.

        Up to a stage before the images are whole, a number stands for each.
        """
        spec = self.spec
        decode, resize = graph.decoder(self._stored.info, spec), graph.resizer(spec)
        fetch = self._stored.graph_fetch if encoded.dtype != tf.string else tf.identity

        def prepare(where: Any, place: Any) -> Any:
            data = fetch(where)
            if self._until == Stage.READ:
                return tf.strings.length(data), place
            image = decode(data)
            if self._until == Stage.DECODE:
                return image[0, 0, 0], place
            image = resize(image)
            return (image[0, 0, 0] if self._until == Stage.RESIZE else image), place

        places = tf.range(tf.size(numbers))
        samples = tf.data.Dataset.from_tensor_slices((encoded, places)).map(_plain(prepare)).ignore_errors()
        batch = samples.batch(spec.batch_size)
        nothing = tf.nest.map_structure(lambda part: tf.zeros([0, *part.shape[1:]], part.dtype), batch.element_spec)
        whole = batch.concatenate(tf.data.Dataset.from_tensors(nothing)).take(1).with_options(_plain_options())
        images, kept = whole.get_single_element()
        if spec.on_error == "stop":
            fault = tf.cond(tf.size(kept) == tf.size(numbers), lambda: True, lambda: self._fail(numbers, kept))
            with tf.control_dependencies([fault]):
                images = tf.identity(images)
        return images, kept

    def _fail(self, numbers: Any, kept: Any) -> Any:
        """End with an error that names the first sample that was lost."""

        def fail(wanted: Any, good: Any) -> bool:
            lost = min(set(range(len(wanted))) - set(good.tolist()))
            self._failure = unreadable(self._stored, int(wanted[lost]))
            raise self._failure

        return tf.numpy_function(fail, [numbers, kept], tf.bool)

    def epoch(self, n: int) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """The n-th pass."""
        try:
            with self._beginning:
                # A pass takes its number when its first batch is asked for.
                coming = self._counter.value()
                self._counter.set(n)
                batches = iter(self._wrapped)
                first = next(batches, None)
                self._counter.set(coming)
            delivered = 0
            while first is not None:
                delivered += len(first[1])
                yield first
                first = next(batches, None)
        except tf.errors.OpError as error:
            raise self._named(error) from None
        if self.spec.on_error == "skip" and not self.spec.drop_remainder:
            self.skipped += len(self._stored) - delivered

    def _named(self, error: Exception) -> Exception:
        return self._failure or error

    def __len__(self) -> int:
        return self._length

    @property
    def element_spec(self) -> Any:
        """What a batch looks like."""
        return self._wrapped.element_spec

    def _inputs(self) -> list[tf.data.Dataset]:
        return [self._wrapped]

    def close(self) -> None:
        """Close the stored dataset."""
        self._counter.close()
        self._stored.close()


class Counter:
    """The number of the pass that begins next, where the graph can take it.

    A bare resource: a ``tf.Variable`` that is made inside a strategy's scope would be mirrored.
    """

    def __init__(self) -> None:
        with tf.init_scope(), tf.device("CPU:0"):
            self._handle = tf.raw_ops.VarHandleOp(dtype=tf.int64, shape=[], shared_name=uuid4().hex)
        self.set(0)

    def set(self, value: int) -> None:
        """The next pass is number ``value``."""
        tf.raw_ops.AssignVariableOp(resource=self._handle, value=tf.constant(value, tf.int64))

    def value(self) -> int:
        """The number of the next pass."""
        return int(tf.raw_ops.ReadVariableOp(resource=self._handle, dtype=tf.int64))

    def close(self) -> None:
        """Free the number; no pass can begin after this."""
        tf.raw_ops.DestroyResourceOp(resource=self._handle, ignore_lookup_error=True)

    def take(self) -> Any:
        """In a graph: the number of this pass; the next is one more."""
        number = tf.raw_ops.ReadVariableOp(resource=self._handle, dtype=tf.int64)
        with tf.control_dependencies([number]):
            raise_by_one = tf.raw_ops.AssignAddVariableOp(resource=self._handle, value=tf.constant(1, tf.int64))
        with tf.control_dependencies([raise_by_one]):
            return tf.identity(number)


def _plain(function: Any) -> Any:
    """``function`` as it is: autograph would look through its source, for nothing, at every start."""
    return tf.autograph.experimental.do_not_convert(function)


def _plain_options() -> Any:
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    return options


def _run(spec: LoaderSpec, options: Options) -> Any:
    """How tf.data runs it: nothing that tunes itself, unless asked for."""
    run = tf.data.Options() if options.autotune else _plain_options()
    run.deterministic = spec.deterministic
    run.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return run


def unreadable(dataset: StoredDataset, number: int) -> DataError:
    """What is wrong with a sample that TensorFlow could not read or decode."""
    sample = dataset.sample(number)
    reason = "TensorFlow cannot decode it"
    try:
        tf.io.decode_image(sample.image, channels=3, expand_animations=False)
    except tf.errors.OpError as error:
        reason = str(error.message).splitlines()[0]
    return DataError(f"{dataset.path}: {sample.key} cannot be read: {reason}")


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
        if spec.cache:
            return "this loader does not cache"
        return None

    def build(self, dataset: StoredDataset, spec: LoaderSpec, *, until: Stage = Stage.HAND_OVER) -> TfdataFeed:
        """The pipeline, built once for all epochs."""
        return TfdataFeed(dataset, spec, until)


LOADER = TfdataLoader()
