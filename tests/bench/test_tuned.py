"""What tf.data was asked for and what it chose, from pipelines that are running."""

from __future__ import annotations

from typing import Any

import pytest
import tensorflow as tf

from bench import tuned


def pipeline(autotune: bool) -> Any:
    options = tf.data.Options()
    options.autotune.enabled = autotune
    numbers = tf.data.Dataset.range(1000).map(lambda x: x + 1, num_parallel_calls=tf.data.AUTOTUNE)
    return numbers.batch(10).prefetch(tf.data.AUTOTUNE).with_options(options)


def test_what_a_running_pipeline_chose_is_read_from_it() -> None:
    running = iter(pipeline(True))
    for _ in range(20):
        next(running)
    found = tuned.chosen()
    assert "Prefetch buffer_size" in found
    assert any(name.endswith("parallelism") for name in found)
    assert all(float(value) >= 0 for value in found.values())


@pytest.mark.parametrize("autotune", [True, False])
def test_what_was_asked_for_is_told_too(autotune: bool) -> None:
    assert tuned.asked(pipeline(autotune))["autotune"] == str(autotune)
    assert tuned.asked(object()) == {}


def test_a_pipeline_that_tunes_nothing_chose_nothing() -> None:
    running = iter(pipeline(False))
    next(running)
    before = tuned.chosen()
    del running
    assert tuned.chosen() == before
