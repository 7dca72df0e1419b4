"""Bytes that the block device delivered while measuring; 0 when all came from the page cache."""

from __future__ import annotations

from bench.metrics.base import Metric, over_sweeps
from bench.record import Measured


def _each(one: Measured) -> float | None:
    return one.device_read_bytes


METRIC = Metric("device_read_bytes", "bytes", False, over_sweeps(_each))
