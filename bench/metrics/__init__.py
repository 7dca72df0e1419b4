"""Metrics: one a file, each a pure function of a case's records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.registry import Table

if TYPE_CHECKING:
    from bench.metrics.base import Metric

METRICS: Table[Metric] = Table(
    "metric",
    "feedbench.metrics",
    {},
)
