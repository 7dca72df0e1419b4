"""A counter inside TensorFlow's graph."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

_ANONYMOUS = "cd2c89b7-88b7-44c8-ad83-06c2a9158347"
"""ResourceHandle::ANONYMOUS_NAME: such a resource is freed with the last reference to it, be it an iterator's."""


class GraphCounter:
    """A number where the graph can reach it, such as that of the pass that begins next.

    A bare resource: a ``tf.Variable`` that is made inside a strategy's scope would be mirrored.
    """

    def __init__(self) -> None:
        with tf.init_scope(), tf.device("CPU:0"):
            self._handle = tf.raw_ops.VarHandleOp(dtype=tf.int64, shape=[], shared_name=_ANONYMOUS)
        self.set(0)

    def set(self, value: int) -> None:
        """From now on it is ``value``."""
        tf.raw_ops.AssignVariableOp(resource=self._handle, value=tf.constant(value, tf.int64))

    def value(self) -> int:
        """What it is now."""
        return int(tf.raw_ops.ReadVariableOp(resource=self._handle, dtype=tf.int64))

    def take(self) -> Any:
        """In a graph: what it is; from then on it is one more."""
        number = tf.raw_ops.ReadVariableOp(resource=self._handle, dtype=tf.int64)
        with tf.control_dependencies([number]):
            raised = self.add(tf.constant(1, tf.int64))
        with tf.control_dependencies([raised]):
            return tf.identity(number)

    def add(self, value: Any) -> Any:
        """In a graph: from then on it is ``value`` (int64) more. Several threads may add."""
        return tf.raw_ops.AssignAddVariableOp(resource=self._handle, value=value)
