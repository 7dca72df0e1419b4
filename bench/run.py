"""Runs one case once. Inside a measured region, nothing else reads a clock; the clock is an argument.

The loop is the one that training has: ask for a batch, have it, step on it. Two clock readings a batch split all of its
time into waiting and stepping, with nothing in between: the end of one step is the moment the next batch is asked for.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeAlias

from bench import meter
from bench.accelerator import Receive
from bench.own_time import Turns, now_ns
from bench.record import Measured
from bench.steady import NS, Pace, Tick, buffered_images, is_warm, too_short
from storage.errors import DataError

Clock: TypeAlias = Callable[[], int]


class Step(Protocol):
    """What is done with a batch. Returns when it is done, also on a device that works asynchronously."""

    def __call__(self, images: Any, labels: Any) -> None: ...


class Batches(Protocol):
    """What the loop needs of a feed."""

    def __len__(self) -> int: ...
    def epoch(self, n: int) -> Iterable[tuple[Any, Any]]: ...


@dataclass(frozen=True)
class Opening:
    """What was spent before the first batch was asked for, in nanoseconds."""

    scan_ns: int = 0
    startup_ns: int = 0


def ticks(
    feed: Batches, step: Step, clock: Clock, epoch: int = 0, receive: Receive | None = None
) -> Generator[Tick, None, None]:
    """The training loop: one tick a batch, epoch after epoch from ``epoch`` on, for ever.

    With an accelerator, ``receive`` copies each batch to it (``accelerator.py``). A tick's images are counted when it is
    yielded, outside the two readings of the *next* batch's step but inside its wait, as the loop's own work always is.
    """
    asked = clock()
    while True:
        asked = yield from epoch_ticks(feed, step, clock, epoch, asked, receive)
        epoch += 1


def epoch_ticks(
    feed: Batches, step: Step, clock: Clock, epoch: int, asked: int, receive: Receive | None = None
) -> Generator[Tick, None, int]:
    """One epoch of the training loop; ``asked`` is the reading at which its first batch was asked for. Returns the last."""
    first = True
    for images, labels in feed.epoch(epoch):
        got = there = clock()
        if receive is not None:
            images, labels = receive(images, labels)
            there = clock()
        step(images, labels)
        done = clock()
        yield Tick(epoch, len(labels), there - asked, done - there, first, there - got)
        first = False
        asked = done
    if first:
        raise DataError(f"epoch {epoch} delivered no batch")
    return asked


def grouped(loop: Generator[Tick, None, None], size: int) -> Generator[Tick, None, None]:
    """The loop with ``size`` batches a tick, for a step that takes them in one go: between them, the clock sees nothing.

    A group that an epoch begins in opens that epoch as a whole.
    """
    return loop if size == 1 else _groups(loop, size)


def _groups(loop: Generator[Tick, None, None], size: int) -> Generator[Tick, None, None]:
    with closing(loop):
        while True:
            group = [next(loop) for _ in range(size)]
            images, wait_ns, step_ns = (sum(values) for values in zip(*(tick[1:4] for tick in group), strict=True))
            first, transfer_ns = any(tick.first for tick in group), sum(tick.transfer_ns for tick in group)
            yield Tick(group[-1].epoch, images, wait_ns, step_ns, first, transfer_ns)


def measure(
    feed: Batches,
    step: Step,
    *,
    pace: Pace | None = None,
    capacity: int = 16,
    group: int = 1,
    opening: Opening | None = None,
    receive: Receive | None = None,
    chosen: Callable[[], dict[str, str]] = dict,
    turns: Turns | None = None,
    clock: Clock = now_ns,
) -> Measured:
    """Warm up, measure steady state, and see one turnaround between epochs.

    ``capacity`` is how many batches the pipeline can hold ready (see ``buffered_images``), ``group`` how many the step takes
    in one go; ``chosen`` tells, while the pipeline still runs, what it chose for itself. With ``turns``, steady state is measured
    turn by turn, and others have theirs in between. If an epoch is no longer than
    ``capacity``, all its batches may lie ready when its first one comes, and only whole epochs say how fast they are made.
    Raises DataError if an epoch is too short to hold steady state.
    """
    pace, opening = pace or Pace(), opening or Opening()
    if reason := too_short(len(feed), group):
        raise DataError(reason)
    gc.collect()
    loop = grouped(ticks(feed, step, clock, receive=receive), group)
    warmup, steady = _warm_up(loop, pace)
    whole = group == 1 and len(feed) <= capacity
    if whole:
        _end_epoch(loop, warmup, len(feed))
    elif -len(warmup) * group % len(feed) < group:  # The next would open an epoch: a turnaround that belongs to neither.
        warmup.append(next(loop))
    if turns is not None:
        turns.wait()
    before = meter.usage()
    watched = loop if turns is None else turns.through(loop)
    measured = _whole_epochs(watched, pace, len(feed)) if whole else _steady_state(watched, pace, group)
    used = meter.usage() - before
    for others in turns.elsewhere if turns is not None else ():
        used -= others
    usage = _usage(used, measured)
    tuned = chosen()
    loop.close()
    if not any(tick.first for tick in measured):
        # No part of steady state, so there is no need to step on it.
        measured.append(next(grouped(ticks(feed, lambda *_: None, clock, measured[-1].epoch + 1, receive), group)))
    return Measured(
        **_lists(measured),
        **_warmup_lists(warmup),
        warmup_steady=steady,
        buffered_images=0 if whole else buffered_images(measured, capacity // group),
        whole_epochs=whole,
        scan_ns=opening.scan_ns,
        startup_ns=opening.startup_ns,
        first_batch_ns=warmup[0].wait_ns,
        tuned=tuned,
        **usage,
    )


def measure_epoch(
    feed: Batches,
    step: Step,
    *,
    group: int = 1,
    opening: Opening | None = None,
    receive: Receive | None = None,
    clock: Clock = now_ns,
) -> Measured:
    """The first epoch, as a cold start has it: whole, with no warm-up before it; only scan and start-up stand apart.

    Its first batch counts: what is read ahead meanwhile came from the disk, and without that time a short epoch would be faster than
    any disk. With ``group``, its whole groups: what is left of the epoch would be stepped on in the next one.
    """
    opening = opening or Opening()
    gc.collect()
    before = meter.usage()
    seen: list[Tick] = []
    loop = grouped(ticks(feed, step, clock, receive=receive), group)
    for tick in loop:
        seen.append(tick)
        if len(seen) >= len(feed) // group:
            break
    used = _usage(meter.usage() - before, seen)
    loop.close()
    return Measured(
        **_lists(seen),
        whole_epochs=True,
        scan_ns=opening.scan_ns,
        startup_ns=opening.startup_ns,
        first_batch_ns=seen[0].wait_ns,
        **used,
    )


def hand_over(
    feed: Batches,
    epoch: int,
    *,
    pause_s: float,
    seconds: float,
    clock: Clock = now_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> list[int]:
    """Waits, in nanoseconds, for batches of one epoch, each asked for ``pause_s`` after the one before, so that it lies ready.

    A step waits so long however far ahead the pipeline is. A loop without a step does not see it: the next batch is made
    meanwhile. The first batch is left out, and the epoch broken off ``seconds`` after it. Empty if these hold no three pauses: in
    pipelines so slow, handing over is next to nothing.
    """
    waits: list[int] = []
    spent = 0
    if 3 * pause_s > seconds:
        return waits
    with closing(epoch_ticks(feed, lambda *_: sleep(pause_s), clock, epoch, clock())) as loop:
        next(loop)
        for tick in loop:
            waits.append(tick.wait_ns)
            spent += tick.wait_ns + tick.step_ns
            if spent >= seconds * NS:
                break
    return waits


def images_per_ns(feed: Batches, step: Step, *, seconds: float, clock: Clock = now_ns) -> float:
    """Pace of a pipeline over whole epochs, one at least and at least ``seconds``: for stage timing.

    Turnarounds are counted in: a stage's cost is a difference of two of these, and turnaround is in both.
    """
    images = spent = epoch = 0
    while not epoch or spent < seconds * NS:
        for tick in epoch_ticks(feed, step, clock, epoch, clock()):
            images, spent = images + tick.images, spent + tick.wait_ns + tick.step_ns
        epoch += 1
    return images / spent


def _warm_up(loop: Iterable[Tick], pace: Pace) -> tuple[list[Tick], bool]:
    seen: list[Tick] = []
    spent = 0
    for tick in loop:
        seen.append(tick)
        spent += tick.wait_ns + tick.step_ns
        if is_warm(seen, pace):
            return seen, True
        if spent >= pace.warmup_max_s * NS:
            break
    return seen, False


def _steady_state(loop: Iterable[Tick], pace: Pace, group: int) -> list[Tick]:
    seen: list[Tick] = []
    batches = steady_ns = all_ns = 0
    for tick in loop:
        seen.append(tick)
        all_ns += tick.wait_ns + tick.step_ns
        if not tick.first:
            batches += group
            steady_ns += tick.wait_ns + tick.step_ns
            enough = batches >= pace.measure_batches and steady_ns >= pace.measure_s * NS
            if enough or (batches >= 10 * pace.measure_batches and all_ns >= pace.measure_most_s * NS):
                break
    return seen


def _end_epoch(loop: Iterator[Tick], warmup: list[Tick], length: int) -> None:
    """Go on warming up to the end of an epoch of so many batches."""
    begun = max(place for place, tick in enumerate(warmup) if tick.first)
    warmup.extend(islice(loop, length - (len(warmup) - begun)))


def _whole_epochs(loop: Iterator[Tick], pace: Pace, length: int) -> list[Tick]:
    seen: list[Tick] = []
    spent_ns = 0
    while len(seen) < pace.measure_batches or spent_ns < pace.measure_s * NS:
        epoch = [next(loop) for _ in range(length)]
        seen += epoch
        spent_ns += sum(tick.wait_ns + tick.step_ns for tick in epoch)
    return seen


def _lists(seen: Sequence[Tick]) -> dict[str, Any]:
    return {
        "images": [tick.images for tick in seen],
        "wait_ns": [tick.wait_ns for tick in seen],
        "step_ns": [tick.step_ns for tick in seen],
        "epochs": [tick.epoch for tick in seen],
        "transfer_ns": [tick.transfer_ns for tick in seen] if any(tick.transfer_ns for tick in seen) else [],
    }


def _warmup_lists(seen: Sequence[Tick]) -> dict[str, Any]:
    return {
        "warmup_images": [tick.images for tick in seen],
        "warmup_wait_ns": [tick.wait_ns for tick in seen],
        "warmup_step_ns": [tick.step_ns for tick in seen],
    }


def _usage(used: meter.Usage, seen: Sequence[Tick]) -> dict[str, Any]:
    """What the process tree used over these batches, and how the machine was meanwhile."""
    spent_ns = sum(tick.wait_ns + tick.step_ns for tick in seen)
    return {
        "cpu_ns": used.cpu_ns,
        "minor_faults": used.minor_faults,
        "major_faults": used.major_faults,
        "asked_read_bytes": used.asked_bytes,
        "device_read_bytes": used.device_bytes,
        "threads": meter.threads(os.getpid()),
        "steal_share": used.steal_share,
        "throttled_share": used.throttled_ns / spent_ns if used.throttled_ns is not None and spent_ns else None,
        "neighbour_share": used.neighbour_share,
        "load_1m": os.getloadavg()[0],
    }
