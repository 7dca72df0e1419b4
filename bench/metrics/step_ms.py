"""Milliseconds a batch spent in the step, in steady state: all stepping over all batches."""

from __future__ import annotations

from bench.metrics.base import Metric, over_sweeps, steady
from bench.record import Measured


def _each(one: Measured) -> float | None:
    total = steady(one)
    return total.step_ns / total.batches / 1e6 if total else None


METRIC = Metric("step_ms", "ms", False, over_sweeps(_each))
