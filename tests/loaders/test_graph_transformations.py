"""tf.data's transformations with functions that begin at once give what those of tf.data give."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from loaders.graph_transformations import flat_map, map_


def elements(dataset: Any) -> list[Any]:
    return [tf.nest.map_structure(lambda part: part.numpy().tolist(), element) for element in dataset]


@pytest.mark.parametrize("calls", [None, 1, 3, tf.data.AUTOTUNE])
def test_map(calls: int | None) -> None:
    numbers = tf.data.Dataset.range(20)
    pairs = map_(numbers, lambda n: (n, tf.fill([2], n)), calls=calls)
    assert elements(pairs) == [(n, [n, n]) for n in range(20)]
    assert pairs.element_spec[1].shape == [2]
    assert elements(map_(pairs, lambda n, filled: n + filled[0], calls=calls)) == [2 * n for n in range(20)]
    assert pairs.cardinality() == 20


def test_map_in_any_order_loses_nothing() -> None:
    found = map_(tf.data.Dataset.range(50), lambda n: n * 3, calls=4, deterministic=False)
    assert sorted(elements(found)) == [3 * n for n in range(50)]


def test_flat_map() -> None:
    inner = flat_map(tf.data.Dataset.range(4), lambda n: tf.data.Dataset.range(n).map(lambda m: (n, m)))
    for _ in range(2):
        assert elements(inner) == [(n, m) for n in range(4) for m in range(n)]


def test_inside_another_function() -> None:
    def tripled(values: Any) -> Any:
        return map_(tf.data.Dataset.from_tensor_slices(values), lambda v: v * 3).batch(10).get_single_element()

    found = map_(tf.data.Dataset.range(3), lambda n: tripled(tf.stack([n, n + 1])))
    assert elements(found) == [[0, 3], [3, 6], [6, 9]]


def test_keeps_what_a_function_captures_and_calls() -> None:
    def dataset() -> Any:
        table = tf.constant(np.arange(10) * 7)
        kept = np.arange(10) * 100

        def call(n: Any) -> Any:
            return tf.gather(table, n) + tf.ensure_shape(tf.numpy_function(lambda i: kept[i], [n], tf.int64), [])

        return map_(tf.data.Dataset.range(3), call, calls=2).prefetch(1).with_options(tf.data.Options())

    made = dataset()
    gc.collect()
    assert elements(made) == [0, 107, 214]


def test_functions_are_instantiated_without_grappler() -> None:
    """Whose optimizers at every new iterator are what this module is there to avoid."""
    made = map_(tf.data.Dataset.range(3), lambda n: n + 1)
    assert made._feedbench_function.function_def.attr["experimental_ints_on_device"].b
