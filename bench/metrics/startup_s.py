"""Seconds from the opened dataset to a pipeline that can be asked for a batch."""

from __future__ import annotations

from bench.metrics.base import NS, Metric, over_sweeps
from bench.record import Measured


def _each(one: Measured) -> float | None:
    return one.startup_ns / NS


METRIC = Metric("startup_s", "s", False, over_sweeps(_each))
