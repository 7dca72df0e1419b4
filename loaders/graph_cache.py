"""Decoded images kept in memory that TensorFlow and Python share: written once by Python, then gathered by TensorFlow.

Whoever builds a pipeline on a cache keeps the cache: without it, images are made anew and none is kept.
"""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from storage.errors import UsageError

Tensor: TypeAlias = Any


class GraphCache:
    """Images by the number of their sample. Memory is taken as they come."""

    def __init__(self, samples: int, image_size: tuple[int, int]) -> None:
        self._images = _shared((samples, *image_size, 3))
        self._there = _shared((samples,))

    def get(self, numbers: Tensor, make: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """In a graph: the images at ``numbers`` and their places in the batch; by ``make``, unless all are kept already."""
        with tf.init_scope(), tf.device("CPU:0"):
            images, there = (tf.experimental.dlpack.from_dlpack(array.__dlpack__()) for array in (self._images, self._there))

        # TensorFlow lets go of a Python function only when the process ends: it must not hold the images.
        cache = weakref.ref(self)

        def keep(images: NDArray[np.uint8], numbers: NDArray[np.int64]) -> bool:
            held = cache()
            return held is not None and held._keep(images, numbers)

        def kept() -> tuple[Tensor, Tensor]:
            return tf.gather(images, numbers), tf.range(tf.size(numbers))

        def made() -> tuple[Tensor, Tensor]:
            new, places = make()
            stored = tf.numpy_function(keep, [new, tf.gather(numbers, places)], tf.bool)
            with tf.control_dependencies([stored]):
                return tf.identity(new), places

        found, places = tf.cond(tf.reduce_all(tf.gather(there, numbers) == 1), kept, made)
        return found, places

    def _keep(self, images: NDArray[np.uint8], numbers: NDArray[np.int64]) -> bool:
        self._images[numbers] = images
        self._there[numbers] = 1
        return True


def _shared(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Zeros that begin at a page, so that TensorFlow takes them as they are."""
    size = int(np.prod(shape, dtype=object))
    try:
        return np.frombuffer(mmap.mmap(-1, max(1, size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)[
            :size
        ].reshape(shape)
    except (OSError, OverflowError, ValueError) as error:
        raise UsageError(f"cache=True needs {size / 2**30:.1f} GiB of memory for {shape[0]} images") from error
