"""Everything that a run leaves behind besides its records, made from them and made again: tables, charts, summary and page."""

from __future__ import annotations

import json
from pathlib import Path

from bench.choices import choices
from bench.record import load_run
from bench.report.csv import write_csv


def write_report(folder: Path) -> None:
    """Write the files of a report into a run's folder, each beside its place and then renamed.

    Raises DataError if the folder is no run.
    """
    run = load_run(folder)
    write_csv(run)
    put(folder / "choices.json", json.dumps(choices(run), indent=1) + "\n")


def put(path: Path, content: str | bytes) -> None:
    """Write a file beside its place, then rename it: a reader sees all of it, or the one before."""
    beside = path.with_name(path.name + ".partial")
    beside.write_bytes(content.encode() if isinstance(content, str) else content)
    beside.replace(path)
