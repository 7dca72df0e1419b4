"""Threads of the process tree while measuring."""

from __future__ import annotations

from bench.metrics.base import Metric, over_sweeps
from bench.record import Measured


def _each(one: Measured) -> float | None:
    return one.threads


METRIC = Metric("threads", "threads", False, over_sweeps(_each))
