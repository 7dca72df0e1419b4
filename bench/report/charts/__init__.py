"""Charts: one a file, each from the tidy table to one Altair spec."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.registry import Table

if TYPE_CHECKING:
    from bench.report.charts.base import Chart

CHARTS: Table[Chart] = Table(
    "chart",
    "feedbench.charts",
    {
        "throughput": "bench.report.charts.throughput:CHART",
        "waiting": "bench.report.charts.waiting:CHART",
        "stages": "bench.report.charts.stages:CHART",
        "utilisation": "bench.report.charts.utilisation:CHART",
        "size_throughput": "bench.report.charts.size_throughput:CHART",
        "break_even": "bench.report.charts.break_even:CHART",
        "cold_warm": "bench.report.charts.cold_warm:CHART",
    },
)
