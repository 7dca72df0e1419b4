"""What counts as steady state: when warm-up is over, and what a buffer held that must not count as speed.

Pure arithmetic on ticks; the clock is read in ``run.py`` only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

NS = 1_000_000_000


class Tick(NamedTuple):
    """One batch as the loop saw it: its epoch, its images, and nanoseconds of waiting for it and of stepping on it.

    ``first`` marks the first batch of an epoch: its wait is turnaround, so the whole batch is no part of steady state.
    ``transfer_ns`` is the part of the wait in which the batch was copied to the accelerator.
    """

    epoch: int
    images: int
    wait_ns: int
    step_ns: int
    first: bool
    transfer_ns: int = 0


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long a case is watched.

    Warm-up is over when two neighbouring windows, each of at least ``window_batches`` and ``window_s``, have rates within
    ``tolerance`` of each other; after ``warmup_max_s`` it is over anyway and the record says that it was not steady. The
    measurement then lasts at least ``measure_s`` and ``measure_batches``, both counted in steady state. A pipeline so fast
    that an epoch is mostly turnaround would take minutes to gather that: it ends after ``measure_most_s``, turnarounds
    included, once it has ten times its batches. Cases that take turns do so in slices of at least ``slice_s`` and a batch.
    """

    window_batches: int = 1
    window_s: float = 0.1
    tolerance: float = 0.10
    warmup_max_s: float = 3.0
    measure_s: float = 1.25
    measure_most_s: float = 2.5
    measure_batches: int = 8
    slice_s: float = 0.1
    stage_s: float = 0.3


SHORT = Pace(measure_s=1.0, measure_most_s=2.0)
"""With a budget: further sweeps of those who lead tell more than longer ones of all."""
TINY = Pace(window_batches=1, window_s=0, warmup_max_s=0.05, measure_s=0, measure_most_s=0, measure_batches=1, stage_s=0)


def too_short(batches: int, group: int) -> str | None:
    """Why an epoch of so many batches holds no steady state, with a step that takes ``group`` in one go; None if it does."""
    if batches < 2:
        return "an epoch is a single batch, so there is no steady state: lower --batch-size or give more images"
    if batches < 2 * group:
        return (
            f"an epoch of {batches} batches holds no steady state with steps_per_execution {group}: at least "
            f"{2 * group} are needed; lower it or --batch-size, or give more images"
        )
    return None


def is_warm(ticks: Sequence[Tick], pace: Pace) -> bool:
    """The warm-up test: are the last two windows of steady-state batches equally fast, within the tolerance?"""
    ends = len(ticks)
    rates: list[float] = []
    while len(rates) < 2:
        images = batches = spent = 0
        while batches < pace.window_batches or spent < pace.window_s * NS:
            ends -= 1
            if ends < 0:
                return False
            tick = ticks[ends]
            if not tick.first:
                images, batches, spent = images + tick.images, batches + 1, spent + tick.wait_ns + tick.step_ns
        rates.append(images / max(spent, 1))
    return abs(rates[0] - rates[1]) <= pace.tolerance * max(rates)


def buffered_images(ticks: Sequence[Tick], capacity: int) -> int:
    """Images that a buffer held when steady state began, or began again after a turnaround.

    A batch comes *at once* if its wait is under a tenth of the mean period. Where a stretch of steady state begins with
    batches that come at once and goes on with longer waits, those beyond what would have come in the same time with the later
    waits were made before the stretch began. Whole batches are counted, at most ``capacity`` of them a stretch. Only waits are
    compared: steps that happen to be slower later say nothing about a buffer, and a pipeline that never makes the step wait
    has nothing counted out.
    """
    steady = [tick for tick in ticks if not tick.first]
    if not steady:
        return 0
    at_once_ns = sum(tick.wait_ns + tick.step_ns for tick in steady) / len(steady) / 10
    held = 0
    for stretch in _stretches(ticks):
        lead = next((i for i, tick in enumerate(stretch) if tick.wait_ns - tick.transfer_ns >= at_once_ns), len(stretch))
        rest = stretch[lead:]
        if not lead or not rest:
            continue
        lead_ns = sum(tick.wait_ns + tick.step_ns for tick in stretch[:lead])
        later_ns = sum(tick.step_ns for tick in stretch[:lead]) / lead + sum(tick.wait_ns for tick in rest) / len(rest)
        excess = min(int(lead - lead_ns / later_ns), capacity) if later_ns else 0
        held += sum(tick.images for tick in stretch[: max(excess, 0)])
    return held


def _stretches(ticks: Sequence[Tick]) -> list[list[Tick]]:
    """Runs of steady-state batches between turnarounds."""
    stretches: list[list[Tick]] = [[]]
    for tick in ticks:
        if tick.first:
            stretches.append([])
        else:
            stretches[-1].append(tick)
    return stretches
