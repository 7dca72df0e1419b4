"""The native pipeline on tf.data service workers, for when one machine's cores no longer feed the accelerator.

Option ``service``: ``local:2`` starts a dispatcher and two workers here, in processes of their own; ``grpc://HOST:PORT`` uses the
dispatcher of a running deployment, whose workers see the dataset under the same path. Workers share out the batches of an epoch
as they go (dynamic sharding); each batch carries its number, so that none is lost or comes twice without notice, and the order
is the same however many workers there are. A worker that is lost ends the epoch with an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, Queue
from threading import Event, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from tensorflow.python.data.experimental.ops import data_service_ops
from tensorflow.python.eager import context, execute
from tensorflow.python.eager.cancellation import CancellationManager

from loaders.base import LoaderSpec, Stage
from loaders.native import Pipeline, as_written
from loaders.preprocess import augment_and_scale
from loaders.recut import recut
from loaders.sample import batches_in, options_of
from loaders.service import Service, check_service, open_service, reach
from loaders.stream import StreamFeed
from loaders.tfdata import LOADER as TFDATA
from loaders.unreadable import damaged, unreadable
from storage.base import DatasetInfo
from storage.errors import DataError, UsageError

if TYPE_CHECKING:
    from storage.dataset import StoredDataset

READABLE = ("directory", "hdf5", "lmdb", "tfrecord")
LOOK_S = 0.2
"""How often the service is looked after while no batch comes."""
ASK_MS = 50
"""How often the dispatcher is asked which workers have batches, and whether the epoch is over."""
LOST = "lost sample"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What only this loader knows.

    Attributes
    ----------
    service
        ``local:N`` or ``grpc://HOST:PORT``.
    buffer
        TFRecord: samples of a shard that are shuffled among; shards themselves come in random order.
    patience_s
        Seconds without any batch after which a deployment elsewhere is given up.
    """

    service: str = "local:2"
    buffer: int = 1024
    patience_s: int = 120

    def __post_init__(self) -> None:
        check_service(self.service)
        if self.buffer < 1 or self.patience_s < 1:
            raise UsageError(f"buffer and patience_s must be at least 1, got {self.buffer} and {self.patience_s}")


