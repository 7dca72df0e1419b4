"""Seconds of waiting for the first batch of an epoch that follows another: the median of those seen."""

from __future__ import annotations

from statistics import median

from bench.metrics.base import NS, Metric, epoch_openings, over_sweeps
from bench.record import Measured


def _each(one: Measured) -> float | None:
    if one.whole_epochs and not one.warmup_wait_ns:  # a first epoch follows none
        return None
    waits = [ns for ns, opens in zip(one.wait_ns, epoch_openings(one), strict=True) if opens]
    return median(waits) / NS if waits else None


METRIC = Metric("epoch_turnaround_s", "s", False, over_sweeps(_each))
