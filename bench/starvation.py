"""Accelerators you don't have: utilisation (AU) over accelerator speed, from one measurement of loading alone.

Loading alone shows how long the pipeline takes for each batch when nobody makes it wait. Before an accelerator of R
images/s, with room for K batches ready, batch i is made once the one before it is made and there is room:

    ready[i] = max(ready[i-1], start[i-K]) + made[i]        the pipeline, blocked while K wait
    start[i] = max(start[i-1] + step + h, ready[i])         the accelerator, idle until the batch is there and handed over

AU = n * step / (end - start), and an epoch's turnaround, in which nothing computes, is added once an epoch. For steady
times this is min(1, rate / R); the recursion adds what jitter costs near the knee, and handing over (h) where batches are
small. The derivation, what it leaves out (a step that takes processors from the pipeline) and how it compares with measured
points: docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.case import Case
from bench.metrics.base import NS, counted, epoch_openings
from bench.metrics.images_per_s import rate
from bench.record import Measured

PASS_AU = 0.90
"""MLPerf Storage's pass mark for image training: below it the accelerator counts as starved."""
WAITS_TO_BE_ASKED = ("threaded", "grain", "known")
"""Loaders that with prefetch 0 begin a batch when it is asked for. All others but ``dali`` have one in hand even then."""


@dataclass(frozen=True)
class Loading:
    """What one measurement of loading alone says: seconds that each steady batch took, its images, the turnaround, and what it
    takes to hand over a batch that lies ready.
    """

    made_s: tuple[float, ...]
    images: tuple[int, ...]
    turnaround_s: float
    images_per_s: float
    hand_over_s: float = 0.0


def loading(one: Measured) -> Loading | None:
    """From a record of step ``none``; None without a steady batch.

    What a buffer held beforehand is counted out by stretching all times to the true rate.
    """
    true_rate = rate(one)
    if not true_rate:
        return None
    rows = list(zip(one.images, one.wait_ns, one.step_ns, counted(one), strict=True))
    images = tuple(n for n, _, _, keep in rows if keep)
    spent = [(wait + step) / NS for _, wait, step, keep in rows if keep]
    stretch = sum(images) / true_rate / sum(spent)
    # Whole epochs have their turnarounds in them already.
    opens = [False] * len(rows) if one.whole_epochs else epoch_openings(one)
    waits = [wait / NS for (_, wait, _, _), opening in zip(rows, opens, strict=True) if opening]
    # The lower quartile: in some pauses a busy pipeline makes no batch, and what it takes to make one is told already.
    handed = sorted(one.hand_over_ns)[len(one.hand_over_ns) // 4] / NS if one.hand_over_ns else 0.0
    return Loading(tuple(s * stretch for s in spent), images, median(waits) if waits else 0.0, true_rate, handed)


def kept_ready(case: Case) -> int:
    """How many batches the case's pipeline keeps ready."""
    loader, prefetch = case.loader.partition(":")[0], case.spec.prefetch
    if loader == "dali":
        return max(0, prefetch - 1)  # One of its queue is the batch that is asked for.
    return prefetch if loader in WAITS_TO_BE_ASKED else max(1, prefetch)


def utilisation(feed: Loading, images_per_s: float, *, ready: int = 2, epoch_images: int | None = None) -> float:
    """AU, 0 to 1, of an accelerator of that speed.

    ``ready`` is how many batches the pipeline keeps ready; ``epoch_images`` adds an epoch's turnaround (None: steady state).
    """
    starts: list[float] = []
    made = free = computed = idle = 0.0
    for number, (seconds, images) in enumerate(zip(feed.made_s, feed.images, strict=True)):
        # With nothing kept ready, a batch is begun only when it is asked for.
        room = free if ready == 0 else starts[number - ready] if number >= ready else 0.0
        made = max(made, room) + seconds
        start = max(free + feed.hand_over_s, made)
        if number:
            idle += start - free
        starts.append(start)
        step = images / images_per_s
        if number:
            computed += step
        free = start + step
    steady = computed / (computed + idle) if computed else 1.0
    return steady if epoch_images is None else of_an_epoch(steady, epoch_images / images_per_s, feed.turnaround_s)


def of_an_epoch(steady: float, compute_s: float, turnaround_s: float) -> float:
    """AU of an epoch in which an accelerator computes for ``compute_s``, from its AU in steady state: with the turnaround, once."""
    return compute_s / (compute_s / steady + turnaround_s)


def curve(
    feed: Loading, speeds: Sequence[float], *, ready: int = 2, epoch_images: int | None = None
) -> list[tuple[float, float]]:
    """(accelerator's images/s, AU) for each speed."""
    return [(speed, utilisation(feed, speed, ready=ready, epoch_images=epoch_images)) for speed in speeds]


def knee(feed: Loading, *, ready: int = 2, epoch_images: int | None = None, au: float = PASS_AU) -> float:
    """The speed in images/s from which on the pipeline starves the accelerator: the highest with that AU or better.

    0.0 if turnaround alone keeps every accelerator below it.
    """
    low, high = 0.0, feed.images_per_s / au * 2
    if utilisation(feed, feed.images_per_s / 1e4, ready=ready, epoch_images=epoch_images) < au:
        return 0.0
    for _ in range(40):
        middle = (low + high) / 2
        if utilisation(feed, max(middle, 1e-9), ready=ready, epoch_images=epoch_images) >= au:
            low = middle
        else:
            high = middle
    return low
