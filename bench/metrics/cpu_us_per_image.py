"""CPU time of the process tree per image delivered, in microseconds: what a pipeline costs, idle or not."""

from __future__ import annotations

from bench.metrics.base import Metric, over_sweeps, watched
from bench.record import Measured


def _each(one: Measured) -> float | None:
    images = sum(one.images[: watched(one)])
    return None if one.cpu_ns is None or not images else one.cpu_ns / images / 1e3


METRIC = Metric("cpu_us_per_image", "us/image", False, over_sweeps(_each))
