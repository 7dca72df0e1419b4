"""The loop, by numbers worked out by hand on a clock that only moves when it is told to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from time import process_time
from typing import Any

import numpy as np
import pytest

from bench.case import Case, StepSpec
from bench.metrics import METRICS
from bench.metrics.images_per_s import rate
from bench.record import Measured, RunRecord
from bench.run import hand_over, images_per_ns, measure, measure_epoch
from bench.starvation import loading, utilisation
from bench.steady import Pace, Tick, buffered_images, is_warm
from storage.errors import DataError

MS = 1_000_000


class World:
    """A feed and a step on one fake clock: each batch takes ``wait_ms``, the first of an epoch ``turnaround_ms`` more."""

    def __init__(
        self, *, wait_ms: float, step_ms: float, turnaround_ms: float = 0, batches: int = 10, last: int = 4
    ) -> None:
        self.now = 0
        self.wait, self.step_time, self.turnaround = (round(ms * MS) for ms in (wait_ms, step_ms, turnaround_ms))
        self.sizes = [4] * (batches - 1) + [last]
        self.epochs: list[int] = []

    def clock(self) -> int:
        return self.now

    def __len__(self) -> int:
        return len(self.sizes)

    def epoch(self, n: int) -> Iterator[tuple[Any, Any]]:
        self.epochs.append(n)
        self.now += self.turnaround
        for size in self.sizes:
            self.now += self.wait
            yield None, np.zeros(size, np.int64)

    def step(self, images: Any, labels: Any) -> None:
        self.now += self.step_time


PACE = Pace(window_batches=2, window_s=0.1, measure_s=0.3, measure_batches=8)


def test_each_time_in_its_own_list() -> None:
    world = World(wait_ms=10, step_ms=20, turnaround_ms=50)
    seen = measure(world, world.step, pace=PACE, capacity=4, clock=world.clock)
    # Two windows of four batches of 30 ms each (100 ms at least), after the first batch: nine batches of warm-up.
    assert seen.warmup_wait_ns == [60 * MS] + [10 * MS] * 8
    assert seen.first_batch_ns == 60 * MS
    # 300 ms of steady state: the last batch of epoch 0, and nine of epoch 1 behind its first.
    assert seen.epochs == [0] + [1] * 10
    assert seen.wait_ns == [10 * MS, 60 * MS] + [10 * MS] * 9
    assert seen.step_ns == [20 * MS] * 11
    assert seen.images == [4] * 11
    assert rate(seen) == pytest.approx(4 / 0.030)


def test_a_long_epoch_shows_one_turnaround_too() -> None:
    world = World(wait_ms=10, step_ms=20, turnaround_ms=50, batches=1000)
    seen = measure(world, world.step, pace=PACE, capacity=4, clock=world.clock)
    assert world.epochs == [0, 1]
    assert seen.epochs == [0] * 10 + [1]
    assert seen.wait_ns[-1] == 60 * MS
    assert rate(seen) == pytest.approx(4 / 0.030)


class Burning(World):
    """Its second epoch begins with 0.2 s of processor time."""

    def epoch(self, n: int) -> Iterator[tuple[Any, Any]]:
        until = process_time() + 0.2 * (n == 1)
        while process_time() < until:
            pass
        return super().epoch(n)


def test_a_turnaround_between_warm_up_and_measurement_is_in_no_account() -> None:
    world = Burning(wait_ms=10, step_ms=20, turnaround_ms=50, batches=9)
    seen = measure(world, world.step, pace=PACE, capacity=4, clock=world.clock)
    assert seen.warmup_wait_ns == [60 * MS] + [10 * MS] * 8 + [60 * MS]  # Nine batches, and the first of the next epoch.
    assert seen.cpu_ns is not None
    assert seen.cpu_ns < 0.1e9


def test_short_last_batches_count_as_what_they_are() -> None:
    world = World(wait_ms=10, step_ms=0, batches=5, last=1)
    seen = measure(world, world.step, pace=PACE, capacity=4, clock=world.clock)
    assert set(seen.images) == {4, 1}
    steady = [n for n, before, epoch in zip(seen.images[1:], seen.epochs, seen.epochs[1:], strict=False) if before == epoch]
    assert rate(seen) == pytest.approx((sum(steady) + seen.images[0]) / (0.010 * (len(steady) + 1)))


def test_an_epoch_that_may_lie_ready_is_measured_whole() -> None:
    """Four batches an epoch, made while the first is waited for: 40 ms, then none. Not 4 images in no time."""
    world = World(wait_ms=0, step_ms=0, turnaround_ms=40, batches=4)
    seen = measure(world, world.step, pace=PACE, capacity=4, clock=world.clock)
    assert seen.whole_epochs
    assert seen.wait_ns == [40 * MS, 0, 0, 0] * 8
    assert rate(seen) == pytest.approx(16 / 0.040)
    assert [tick for tick in seen.warmup_wait_ns if tick] == [40 * MS] * (len(seen.warmup_wait_ns) // 4)
    (turnaround, from_loading) = (METRICS["epoch_turnaround_s"].compute([record_of(seen)]), loading(seen))
    assert turnaround == pytest.approx(0.040)
    assert from_loading is not None
    assert from_loading.turnaround_s == 0
    assert utilisation(from_loading, 100, epoch_images=16) == pytest.approx(1, abs=0.02)
    longer = measure(World(wait_ms=1, step_ms=0, batches=5), lambda *_: None, pace=PACE, capacity=4, clock=ticking())
    assert not longer.whole_epochs


def test_a_fast_pipeline_does_not_take_minutes_of_turnaround() -> None:
    """0.9 ms of steady state an epoch, and a second of turnaround: 1 s of steady state would take 18 minutes."""
    world = World(wait_ms=0.1, step_ms=0, turnaround_ms=1000, batches=10)
    seen = measure(world, world.step, pace=Pace(), capacity=4, clock=world.clock)
    assert sum(seen.wait_ns) / 1e9 == pytest.approx(9, abs=1)
    assert len([1 for wait in seen.wait_ns if wait < MS]) >= 10 * 8
    assert rate(seen) == pytest.approx(4 / 0.0001)


def ticking() -> Callable[[], int]:
    """A clock on which every reading is 1 ms later."""
    now = count(0, MS)
    return lambda: next(now)


def record_of(outcome: Measured) -> RunRecord:
    case = Case(format="hdf5", payload="raw", loader="tfdata", step=StepSpec(step="none"))
    return RunRecord(case=case, sweep=0, outcome=outcome, environment_id="e")


def test_one_batch_an_epoch_has_no_steady_state() -> None:
    with pytest.raises(DataError, match="no steady state"):
        measure(World(wait_ms=1, step_ms=1, batches=1), lambda *_: None)


def test_never_steady_is_said() -> None:
    world = World(wait_ms=10, step_ms=0, batches=1000)
    inner = world.step

    def slowing(images: Any, labels: Any) -> None:
        world.wait = round(world.wait * 1.2)
        inner(images, labels)

    seen = measure(world, slowing, pace=Pace(warmup_max_s=2, measure_s=0, measure_batches=1), clock=world.clock)
    assert not seen.warmup_steady


def test_first_epoch_cold() -> None:
    world = World(wait_ms=10, step_ms=20, turnaround_ms=50)
    seen = measure_epoch(world, world.step, clock=world.clock)
    assert (len(seen.images), seen.warmup_images, seen.first_batch_ns) == (10, [], 60 * MS)
    # By hand: ten batches of four, 60 and nine times 10 ms to come, 20 ms each to step on; nothing turns around.
    assert rate(seen) == pytest.approx(40 / 0.350)
    case = Case(format="hdf5", payload="raw", loader="tfdata", step=StepSpec(step="none"), cache="cold")
    records = [RunRecord(case=case, sweep=0, phase="cold_epoch", outcome=seen, environment_id="e", started_at="now")]
    assert METRICS["epoch_turnaround_s"].compute(records) is None


def test_a_group_of_batches_is_one_entry() -> None:
    """Three batches a step: 5 ms each to come, 60 ms for the three at the third call."""
    world = World(wait_ms=5, step_ms=0, turnaround_ms=50, batches=10)
    calls = []

    def step(images: Any, labels: Any) -> None:
        calls.append(len(labels))
        world.now += 60 * MS if len(calls) % 3 == 0 else 0

    pace = Pace(window_batches=2, window_s=0, measure_s=0, measure_batches=12)
    seen = measure(world, step, pace=pace, group=3, clock=world.clock)
    # Batches 0-2 open epoch 0, the turnaround included; 3-5 and 6-8 are steady; 9, 0, 1 open epoch 1; 2-4 and 5-7 are steady:
    # two windows of two. Then 8, 9, 0, which opens epoch 2, belongs to neither.
    assert seen.warmup_wait_ns == [65 * MS, 15 * MS, 15 * MS, 65 * MS, 15 * MS, 15 * MS, 65 * MS]
    assert seen.warmup_step_ns == [60 * MS] * 7
    # Twelve steady batches: 1-3, 4-6, 7-9, and 3-5 of epoch 3, which 0-2 had opened.
    assert seen.wait_ns == [15 * MS, 15 * MS, 15 * MS, 65 * MS, 15 * MS]
    assert (seen.images, seen.epochs) == ([12] * 5, [2, 2, 2, 3, 3])
    assert len(calls) % 3 == 0
    assert rate(seen) == pytest.approx(12 / 0.075)


def test_a_group_needs_an_epoch_of_two() -> None:
    with pytest.raises(
        DataError, match=r"an epoch of 7 batches holds no steady state with steps_per_execution 4: at least 8"
    ):
        measure(World(wait_ms=1, step_ms=1, batches=7), lambda *_: None, group=4)


def test_whole_groups_of_the_first_epoch_are_cold() -> None:
    world = World(wait_ms=10, step_ms=20, turnaround_ms=50)
    seen = measure_epoch(world, world.step, group=3, clock=world.clock)
    assert (seen.images, seen.warmup_images, seen.first_batch_ns) == ([12, 12, 12], [], 80 * MS)
    assert world.epochs == [0]


def test_pace_of_a_stage() -> None:
    world = World(wait_ms=10, step_ms=0, turnaround_ms=50)
    assert images_per_ns(world, world.step, seconds=0, clock=world.clock) * 1e9 == pytest.approx(40 / 0.150)
    assert world.epochs == [0]
    assert images_per_ns(world, world.step, seconds=0.4, clock=world.clock) * 1e9 == pytest.approx(40 / 0.150)
    assert world.epochs == [0, 0, 1, 2]


def ticks(waits_ms: Sequence[float], step_ms: float = 0) -> list[Tick]:
    return [Tick(0, 4, round(wait * MS), round(step_ms * MS), False) for wait in waits_ms]


def test_handing_over_is_timed_after_pauses_and_not_where_that_takes_long() -> None:
    world = World(wait_ms=1, step_ms=0, turnaround_ms=300, batches=10)

    def sleep(seconds: float) -> None:
        world.now += round(seconds * 1e9)

    # Behind the first batch, 10 ms each: three hold 30 ms, and nine are all of the epoch.
    assert hand_over(world, 7, pause_s=0.009, seconds=0.03, clock=world.clock, sleep=sleep) == [MS] * 3
    assert hand_over(world, 8, pause_s=0.009, seconds=0.3, clock=world.clock, sleep=sleep) == [MS] * 9
    assert hand_over(world, 9, pause_s=0.034, seconds=0.1, clock=world.clock, sleep=sleep) == []
    assert world.epochs == [7, 8]


def test_warm_when_two_windows_agree() -> None:
    pace = Pace(window_batches=2, window_s=0)
    assert not is_warm(ticks([10, 10, 10]), pace)
    assert is_warm(ticks([50, 10, 10, 10, 10]), pace)
    assert not is_warm(ticks([10, 10, 12, 12]), pace)
    assert is_warm(ticks([10, 10, 11, 11]), pace)


def test_what_was_held_is_counted_out() -> None:
    # Three at once, then one every 10 ms: the three had been made before.
    assert buffered_images(ticks([0, 0, 0] + [10] * 20), capacity=16) == 12
    assert buffered_images(ticks([0, 0, 0] + [10] * 20), capacity=2) == 8
    # Batches that come at once while a step of 10 ms runs, and 12.5 ms apart later: 5 came in the time of 4.
    assert buffered_images(ticks([0] * 5 + [2.5] * 20, step_ms=10), capacity=16) == 4


def test_a_pipeline_that_never_makes_the_step_wait_held_nothing_back() -> None:
    assert buffered_images(ticks([0] * 20, step_ms=10), capacity=16) == 0
    assert buffered_images(ticks([10] * 20), capacity=16) == 0


def test_a_step_that_becomes_slower_says_nothing_about_a_buffer() -> None:
    steps = [10.0] * 30 + [14.0] * 30
    seen = [Tick(0, 4, MS * (2 if number == 30 else 0), round(step * MS), False) for number, step in enumerate(steps)]
    assert buffered_images(seen, capacity=16) == 0


def test_buffers_fill_again_during_each_turnaround() -> None:
    epoch = [Tick(0, 4, 50 * MS, 0, True), *ticks([0, 0] + [10] * 10)]
    assert buffered_images(epoch * 3, capacity=16) == 3 * 8
