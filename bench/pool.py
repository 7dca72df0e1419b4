"""TensorFlow's own pool of memory on the processor. What is freed stays in it, so /proc does not show that it is used again.

With oneDNN (the default on x86) tensors come from a pool that never shrinks; elsewhere from ``malloc``, and there is nothing
to count. Reads no clock and imports no TensorFlow.
"""

from __future__ import annotations

import sys

DEVICE = "CPU:0"


class Pool:
    """The pool of this process, watched over stretches that follow each other."""

    def __init__(self) -> None:
        self._held = 0  # the most that was ever in use: so much is there now
        self._before = 0

    def begin(self) -> None:
        """A stretch begins."""
        current, peak = _in_use()
        self._held, self._before = max(self._held, peak), current
        _forget_peak()

    def needed(self) -> int:
        """Bytes in use at the stretch's peak, beyond those in use when it began."""
        return max(0, _in_use()[1] - self._before)

    def reused(self) -> int:
        """Of ``needed``, what was there already, unused."""
        return min(self.needed(), max(0, self._held - self._before))


def _in_use() -> tuple[int, int]:
    """Bytes in use now, and at the peak; zeros where there is no pool (yet)."""
    if "tensorflow" not in sys.modules:
        return 0, 0
    import tensorflow as tf
    from tensorflow.python.eager import context

    # Asking for the pool of a TensorFlow that was imported, but never used, would start its threads, or take a GPU's memory.
    if not getattr(context.context(), "_initialized", True):
        return 0, 0
    try:
        found = tf.config.experimental.get_memory_info(DEVICE)
    except ValueError:  # without oneDNN
        return 0, 0
    return found["current"], found["peak"]


def _forget_peak() -> None:
    if _in_use() != (0, 0):
        import tensorflow as tf

        tf.config.experimental.reset_memory_stats(DEVICE)
