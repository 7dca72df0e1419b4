"""A feed over numbered passes of Python: what a generator, a DataLoader or a DALI pipeline hands over, in ``tf.data``."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from ctypes import addressof, c_char
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from loaders.base import LoaderSpec, check_epoch
from loaders.closable import Closable
from loaders.native import run_options
from storage.errors import FeedbenchError, UsageError

ALIGNMENT = 64
"""Bytes. What is aligned less, TensorFlow copies."""

Passes: TypeAlias = Callable[[int], Iterator[tuple[NDArray[Any], NDArray[np.int64]]]]


def tensor_of(array: NDArray[Any]) -> tf.Tensor:
    """A tensor that shares the memory of ``array`` and keeps it alive, if it lies as TensorFlow wants it; else of a copy.

    ``tf.convert_to_tensor`` always copies: 1.6 ms for 32 images of 160 × 160, where this takes 4 µs.
    """
    array = np.asarray(array)  # some libraries hand over their own tensors
    if not array.flags.carray or not array.size or addressof(c_char.from_buffer(array.data)) % ALIGNMENT:
        return tf.convert_to_tensor(array)
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


class StreamFeed(Closable):
    """A ``tf.data.Dataset`` each pass of which is the next of ``passes(0)``, ``passes(1)``, …

    ``passes(n)`` yields (images, labels) as ``Feed.epoch`` states them. ``close`` ends what is behind it, ``skipped`` counts
    what it passed over. An error of this
    project that a pass raises comes out as itself, not as TensorFlow's account of it.
    """

    def __init__(
        self,
        passes: Passes,
        length: int,
        spec: LoaderSpec,
        *,
        layers: Sequence[keras.Layer],
        close: Callable[[], None],
        prefetch: int,
        direct: bool = False,
        skipped: Callable[[], int] = lambda: 0,
    ) -> None:
        self._passes = passes
        self._length = length
        self._spec = spec
        self._prefetch = prefetch
        self._end = close
        self._direct = direct
        self._skipped = skipped
        self._passed = 0
        self._failure: FeedbenchError | None = None
        self.layers = list(layers)
        self._wrapped = self._through_tf_data()
        super().__init__(self._wrapped._variant_tensor)

    def _through_tf_data(self, n: int | None = None) -> tf.data.Dataset:
        """The n-th pass, or with None whichever is the next when one begins."""
        # TensorFlow lets go of a Python function only when the process ends: it must not hold the feed and its batches.
        feed = weakref.ref(self)

        def generate() -> Iterator[Any]:
            owner = feed()
            if owner is None:
                raise UsageError("nobody holds this feed any more: keep it as long as it is read")
            return owner._remembering(owner._next() if n is None else n)

        dtype = "float32" if self._spec.placement == "pipeline" else self._spec.dtype
        signature = (
            tf.TensorSpec((None, *self._spec.image_size, 3), dtype),
            tf.TensorSpec((None,), tf.int64),
        )
        dataset = tf.data.Dataset.from_generator(generate, output_signature=signature)
        if self._spec.on_error == "stop":  # how many batches remain where samples are skipped, nobody knows beforehand
            dataset = dataset.apply(tf.data.experimental.assert_cardinality(self._length))
        # There is nothing to tune, and a tuned iterator ends late: it waits for its tuner, which sleeps twice as long each time.
        return dataset.prefetch(self._prefetch or tf.data.AUTOTUNE).with_options(run_options())

    def _next(self) -> int:
        number, self._passed = self._passed, self._passed + 1
        return number

    def _pass(self, number: int) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        check_epoch(number)
        self.check_open()
        return self._passes(number)

    def _remembering(self, number: int) -> Iterator[Any]:
        try:
            yield from self._pass(number)
        except FeedbenchError as error:
            self._failure = error
            raise

    def epoch(self, n: int) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """The n-th pass; through ``tf.data``, unless what is behind it prepares batches ahead by itself (``direct``)."""
        if self._direct:
            yield from ((tensor_of(images), tensor_of(labels)) for images, labels in self._pass(n))
            return
        check_epoch(n)  # None would be whichever is next
        try:
            yield from self._through_tf_data(n)
        except tf.errors.OpError:
            if self._failure is not None:
                raise self._failure from None
            raise

    @property
    def skipped(self) -> int:
        """Unreadable samples that were passed over so far, in all passes."""
        return self._skipped()

    def __len__(self) -> int:
        return self._length

    @property
    def element_spec(self) -> Any:
        """What a batch looks like."""
        return self._wrapped.element_spec

    def _inputs(self) -> list[tf.data.Dataset]:
        return [self._wrapped]

    def close(self) -> None:
        """End what is behind it: no pass begins after this."""
        self.closed = True
        self._end()
