"""Bytes asked for through read calls while measuring. A mapped file is read without any."""

from __future__ import annotations

from bench.metrics.base import Metric, over_sweeps
from bench.record import Measured


def _each(one: Measured) -> float | None:
    return one.asked_read_bytes


METRIC = Metric("asked_read_bytes", "bytes", False, over_sweeps(_each))
