"""Peak anonymous memory of the process tree. Pages of mapped files are the page cache's, and not in it."""

from __future__ import annotations

from bench.metrics.base import Metric, over_sweeps
from bench.record import Measured


def _each(one: Measured) -> float | None:
    return one.anon_memory_bytes


METRIC = Metric("anon_memory_bytes", "bytes", False, over_sweeps(_each))
