"""Page faults served from memory, while measuring."""

from __future__ import annotations

from bench.metrics.base import Metric, over_sweeps
from bench.record import Measured


def _each(one: Measured) -> float | None:
    return one.minor_faults


METRIC = Metric("minor_faults", "faults", False, over_sweeps(_each))
