"""Seconds from asking a new pipeline for its first batch to having it."""

from __future__ import annotations

from bench.metrics.base import NS, Metric, over_sweeps
from bench.record import Measured


def _each(one: Measured) -> float | None:
    return one.first_batch_ns / NS


METRIC = Metric("first_batch_s", "s", False, over_sweeps(_each))
