"""Milliseconds in which a batch was copied to the accelerator; None without one. A part of the wait."""

from __future__ import annotations

from statistics import fmean

from bench.metrics.base import Metric, counted, over_sweeps
from bench.record import Measured


def _each(one: Measured) -> float | None:
    if not one.transfer_ns:
        return None
    kept = [ns for ns, keep in zip(one.transfer_ns, counted(one), strict=True) if keep]
    return fmean(kept) / 1e6 if kept else None


METRIC = Metric("transfer_ms", "ms", False, over_sweeps(_each))
