"""The tables as CSV files (docs/results.md), safe to open in a spreadsheet."""

from __future__ import annotations

from pathlib import Path

from pandas import DataFrame

from bench.record import Run
from bench.report.charts.base import Tables
from bench.report.derived import tables as derived
from bench.report.files import put

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def write_csv(run: Run, folder: Path | None = None, *, tables: Tables | None = None) -> tuple[Path, Path, Path, Path]:
    """Write ``results.csv``, ``sweeps.csv``, ``stages.csv`` and ``starvation.csv``; return their paths, in this order.

    A table without rows is a file with its head only. They go into ``folder`` (the run's own, unless named); ``tables`` are the
    run's, if somebody has them already.
    """
    folder, shown = folder or run.path, tables or derived(run)

    def written(name: str, table: DataFrame) -> Path:
        return put(folder / name, harmless(table).to_csv(index=False, lineterminator="\n"))

    return (
        written("results.csv", shown.results), written("sweeps.csv", shown.sweeps), written("stages.csv", shown.stages),
        written("starvation.csv", shown.knees),
    )  # fmt: skip


def harmless(table: DataFrame) -> DataFrame:
    """The table with a ' before every text that a spreadsheet would run as a formula (OWASP, CSV injection)."""
    safe = table.copy()
    for column in safe.columns:
        if safe[column].map(lambda value: isinstance(value, str)).any():
            safe[column] = safe[column].map(
                lambda value: "'" + value if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value
            )
    return safe
