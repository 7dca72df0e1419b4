"""Milliseconds in which a batch was copied to the accelerator; None without one. A part of the wait."""

from __future__ import annotations

from statistics import fmean

from bench.metrics.base import Metric, epoch_openings, over_sweeps
from bench.record import Measured


def _each(one: Measured) -> float | None:
    if not one.transfer_ns:
        return None
    kept = [ns for ns, opens in zip(one.transfer_ns, epoch_openings(one), strict=True) if not opens]
    return fmean(kept) / 1e6 if kept else None


METRIC = Metric("transfer_ms", "ms", False, over_sweeps(_each))
