"""The share of time in which the accelerator computed (AU), 0 to 1, as MLPerf Storage defines it.

AU = total compute time / total running time. For an emulated accelerator the compute time is the ideal one, images over
its rate; for a real step it is the time measured inside the step. The running time holds everything from the first
measured batch to the last, turnaround between epochs included. Loading alone has no accelerator: None.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from bench.metrics.base import NS, Metric
from bench.record import Measured, RunRecord


def _one(one: Measured, rate: float | None) -> float | None:
    running_s = (sum(one.wait_ns) + sum(one.step_ns)) / NS
    if not running_s:
        return None
    compute_s = sum(one.step_ns) / NS if rate is None else (sum(one.images) - one.buffered_images) / rate
    return compute_s / running_s


def _compute(records: Sequence[RunRecord]) -> float | None:
    values = [
        value
        for record in records
        if record.case.step.step != "none" and isinstance(record.outcome, Measured)
        if (value := _one(record.outcome, record.case.step.rate)) is not None
    ]
    return float(median(values)) if values else None


METRIC = Metric("accelerator_utilisation", "share", True, _compute)
