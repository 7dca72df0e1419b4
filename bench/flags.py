"""What a reader must know before trusting a number: flags in words, with figures and a next step. Nothing is dropped."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from math import exp, log, sqrt
from statistics import fmean, median, stdev

from bench.compare import rates
from bench.metrics.base import counted, watched
from bench.metrics.images_per_s import rate
from bench.record import Measured, RunRecord, measured
from bench.tuned import OPTIONS

ENOUGH_SWEEPS = 5
APART = log(1.25)
"""Two states are two when they lie at least this far apart ..."""
CLEARER = 3.0
"""... the gap is at least so many times the spread within either ..."""
STATE_ONE_IN = 10
"""... and each holds at least one epoch in so many (and two): fewer, 25% apart, move the rate by less than sweeps vary by."""
UNSTEADY = 0.05
DRIFT = 0.05
BUSY_SHARE = 0.02
RESIDENT = 0.999
EARLY_SHARE = 0.1
THROTTLED_SHARE = 0.01
FRESH_FAULTS = 16
"""Page faults an image, more or fewer: 64 kB that the system had to give anew. Mapped files cost one for 16 pages, once."""
ALWAYS_FRESH = 64
"""Page faults an image in every sweep: 256 kB, most of an image of 160 x 160 in float32, given anew for each."""
KEEP_MEMORY = "MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=1073741824 MALLOC_TOP_PAD_=67108864"
"""What has glibc keep freed memory, as ``mallopt(3)`` names it; the first is the most it takes."""


def warnings(records: Sequence[RunRecord]) -> list[str]:
    """The flags of one case in one phase, in words. Empty where there is nothing to warn of."""
    seen = measured(records)
    if not seen:
        return []
    speeds = list(rates(records).values())
    found = [
        *_bimodal(seen),
        *_few_apart(seen),
        *_few_sweeps(speeds),
        *_unsteady_warm_up(seen),
        *_short_epochs(records[0].phase, seen),
        *_cache(records[0].phase, seen),
        *_neighbour(seen),
        *_throttled(seen),
        *_swap(records[0].phase, seen),
    ]
    drifting = list(_drifting(speeds))
    if not any(flag.startswith("bimodal") for flag in found):
        found[:0] = drifting or list(_fresh_memory(records[0].phase, seen)) or _unsteady(speeds)
    if not any(flag.startswith("fresh memory") for flag in found):
        found += _always_fresh(records[0].phase, seen)
    return found


def word(flag: str) -> str:
    """``bimodal`` of "bimodal: 8 of 20 …", ``not proven warm`` of "not proven warm in 3 of 5 sweeps: …"."""
    return re.split(r":|,| in \d", flag, maxsplit=1)[0]


def epoch_rates(one: Measured, least: int = 4) -> list[float]:
    """Images/s of each epoch (the part of it that was measured) with at least ``least`` steady batches."""
    batches = zip(one.epochs, one.images, one.wait_ns, one.step_ns, counted(one), strict=True)
    found: list[float] = []
    for _, group in groupby(batches, key=lambda batch: batch[0]):
        kept = [batch for batch in group if batch[4]]
        spent = sum(wait + step for _, _, wait, step, _ in kept)
        if len(kept) >= least and spent:
            found.append(sum(images for _, images, _, _, _ in kept) / spent * 1e9)
    return found


def two_states(values: Sequence[float]) -> tuple[list[float], list[float]] | None:
    """The slow and the fast ones, where values fall into two groups with a clear gap between; else None.

    Each group needs a tenth of the values, and two at least: a single slow epoch is an outlier, and shows in the interval.
    """
    least = _least(values)
    return _apart(values, least, len(values) - least)


def few_apart(values: Sequence[float]) -> tuple[list[float], list[float]] | None:
    """As ``two_states``, where one of the groups is too small to be a state, but holds more than one value."""
    most = _least(values) - 1
    found = [_apart(values, 2, most), _apart(values, len(values) - most, len(values) - 2)]
    return next((groups for groups in found if groups), None)


def _least(values: Sequence[float]) -> int:
    """How many of the values a state needs."""
    return max(2, -(-len(values) // STATE_ONE_IN))


def _apart(values: Sequence[float], fewest: int, most: int) -> tuple[list[float], list[float]] | None:
    """Slow and fast ones, cut at the widest gap that leaves from ``fewest`` to ``most`` slow ones; None if it is not clear."""
    ordered = sorted(values)
    logs = [log(value) for value in ordered]
    cut = max(range(fewest, most + 1), key=lambda i: logs[i] - logs[i - 1], default=0)
    if not cut:
        return None
    gap = logs[cut] - logs[cut - 1]
    spread = max(_spread(logs[:cut]), _spread(logs[cut:]))
    return (ordered[:cut], ordered[cut:]) if gap >= APART and gap >= CLEARER * spread else None


def _bimodal(seen: Sequence[Measured]) -> Iterator[str]:
    epochs = [value for one in seen for value in epoch_rates(one)]
    states = two_states(epochs)
    if states:
        slow, fast = states
        share = median(slow) / median(fast)
        speed = "half speed" if 0.45 <= share <= 0.55 else f"{share:.0%} of the speed"
        if any(one.tuned.keys() - set(OPTIONS) for one in seen):
            step = "switch tf.data's autotuning off and set the parallelism"
        else:  # Nothing tuned itself, so there is nothing to switch off.
            step = "measure again with nothing beside it"
        yield f"bimodal: {len(slow)} of {len(epochs)} epochs ran at {speed}: {step}, and read both rates, not the middle"


def _few_apart(seen: Sequence[Measured]) -> Iterator[str]:
    epochs = [value for one in seen for value in epoch_rates(one)]
    groups = few_apart(epochs)
    if groups:
        few, others = sorted(groups, key=len)
        share = median(few) / median(others)
        yield (
            f"few {'slow' if share < 1 else 'fast'} epochs: {len(few)} of {len(epochs)} ran at {share:.0%} of the others' "
            "speed: they are counted in, and too few to be a second rate; measure again to see whether they come back"
        )


def _few_sweeps(speeds: Sequence[float]) -> Iterator[str]:
    if len(speeds) < ENOUGH_SWEEPS:
        yield f"not enough sweeps: {len(speeds)} measured, {ENOUGH_SWEEPS} needed to tell 5% apart: raise --sweeps or --budget"


def _drifting(speeds: Sequence[float]) -> Iterator[str]:
    """A straight line through the logs that is not level, and matters: at least 5% from first to last sweep."""
    if len(speeds) < 4:
        return
    import numpy as np
    from scipy.special import stdtr

    sweeps, logs = np.arange(len(speeds)), np.log(speeds)
    change = exp(float(np.polyfit(sweeps, logs, 1)[0]) * (len(logs) - 1)) - 1
    if abs(change) < DRIFT:
        return
    r = abs(float(np.corrcoef(sweeps, logs)[0, 1]))
    # Student's test of a correlation, which is the test of the slope.
    chance = 2 * float(stdtr(len(logs) - 2, -r * sqrt((len(logs) - 2) / max(1 - r * r, 1e-12))))
    if chance < 0.01:
        yield (
            f"drifting: {abs(change):.0%} {'faster' if change > 0 else 'slower'} from the first sweep to the last: "
            "look for a warming CPU or a filling cache, then measure again"
        )


def _fresh_memory(phase: str, seen: Sequence[Measured]) -> Iterator[str]:
    """In some sweeps memory came from the system again and again, and all of these were slower than all of the others."""
    if phase == "cold_epoch":
        return
    by_faults = sorted((_faults(one), rate(one) or 0.0) for one in seen)
    cut = max(range(2, len(seen) - 1), key=lambda i: by_faults[i][0] - by_faults[i - 1][0], default=0)
    if not cut or by_faults[cut][0] - by_faults[cut - 1][0] < FRESH_FAULTS:
        return
    kept, fresh = ([speed for _, speed in part] for part in (by_faults[:cut], by_faults[cut:]))
    if max(fresh) >= min(kept) or median(fresh) > (1 - UNSTEADY) * median(kept):
        return
    yield (
        f"fresh memory: {len(fresh)} of {len(seen)} sweeps took {by_faults[cut][0]:.0f} page faults an image or more and ran at "
        f"{median(fresh) / median(kept):.0%} of the others' speed: train, and measure, with {KEEP_MEMORY} in the environment"
    )


def _always_fresh(phase: str, seen: Sequence[Measured]) -> Iterator[str]:
    """No sweep kept its memory, so that none shows what keeping it is worth."""
    least = min(map(_faults, seen))
    if phase != "cold_epoch" and least >= ALWAYS_FRESH:
        yield (
            f"fresh memory: {least:.0f} page faults an image or more in every sweep: measure again with {KEEP_MEMORY} in the "
            "environment, and compare"
        )


def _faults(one: Measured) -> float:
    """Page faults an image that no device was waited for."""
    return (one.minor_faults or 0) / max(sum(one.images[: watched(one)]), 1)


def _unsteady(speeds: Sequence[float]) -> Iterator[str]:
    if len(speeds) >= 3 and (spread := stdev(log(speed) for speed in speeds)) >= UNSTEADY:
        yield f"unsteady: sweeps vary by {spread:.0%} (2% is usual): quieten the machine, or raise --sweeps"


def _unsteady_warm_up(seen: Sequence[Measured]) -> Iterator[str]:
    still = sum(not one.warmup_steady for one in seen)
    if still:
        yield (
            f"warm-up never became steady in {still} of {len(seen)} sweeps: the rate may still have been rising: "
            "measure longer"
        )


def _short_epochs(phase: str, seen: Sequence[Measured]) -> Iterator[str]:
    if phase != "cold_epoch" and any(one.whole_epochs for one in seen):
        yield (
            "short epochs: the pipeline may hold a whole one ready, so that turnarounds are counted in: give more images, or "
            "lower --batch-size or --workers"
        )


def _cache(phase: str, seen: Sequence[Measured]) -> Iterator[str]:
    if phase == "cold_epoch":
        unproven = [one for one in seen if not one.cold_proven]
        if unproven:
            shares = [one.resident_before for one in unproven if one.resident_before is not None]
            held = f", {median(shares):.0%} of the files were still in memory" if shares else ""
            yield f"not proven cold in {len(unproven)} of {len(seen)} sweeps{held}: close what maps the files, or use a disk"
        yield from _read_early(seen)
        return
    shares = [one.resident_before for one in seen if one.resident_before is not None and one.resident_before < RESIDENT]
    if shares:
        yield (
            f"not proven warm in {len(shares)} of {len(seen)} sweeps: as little as {min(shares):.0%} of the files was in "
            "memory: use fewer images (--limit) or read it as a disk's speed"
        )


def _read_early(seen: Sequence[Measured]) -> Iterator[str]:
    """A pipeline that scans its files when it is built meets a first epoch that is half warm."""
    shares = [one.opening_read_bytes / total for one in seen if (total := _delivered(one)) and one.opening_read_bytes]
    early = [share for share in shares if share >= EARLY_SHARE]
    if early:
        yield (
            f"read while opening in {len(early)} of {len(seen)} sweeps: up to {max(early):.0%} of the bytes came from the "
            "device before the first epoch began: add scan and start-up to it, or give more images"
        )


def _delivered(one: Measured) -> int:
    return (one.opening_read_bytes or 0) + (one.device_read_bytes or 0)


def _neighbour(seen: Sequence[Measured]) -> Iterator[str]:
    shares = [(one.steal_share or 0.0) + (one.neighbour_share or 0.0) for one in seen]
    busy = [share for share in shares if share >= BUSY_SHARE]
    if busy:
        yield (
            f"busy neighbour: in {len(busy)} of {len(seen)} sweeps others took up to {max(busy):.0%} of the processors: "
            "stop them, and measure again"
        )


def _throttled(seen: Sequence[Measured]) -> Iterator[str]:
    held = [share for one in seen if (share := one.throttled_share or 0.0) >= THROTTLED_SHARE]
    if held:
        yield (
            f"throttled: in {len(held)} of {len(seen)} sweeps the control group's limit held processes up for up to "
            f"{max(held):.0%} of the time: raise its CPU quota, or measure with fewer processors (taskset)"
        )


def _swap(phase: str, seen: Sequence[Measured]) -> Iterator[str]:
    """Warm files and still faults that wait for the device: memory itself came back from the disk."""
    if phase == "cold_epoch":
        return
    waited = [one.major_faults for one in seen if one.major_faults and (one.resident_before or 0) >= RESIDENT]
    if waited and max(waited) >= 100:
        yield (
            f"swap: up to {max(waited):,} page faults waited for the device though the files were in memory: "
            "free memory, or lower --batch-size"
        )


def _spread(logs: Sequence[float]) -> float:
    return stdev(logs) if len(logs) > 1 and fmean(logs) else 0.0
