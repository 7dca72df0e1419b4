"""The way to an accelerator: a batch is had when it lies there. Tried on a second, virtual device, and on a fake clock."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from bench.metrics.images_per_s import rate
from bench.run import measure
from bench.steady import Pace, Tick, buffered_images
from tests.bench.test_run import MS, World

TWO_DEVICES = """
import time
import tensorflow as tf
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from bench.accelerator import Accelerator, accelerator
from bench.run import measure
from bench.steady import Pace, Tick, buffered_images

synchronised = []

def synchronise():
    tf.test.experimental.sync_devices()
    synchronised.append(time.perf_counter_ns())
    time.sleep(0.005)

class Feed:
    def __len__(self):
        return 4
    def epoch(self, n):
        for _ in range(4):
            yield tf.zeros((8, 32, 32, 3)), tf.zeros(8, tf.int64)

seen = set()

def step(images, labels):
    seen.update((images.device[-5:], labels.device[-5:]))

there = Accelerator(tf.config.list_logical_devices("CPU")[1].name, synchronise)
found = measure(Feed(), step, pace=Pace(window_s=0, measure_s=0, measure_batches=4), receive=there)
assert accelerator() is None, "processors alone have no way to copy along"
assert seen == {"CPU:1"}, seen
assert min(found.transfer_ns) >= 5_000_000, found.transfer_ns
assert all(w >= t for w, t in zip(found.wait_ns, found.transfer_ns)), "the copy is part of the wait"
assert len(synchronised) >= len(found.images)
"""


def test_a_batch_is_had_when_it_lies_on_the_other_device() -> None:
    done = subprocess.run([sys.executable, "-c", TWO_DEVICES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("group", [1, 2])
def test_the_copy_is_part_of_the_wait_and_stands_apart_too(group: int) -> None:
    world = World(wait_ms=10, step_ms=20, batches=100)

    def receive(images: Any, labels: Any) -> tuple[Any, Any]:
        world.now += 3 * MS
        return images, labels

    pace = Pace(window_batches=2, window_s=0, measure_s=0, measure_batches=8)
    seen = measure(world, world.step, pace=pace, group=group, receive=receive, clock=world.clock)
    steady = 8 // group
    assert seen.wait_ns[:steady] == [13 * MS * group] * steady
    assert seen.transfer_ns[:steady] == [3 * MS * group] * steady
    assert seen.step_ns[:steady] == [20 * MS * group] * steady
    assert rate(seen) == pytest.approx(4 / 0.033)


def test_a_batch_that_came_at_once_did_so_however_long_its_copy_took() -> None:
    """Three batches lie ready, then one comes every 10 ms; each takes 4 ms to copy."""
    waits = [0, 0, 0, *[10] * 20]
    seen = [Tick(0, 4, (wait + 4) * MS, 0, False, 4 * MS) for wait in waits]
    # In the 12 ms of the three, the later pace of 14 ms a batch would have delivered none whole: 0.86 of one.
    assert buffered_images(seen, capacity=16) == 2 * 4


def test_processors_alone_copy_nothing() -> None:
    world = World(wait_ms=10, step_ms=20)
    assert measure(world, world.step, clock=world.clock).transfer_ns == []
