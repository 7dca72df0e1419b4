"""tf.data's transformations with functions that begin at once.

Each new iterator instantiates the functions of its dataset anew, and that TensorFlow optimizes them with Grappler each time is most
of what the start of an epoch costs: 3 ms for ``x + 1``, 20 to 50 ms for a pipeline that decodes. A function marked as one for
a single device is instantiated without it. These have no need of it: they are kernels with hardly anything between them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import tensorflow as tf

Dataset: TypeAlias = Any
Function: TypeAlias = Callable[..., Any]

_SINGLE_DEVICE = {"experimental_ints_on_device": True}


def map_(dataset: Dataset, function: Function, *, calls: int | None = None, deterministic: bool = True) -> Dataset:
    """``dataset.map``: one after the other, or ``calls`` (tf.data.AUTOTUNE too) at a time."""
    traced = _traced(function, dataset.element_spec)
    spec = _specs(traced)
    if calls is None:
        variant = tf.raw_ops.MapDataset(**_common(dataset, traced, spec), preserve_cardinality=True)
    else:
        variant = tf.raw_ops.ParallelMapDatasetV2(
            **_common(dataset, traced, spec),
            num_parallel_calls=tf.constant(calls, tf.int64),
            deterministic="true" if deterministic else "false",
            preserve_cardinality=True,
        )
    return _dataset(variant, spec, traced)


def flat_map(dataset: Dataset, function: Function) -> Dataset:
    """``dataset.flat_map``."""
    found: list[Any] = []

    def inner(*arguments: Any) -> Any:
        made = function(*arguments)
        found.append(made.element_spec)
        return tf.data.experimental.to_variant(made)

    traced = _traced(inner, dataset.element_spec)
    return _dataset(tf.raw_ops.FlatMapDataset(**_common(dataset, traced, found[-1])), found[-1], traced)


def _arguments(spec: Any) -> tuple[Any, ...]:
    return spec if isinstance(spec, tuple) else (spec,)


def _traced(function: Function, spec: Any) -> Any:
    traced = tf.function(
        function, input_signature=_arguments(spec), autograph=False, experimental_attributes=_SINGLE_DEVICE
    ).get_concrete_function()
    if not tf.executing_eagerly():
        traced.add_to_graph(tf.compat.v1.get_default_graph())
    return traced


def _specs(traced: Any) -> Any:
    return tf.nest.map_structure(lambda part: tf.TensorSpec(part.shape, part.dtype), traced.structured_outputs)


def _common(dataset: Dataset, traced: Any, spec: Any) -> dict[str, Any]:
    parts = tf.nest.flatten(spec)
    return {
        "input_dataset": tf.data.experimental.to_variant(dataset),
        "other_arguments": traced.captured_inputs,
        "f": traced,
        "output_types": [part.dtype for part in parts],
        "output_shapes": [part.shape for part in parts],
    }


def _dataset(variant: Any, spec: Any, traced: Any) -> Dataset:
    dataset = tf.data.experimental.from_variant(variant, spec)
    # What a function captures, and calls in Python, lives as long as it.
    dataset._feedbench_function = traced
    return dataset
