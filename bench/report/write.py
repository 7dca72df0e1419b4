"""Everything that a run leaves behind besides its records, made from them and made again: tables, charts, summary and page."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from bench.choices import choices
from bench.record import Run, load_run
from bench.report.csv import write_csv
from bench.report.derived import tables
from bench.report.drawing import drawing
from bench.report.files import put
from bench.report.page import write_page
from bench.report.pictures import write_charts
from bench.report.scripts import vega_soon
from bench.report.summary import summary
from storage.errors import DataError


def write_report(folder: Path, today: str | None = None) -> Path:
    """Write the files of a report into a run's folder, each beside its place and then renamed; return the page's path.

    A chart that cannot be drawn is left out, and standard error says so, as does the page.

    ``today`` is the id of the case that the user has (by default the plain generator on a directory). Raises UsageError if it
    was not measured, and DataError if the folder is no run, or a finished one whose records are lost: what is there then stays.
    """
    run = load_run(folder)
    _all_there(run)
    shown = tables(run, today)
    vega_soon()  # It needs a processor for a second, and another is idle here.
    said = summary(run, shown, today)
    write_csv(run, tables=shown)
    put(folder / "choices.json", json.dumps(choices(run, today), indent=1) + "\n")
    put(folder / "summary.md", said)
    drawn = write_charts(drawing(shown), folder / "charts")
    for name, why in drawn.left_out.items():
        typer.echo(f"The chart {name} is left out of the report: it could not be drawn ({why}).", err=True)
    return write_page(run, folder, tables=shown, drawn=drawn, today=today)


def _all_there(run: Run) -> None:
    """A finished run has a record of each of its cases, be it why there is no measurement."""
    known = {record.case.id for record in run.records}
    lost = [case.id for case in run.info.cases if case.id not in known]
    if run.info.finished and lost:
        raise DataError(
            f"{run.path / 'records.jsonl'} has no record of {len(lost)} of {len(run.info.cases)} cases, though the run is finished: "
            "bring it back from a copy. The report that stands there is left as it is."
        )
