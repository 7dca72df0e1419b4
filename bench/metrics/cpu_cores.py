"""Cores kept busy on average while measuring: CPU seconds over seconds."""

from __future__ import annotations

from bench.metrics.base import Metric, over_sweeps, watched
from bench.record import Measured


def _each(one: Measured) -> float | None:
    batches = watched(one)
    elapsed_ns = sum(one.wait_ns[:batches]) + sum(one.step_ns[:batches])
    return None if one.cpu_ns is None or not elapsed_ns else one.cpu_ns / elapsed_ns


METRIC = Metric("cpu_cores", "cores", False, over_sweeps(_each))
