"""CPU time of the process tree per image delivered, in microseconds: what a pipeline costs, idle or not."""

from __future__ import annotations

from bench.metrics.base import Metric, over_sweeps
from bench.record import Measured


def _each(one: Measured) -> float | None:
    return None if one.cpu_ns is None or not one.images else one.cpu_ns / sum(one.images) / 1e3


METRIC = Metric("cpu_us_per_image", "us/image", False, over_sweeps(_each))
