"""``results.csv`` and ``sweeps.csv``: the tables, safe to open in a spreadsheet."""

from __future__ import annotations

from pathlib import Path

from pandas import DataFrame

from bench.record import Run
from bench.report.table import results_table, sweeps_table

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def write_csv(run: Run, folder: Path | None = None) -> tuple[Path, Path]:
    """Write both files into ``folder`` (the run's own, unless named) and return their paths."""
    folder = folder or run.path
    written = (folder / "results.csv", folder / "sweeps.csv")
    for path, table in zip(written, (results_table(run), sweeps_table(run)), strict=True):
        beside = path.with_name(path.name + ".partial")
        harmless(table).to_csv(beside, index=False, lineterminator="\n")
        beside.replace(path)
    return written


def harmless(table: DataFrame) -> DataFrame:
    """The table with a ' before every text that a spreadsheet would run as a formula (OWASP, CSV injection)."""
    safe = table.copy()
    for column in safe.columns:
        if safe[column].map(lambda value: isinstance(value, str)).any():
            safe[column] = safe[column].map(
                lambda value: "'" + value if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value
            )
    return safe
