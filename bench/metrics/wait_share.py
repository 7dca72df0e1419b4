"""The share of steady state that the training loop spent waiting for data, 0 to 1."""

from __future__ import annotations

from bench.metrics.base import Metric, over_sweeps, steady
from bench.record import Measured


def _each(one: Measured) -> float | None:
    total = steady(one)
    return total.wait_ns / total.total_ns if total and total.total_ns else None


METRIC = Metric("wait_share", "share", False, over_sweeps(_each))
