"""Throughput in steady state: images over time, never a mean of rates. What a buffer held beforehand is no speed."""

from __future__ import annotations

from bench.metrics.base import NS, Metric, over_sweeps, steady
from bench.record import Measured


def rate(one: Measured) -> float | None:
    """Images/s of one measurement."""
    total = steady(one)
    return total.images / (total.total_ns / NS) if total and total.total_ns else None


METRIC = Metric("images_per_s", "images/s", True, over_sweeps(rate))
