"""Charts: one a file, each from the tidy table to one Altair spec."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.registry import Table

if TYPE_CHECKING:
    from bench.report.charts.base import Chart

CHARTS: Table[Chart] = Table(
    "chart",
    "feedbench.charts",
    {},
)
