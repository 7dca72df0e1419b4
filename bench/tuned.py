"""What tf.data was asked for, and what it chose for itself: parallelism and buffers, from the pipelines that are running.

Asked while the measured loop is still open, since a pipeline that has ended has forgotten. With autotuning off there is
nothing to choose, and only what was asked for is told.
"""

from __future__ import annotations

import gc
from collections import Counter
from typing import Any

OPTIONS = ("autotune", "private_threadpool_size", "max_intra_op_parallelism", "deterministic")
"""What is told of a pipeline that chose nothing for itself."""


def asked(feed: Any) -> dict[str, str]:
    """The options of a feed that is a ``tf.data.Dataset``; empty for any other."""
    options = getattr(feed, "options", None)
    if not callable(options):
        return {}
    told = options()
    threading = told.threading
    values = (
        told.autotune.enabled, threading.private_threadpool_size, threading.max_intra_op_parallelism, told.deterministic
    )  # fmt: skip
    return {
        name: "TensorFlow's default" if value is None else str(value) for name, value in zip(OPTIONS, values, strict=True)
    }


def chosen() -> dict[str, str]:
    """What every running pipeline of this process tunes, as it is now: ``ParallelMap parallelism`` and so on.

    Nodes of the same kind are numbered in the order in which TensorFlow lists them.
    """
    import tensorflow as tf
    from tensorflow.core.framework import model_pb2

    found: dict[str, str] = {}
    seen: Counter[str] = Counter()
    for one in gc.get_objects():
        # By type, not isinstance: that would wake lazy modules and proxies.
        if not issubclass(type(one), tf.data.Iterator):
            continue
        try:
            stored = tf.raw_ops.IteratorGetModelProto(iterator=one._iterator_resource)
        except (AttributeError, tf.errors.OpError):
            continue  # It tunes nothing.
        for node in model_pb2.ModelProto.FromString(stored.numpy()).nodes.values():
            for parameter in node.parameters:
                if parameter.tunable:
                    name = f"{node.name} {parameter.name}"
                    seen[name] += 1
                    found[name if seen[name] == 1 else f"{name} {seen[name]}"] = f"{parameter.value:g}"
    return found
