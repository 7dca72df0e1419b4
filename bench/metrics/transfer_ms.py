"""Milliseconds in which a batch was copied to the accelerator; None without one. A part of the wait."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from statistics import fmean, median

from bench.metrics.base import Metric, counted
from bench.record import RunRecord, measured


def _compute(records: Sequence[RunRecord]) -> float | None:
    group = records[0].case.step.group if records else 1
    kept = [list(compress(one.transfer_ns, counted(one))) for one in measured(records)]
    values = [fmean(entries) / group / 1e6 for entries in kept if entries]
    return float(median(values)) if values else None


METRIC = Metric("transfer_ms", "ms", False, _compute)
