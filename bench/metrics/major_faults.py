"""Page faults that had to wait for the device, while measuring."""

from __future__ import annotations

from bench.metrics.base import Metric, over_sweeps
from bench.record import Measured


def _each(one: Measured) -> float | None:
    return one.major_faults


METRIC = Metric("major_faults", "faults", False, over_sweeps(_each))