class Epochs:
    """One pass after another, prepared by a service."""

    def __init__(self, dataset: StoredDataset, spec: LoaderSpec, options: Options) -> None:
        self._dataset, self._spec, self._options = dataset, spec, options
        self.skipped = 0
        self._closed = False
        dataset.portable = True
        self._pipeline = Pipeline(dataset, spec, _lost, buffer=options.buffer)
        number = tf.TensorSpec((), tf.int64)
        self._stream = dataset.info.format == "tfrecord"
        if not self._stream:
            # Traced once: what an epoch changes is its number.
            self._batch = tf.function(self._pipeline.batch, autograph=False).get_concrete_function(number, number)
        self.service: Service = open_service(options.service)

    def _calls(self) -> Any:
        """Batches in parallel, of each worker: its processors, where it is not known here how many there are."""
        threads, workers = self._spec.threads(), self.service.workers
        if workers:
            return -(-threads // workers)
        return self._spec.workers or tf.data.AUTOTUNE

    def _prepared(self, n: int) -> tuple[tf.data.Dataset, int]:
        """(number, images, labels) of the batches of an epoch, as workers prepare them, and how many there are."""
        spec, epoch = self._spec, tf.constant(n, tf.int64)
        if self._stream:
            return self._prepared_from_shards(epoch)
        count = batches_in(len(self._dataset), spec)
        numbers = tf.data.Dataset.range(count)
        return numbers.map(_plain(lambda b: (b, *self._batch(epoch, b))), num_parallel_calls=self._calls()), count

    def _prepared_from_shards(self, epoch: Any) -> tuple[tf.data.Dataset, int]:
        """Shards in the order of the epoch; the batches of each follow each other in number."""
        spec, shards = self._spec, self._dataset.split_info.shards
        order = self._pipeline.shard_order(epoch)
        counts = [-(-shards[number].samples // spec.batch_size) for number in order.numpy()]
        firsts = tf.constant([0, *np.cumsum(counts)], tf.int64)

        def records(place: Any) -> tf.data.Dataset:
            batches = self._pipeline.shard_records(epoch, order[place])
            return batches.enumerate(firsts[place])

        def prepare(number: Any, record: Any) -> Any:
            return number, *self._pipeline.parse(*record)

        batches = tf.data.Dataset.range(len(shards)).flat_map(_plain(records))
        return batches.map(_plain(prepare), num_parallel_calls=self._calls()), sum(counts)

    def batches(self, n: int) -> Iterator[tuple[Any, Any]]:
        """The n-th pass: images and labels, tensors or arrays."""
        ordered = self._counted(n)
        if self._stream or self._spec.on_error == "skip":
            arrays = ((np.asarray(images), np.asarray(labels)) for images, labels in ordered if len(labels))
            return recut(arrays, self._spec.batch_size, self._spec.drop_remainder)
        return ordered

    def _counted(self, n: int) -> Iterator[tuple[Any, Any]]:
        """The batches of a pass, each once and in order; DataError if one is missing."""
        prepared, count = self._prepared(n)
        due, came, samples = 0, set[int](), 0
        waiting: dict[int, tuple[Any, Any]] = {}
        for number, images, labels in self._received(prepared, n):
            if number in came:
                continue
            came.add(number)
            samples += len(labels)
            waiting[number] = images, labels
            if not self._spec.deterministic:
                yield waiting.pop(number)
            while due in waiting:
                yield waiting.pop(due)
                due += 1
        if len(came) < count:
            raise DataError(
                f"{self._options.service}: {count - len(came)} of {count} batches of epoch {n} never came: a worker was lost"
            )
        expected = len(self._dataset)
        if self._spec.on_error == "skip":
            self.skipped += expected - samples if self._stream or not self._spec.drop_remainder else 0

    def _received(self, prepared: tf.data.Dataset, n: int) -> Iterator[tuple[int, Any, Any]]:
        """What the service hands over, as it comes. DataError if it cannot go on, which tf.data would wait for in vain."""
        self._look_after(n)
        reach(self.service.address)
        options = as_written()
        options.deterministic = self._spec.deterministic
        options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE
        # The public function leaves the interval at a second, by which every epoch would end too late.
        distribute = data_service_ops._distribute(
            processing_mode=data_service_ops.ShardingPolicy.DYNAMIC,
            service=self.service.address,
            task_refresh_interval_hint_ms=ASK_MS,
            compression=None,
        )
        reading = _Reading(prepared.with_options(options).apply(distribute), max(1, self._spec.prefetch))
        try:
            yield from self._watched(reading, n)
        except tf.errors.OpError as error:
            lost = re.search(rf"\[{LOST}\] \[(\d+)\]", str(error))
            if lost:
                raise unreadable(self._dataset, int(lost.group(1))) from None
            if isinstance(error, tf.errors.DataLossError) and (found := damaged(self._dataset, range(self._dataset.shards))):
                raise found from None
            raise DataError(f"{self._options.service}: {str(error).splitlines()[0]}") from error
        finally:
            reading.stop()

    def _look_after(self, n: int) -> None:
        if self._closed:
            raise UsageError("the feed was closed in the middle of this epoch")
        fault = self.service.fault()
        if fault:
            raise DataError(f"{fault} in epoch {n}: its batches are lost. Build the feed again to start a new service.")

    def _watched(self, reading: _Reading, n: int) -> Iterator[tuple[int, Any, Any]]:
        last = monotonic()
        while True:
            self._look_after(n)
            try:
                element = reading.take(LOOK_S)
            except Empty:
                if not self.service.workers and monotonic() - last > self._options.patience_s:
                    raise DataError(
                        f"{self._options.service}: no batch for {self._options.patience_s} s in epoch {n}; is a worker lost? "
                        "If batches take longer, raise the option patience_s."
                    ) from None
                continue
            if element is None:
                return
            yield int(element[0]), element[1], element[2]
            last = monotonic()

    def close(self) -> None:
        """End the service, if it was started here, and close the stored dataset. A pass that is under way ends with UsageError."""
        self._closed = True
        self.service.close()
        self._dataset.close()


class _Reading:
    """A thread that draws from a service, which can block for good when a worker is lost; it can be called off."""

    def __init__(self, dataset: tf.data.Dataset, ahead: int) -> None:
        self._iterator = iter(dataset)
        self._calls = CancellationManager()
        self._drawn: Queue[Any] = Queue(ahead)
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="feedbench-tfdata-service", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        element: Any = None
        while not self._stopped.is_set():
            try:
                element = self._draw()
            except tf.errors.OutOfRangeError:
                element = None
            except tf.errors.OpError as error:
                # With its traceback it would hold this frame, which holds it: an iterator that outlives its pass.
                element = error.with_traceback(None)
            self._drawn.put(element)
            if element is None or isinstance(element, Exception):
                return

    def _draw(self) -> Any:
        """``next``, which can be called off.

        Not by TensorFlow's cancelable functions: while one runs, those of all other threads are called off with it.
        """
        iterator = self._iterator
        return execute.execute_with_cancellation(
            "IteratorGetNext",
            len(iterator._flat_output_types),
            [iterator._iterator_resource],
            ("output_types", iterator._flat_output_types, "output_shapes", iterator._flat_output_shapes),
            context.context(),
            self._calls,
        )

    def take(self, timeout_s: float) -> Any:
        """The next element, None at the end. Raises Empty after ``timeout_s`` seconds without one."""
        element = self._drawn.get(timeout=timeout_s)
        if isinstance(element, Exception):
            raise element
        return element

    def stop(self) -> None:
        """End the thread, whatever it waits for."""
        self._stopped.set()
        self._calls.start_cancel()
        while self._thread.is_alive():
            with suppress(Empty):
                self._drawn.get_nowait()
            self._thread.join(0.01)


class ServiceFeed(StreamFeed):
    """Batches of a service, which are tensors already."""

    def __init__(self, epochs: Epochs, length: int, spec: LoaderSpec) -> None:
        self.epochs = epochs
        super().__init__(
            epochs.batches,
            length,
            spec,
            layers=augment_and_scale(spec) if spec.placement == "model" else [],
            close=epochs.close,
            prefetch=spec.prefetch,
            skipped=lambda: epochs.skipped,
        )

    def epoch(self, n: int) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """The n-th pass."""
        for images, labels in self._pass(n):
            yield tf.convert_to_tensor(images), tf.convert_to_tensor(labels)


def _lost(numbers: Any, kept: Any) -> Any:
    """On a worker: end with an error that has the number of the first sample that was lost."""
    places = tf.range(tf.size(numbers))
    missing = tf.reduce_all(places[:, tf.newaxis] != kept[tf.newaxis], axis=1)
    first = tf.boolean_mask(numbers, missing)[0]
    with tf.control_dependencies([tf.debugging.Assert(tf.constant(False), [LOST, first])]):
        return tf.constant(True)


def _plain(function: Any) -> Any:
    """``function`` as it is: autograph would look through its source, for nothing, at every start."""
    return tf.autograph.experimental.do_not_convert(function)


class TfdataServiceLoader:
    """See the module."""

    name = "tfdata_service"
    stages: tuple[Stage, ...] = ()
    options = Options

    def unsupported(self, info: DatasetInfo, spec: LoaderSpec) -> str | None:
        """What ``tfdata`` serves, without Python: no compressed HDF5, no cache."""
        if info.format not in READABLE or info.options.get("compression", "none") != "none":
            return (
                "tf.data service's workers run no Python, and only Python reads these files (another format, or compressed)"
            )
        if spec.cache:
            return "a cache would stay with the workers, each of which sees other samples in each epoch"
        return TFDATA.unsupported(info, spec)

    def build(self, dataset: StoredDataset, spec: LoaderSpec, *, until: Stage = Stage.HAND_OVER) -> ServiceFeed:
        """Starts the service, if it is to run here, and waits until it is ready."""
        del until  # no stages: they are on the workers
        return ServiceFeed(Epochs(dataset, spec, options_of(Options, spec)), batches_in(len(dataset), spec), spec)


LOADER = TfdataServiceLoader()
