"""The share of time in which the accelerator computed (AU), 0 to 1, as MLPerf Storage defines it: compute / running time.

For an emulated accelerator the compute time is the ideal one, images over its rate; for a real step, what was spent
inside it. Both times are those of steady state: turnaround between epochs has its own column, and ``starvation.py`` puts
the two together for an epoch of any length. Loading alone has no accelerator: None.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from bench.metrics.base import NS, Metric, steady
from bench.record import Measured, RunRecord


def _one(one: Measured, rate: float | None) -> float | None:
    total = steady(one)
    if total is None or not total.total_ns:
        return None
    compute_ns = total.step_ns if rate is None else total.images / rate * NS
    return compute_ns / total.total_ns


def _compute(records: Sequence[RunRecord]) -> float | None:
    values = [
        value
        for record in records
        if record.case.step.step != "none" and isinstance(record.outcome, Measured)
        if (value := _one(record.outcome, record.case.step.rate)) is not None
    ]
    return float(median(values)) if values else None


METRIC = Metric("accelerator_utilisation", "share", True, _compute)
