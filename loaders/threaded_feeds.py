"""What the ``threaded`` loader hands over: a ``tf.data.Dataset``, or a ``keras.utils.PyDataset``."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from loaders.augmentation import Draws
from loaders.base import Stage, check_epoch
from loaders.numbered import NumberedPasses
from loaders.preprocess import augment_and_scale
from loaders.recut import Delivered
from loaders.stream import StreamFeed, tensor_of
from loaders.threads import Threads


def passes(threads: Threads, n: int) -> Iterator[Any]:
    """The n-th pass: tensors, which share the memory of the batches, or what a cut pipeline has."""
    check_epoch(n)
    if threads.until == Stage.HAND_OVER:
        return ((tensor_of(images), tensor_of(labels)) for images, labels in threads.batches(n))
    return threads.batches(n)


class ThreadedDataset(StreamFeed):
    """In ``tf.data``: what ``model.fit`` takes. ``epoch(n)`` hands tensors over without it."""

    def __init__(self, threads: Threads) -> None:
        spec = threads.spec
        super().__init__(
            threads.batches,
            len(threads),
            spec,
            layers=augment_and_scale(spec) if spec.placement == "model" else [],
            close=threads.close,
            prefetch=max(1, spec.prefetch),
            skipped=lambda: threads.skipped,
        )
        self.threads = threads

    def epoch(self, n: int) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """The n-th pass."""
        return passes(self.threads, n)


class ThreadedSequence(NumberedPasses):
    """Batches by number, each made by whichever of Keras' threads asks for it."""

    def __init__(self, threads: Threads) -> None:
        spec = threads.spec
        super().__init__(workers=spec.threads(), max_queue_size=max(1, spec.prefetch) + spec.threads())
        self.threads = threads
        self.layers = augment_and_scale(spec) if spec.placement == "model" else []
        self._lock = Lock()
        self._drawn: tuple[int, NDArray[np.int64], Draws | None] | None = None

    def __len__(self) -> int:
        return len(self.threads)

    def __getitem__(self, index: int) -> Delivered:
        with self._lock:
            number = self.current
            if self._drawn is None or self._drawn[0] != number:
                self._drawn = number, self.threads.order(number), self.threads.draws(number)
            _, order, draws = self._drawn
        size = self.threads.spec.batch_size
        return self.threads.fill(self.threads.batch(index, order[index * size : (index + 1) * size], draws))

    def epoch(self, n: int) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """The n-th pass, by this loader's own threads."""
        return passes(self.threads, n)

    def close(self) -> None:
        """End the threads and close the stored dataset."""
        self.threads.close()
