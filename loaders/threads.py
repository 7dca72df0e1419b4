"""The threads of the ``threaded`` loader: parts of batches filled side by side, and handed over whole, in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from loaders.augmentation import Draws
from loaders.base import STAGES, LoaderSpec, Stage
from loaders.batch_memory import BatchMemory
from loaders.preparing import Preparer, Work
from loaders.recut import Delivered, recut
from loaders.sample import batches_in, order
from loaders.workers import Workers
from storage.errors import UsageError

if TYPE_CHECKING:
    from storage.dataset import StoredDataset

HAND_OVERS = ("tf.data", "pydataset")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What only this loader knows.

    Attributes
    ----------
    hand_over
        ``tf.data`` or ``pydataset``.
    task
        Images that a thread takes at a time; 0: a quarter of a batch (encoded), a batch (raw).
    window
        TFRecord: samples among which are shuffled, at least, in whole shards.
    """

    hand_over: str = "tf.data"
    task: int = 0
    window: int = 16384

    def __post_init__(self) -> None:
        if self.hand_over not in HAND_OVERS:
            raise UsageError(f"hand_over must be {' or '.join(HAND_OVERS)}; got {self.hand_over!r}")
        if self.task < 0:
            raise UsageError(f"task must be at least 0, got {self.task}")
        if self.window < 1:
            raise UsageError(f"window must be at least 1, got {self.window}")


class Threads:
    """The threads of one feed, and the passes that they make."""

    def __init__(self, dataset: StoredDataset, spec: LoaderSpec, options: Options, until: Stage) -> None:
        self.dataset, self.spec, self.options, self.until = dataset, spec, options, until
        self.skipped = 0
        self._preparer = Preparer(dataset, spec, until)
        self._augment = spec.augment and spec.placement == "pipeline"
        raw = dataset.info.payload == "raw"
        self._task = min(options.task or (spec.batch_size if raw else -(-spec.batch_size // 4)), spec.batch_size)
        self._ahead = spec.prefetch + -(-spec.threads() * self._task // spec.batch_size)
        dtype = "float32" if spec.placement == "pipeline" else spec.dtype
        keep = self._ahead + 4
        self._images = BatchMemory((spec.batch_size, *spec.image_size, 3), dtype, keep)
        self._labels = BatchMemory((spec.batch_size,), "int64", keep)
        self._workers = Workers(spec.threads(), "feedbench-threaded")

    def __len__(self) -> int:
        return batches_in(len(self.dataset), self.spec)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The samples of one epoch, in order: int64 (n,). The same for the same seed and epoch, whatever ran before."""
        samples = len(self.dataset)
        if self.dataset.info.format != "tfrecord" or not self.spec.shuffle:
            return order(samples, self.spec, epoch)
        sizes = [shard.samples for shard in self.dataset.split_info.shards]
        return windows(sizes, self.options.window, np.random.default_rng((self.spec.seed, epoch)))

    def draws(self, epoch: int) -> Draws | None:
        """How each sample is augmented in one epoch; None if it is not, here."""
        return Draws(self.spec.seed, epoch, len(self.dataset)) if self._augment else None

    def batch(self, number: int, chosen: NDArray[np.int64], draws: Draws | None) -> Work:
        """A batch that is still to be filled."""
        count = len(chosen)
        return Work(
            number,
            draws,
            chosen,
            self._images.take(count),
            self._labels.take(count),
            -(-count // self._task),
        )

    def fill(self, work: Work) -> Delivered:
        """A whole batch, in this thread. UsageError once the feed is closed, or in a fork."""
        self._workers.check_usable()
        self._preparer.fill(work, 0, len(work.indices))
        return self._delivered(work)

    def batches(self, n: int) -> Iterator[Delivered]:
        """The n-th pass."""
        made = self._made(n)
        if self.spec.on_error == "stop":
            return made
        return recut(made, self.spec.batch_size, self.spec.drop_remainder)

    def _made(self, n: int) -> Iterator[Delivered]:
        numbers, draws = self.order(n), self.draws(n)
        size, spec = self.spec.batch_size, self.spec
        whole = spec.on_error == "skip"  # then what is too little for a batch is known only at the end
        count = -(-len(numbers) // size) if whole else len(self)
        finished: SimpleQueue[Work] = SimpleQueue()
        stopped: list[bool] = []
        begun = 0
        ready: dict[int, Work] = {}

        def part(work: Work, start: int) -> None:
            try:
                if self._workers.closed:
                    raise UsageError("the feed was closed in the middle of this epoch")
                if not stopped and work.failure is None:
                    self._preparer.fill(work, start, min(start + self._task, len(work.indices)))
            except BaseException as error:
                work.failure = error
            with work.lock:
                work.parts -= 1
                last = work.parts == 0
            if last:
                finished.put(work)

        try:
            for due in range(count):
                while begun < count and begun - due < max(1, self._ahead):
                    work = self.batch(begun, numbers[begun * size : (begun + 1) * size], draws)
                    for start in range(0, len(work.indices), self._task):
                        self._workers.submit(part, work, start)
                    begun += 1
                    del work
                if spec.deterministic:
                    while due not in ready:
                        done = finished.get()
                        ready[done.number] = done
                    done = ready.pop(due)
                else:
                    done = finished.get()
                if done.failure is not None:
                    raise done.failure
                delivered = self._delivered(done)
                del done
                yield delivered
                del delivered
        finally:
            stopped.append(True)

    def _delivered(self, work: Work) -> Delivered:
        if STAGES.index(self.until) < STAGES.index(Stage.BATCH):
            return work.indices, work.labels
        if not work.lost:
            return work.images, work.labels
        self.skipped += len(work.lost)
        kept = np.delete(np.arange(len(work.labels)), work.lost)
        return work.images[kept], work.labels[kept]

    def close(self) -> None:
        """End the threads and close the stored dataset."""
        self._workers.close()
        self._preparer.close()
        self.dataset.close()


def windows(sizes: list[int], window: int, random: np.random.Generator) -> NDArray[np.int64]:
    """All samples of shards of ``sizes``: shards in random order, and as many at a time as hold ``window`` samples, shuffled."""
    starts = np.cumsum([0, *sizes])
    parts: list[NDArray[np.int64]] = []
    held: list[NDArray[np.int64]] = []
    for number in random.permutation(len(sizes)):
        held.append(np.arange(starts[number], starts[number] + sizes[number]))
        if sum(map(len, held)) >= window:
            parts.append(random.permutation(np.concatenate(held)))
            held = []
    parts.append(random.permutation(np.concatenate(held)) if held else np.empty(0, np.int64))
    return np.concatenate(parts)
