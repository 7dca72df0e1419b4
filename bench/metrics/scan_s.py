"""Seconds that finding the samples took, before the pipeline was built."""

from __future__ import annotations

from bench.metrics.base import NS, Metric, over_sweeps
from bench.record import Measured


def _each(one: Measured) -> float | None:
    return one.scan_ns / NS


METRIC = Metric("scan_s", "s", False, over_sweeps(_each))
