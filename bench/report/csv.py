"""``results.csv`` and ``sweeps.csv``: the tables, safe to open in a spreadsheet."""

from __future__ import annotations

from pathlib import Path

from pandas import DataFrame

from bench.record import Run
from bench.report.files import put
from bench.report.table import results_table, sweeps_table

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def write_csv(
    run: Run, folder: Path | None = None, *, results: DataFrame | None = None, sweeps: DataFrame | None = None
) -> tuple[Path, Path]:
    """Write both files into ``folder`` (the run's own, unless named) and return their paths.

    ``results`` and ``sweeps`` are the run's tables, if somebody has them already.
    """
    folder = folder or run.path
    written = (folder / "results.csv", folder / "sweeps.csv")
    tables = (results_table(run) if results is None else results, sweeps_table(run) if sweeps is None else sweeps)
    for path, table in zip(written, tables, strict=True):
        put(path, harmless(table).to_csv(index=False, lineterminator="\n"))
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
