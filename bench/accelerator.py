"""The way to a device that works by itself: batches are copied to it, and the clock waits until they are there.

On a GPU a call returns before its work is done. Without a synchronisation point the copy would be timed as part of
whatever waits next. So a batch counts as *had* when it lies on the device, and a step as *done* when its loss has come back
(``step.py`` fetches it). On processors alone there is no such way, and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

Receive: TypeAlias = Callable[[Any, Any], tuple[Any, Any]]
"""Takes a batch from where the loader left it to where the step runs; returns when it is there."""


class Accelerator:
    """One device. ``name`` as TensorFlow names it; ``synchronise`` returns when all devices have done what they were asked."""

    def __init__(self, name: str, synchronise: Callable[[], None] | None = None) -> None:
        import tensorflow as tf

        self.name = name
        self._synchronise = synchronise or tf.test.experimental.sync_devices

    def __call__(self, images: Any, labels: Any) -> tuple[Any, Any]:
        """The batch on the device: what a step finds there it need not copy."""
        import tensorflow as tf

        with tf.device(self.name):
            there = tf.identity(images), tf.identity(labels)
        self._synchronise()
        return there


def accelerator() -> Accelerator | None:
    """The first GPU that TensorFlow sees; None on processors alone."""
    import tensorflow as tf

    found = tf.config.list_logical_devices("GPU")
    return Accelerator(found[0].name) if found else None
