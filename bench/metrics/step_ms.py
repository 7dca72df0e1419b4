"""Milliseconds a batch spent in the step, in steady state: all stepping over all batches."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from bench.metrics.base import Metric, steady
from bench.record import Measured, RunRecord


def _compute(records: Sequence[RunRecord]) -> float | None:
    values = [
        total.step_ns / total.batches / record.case.step.group / 1e6
        for record in records
        if isinstance(record.outcome, Measured)
        if (total := steady(record.outcome)) is not None
    ]
    return float(median(values)) if values else None


METRIC = Metric("step_ms", "ms", False, _compute)
