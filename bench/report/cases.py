"""The page's table of all cases: the cells of ``results.csv`` with digits for people, and what they can be filtered by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bench.flags import word
from bench.report.charts.base import Tables
from bench.report.digits import share, significant


@dataclass(frozen=True)
class Column:
    """One column of numbers. ``name`` is that of ``results.csv``; ``scale`` turns its unit into the one in the head."""

    name: str
    head: str
    unit: str
    about: str
    scale: float = 1.0
    descending: bool = False
    """Whether the first click sorts from large to small: where more is better."""

    def text(self, value: float) -> str:
        """A number as it is shown."""
        return share(value) if self.unit == "%" else significant(value / self.scale)


@dataclass(frozen=True)
class Row:
    """One case in one phase: its cells by column name (as stored), and its flags, each a word and what it says."""

    case: str
    label: str
    phase: str
    cells: Mapping[str, Any]
    notes: tuple[tuple[str, str], ...]

    def number(self, name: str) -> float | None:
        """A cell's number; None where nothing was measured."""
        value = self.cells[name]
        return None if value is None else float(value)


@dataclass(frozen=True)
class Cases:
    """The whole table. ``filters`` are column names with the values that tell rows apart, for those that do.

    ``shared`` are the flags that every measured case has, which rows then don't repeat.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    filters: Mapping[str, tuple[str, ...]]
    shared: tuple[tuple[str, str], ...]


FILTERS = ("step", "format", "payload", "loader", "placement", "phase", "status")
STATUSES = {"ok": 1, "failed": 2, "skipped": 3}


def cases(tables: Tables, first_step: str | None) -> Cases:
    """From ``results.csv``'s table. The step that decides comes first, in it the fastest; what has no rate comes last."""
    rows = [_row(cells, tables.labels) for cells in tables.results.to_dict("records")]
    measured = [row for row in rows if row.number("images_per_s") is not None]
    everywhere = (
        [note for note in measured[0].notes if all(note in row.notes for row in measured)] if len(measured) > 3 else []
    )
    rows = [replace(row, notes=tuple(note for note in row.notes if note not in everywhere)) for row in rows]

    def place(row: Row) -> tuple[bool, bool, str, float]:
        rate = row.number("images_per_s")
        return rate is None, row.cells["step"] != first_step, str(row.cells["step"]), -(rate or 0.0)

    rows.sort(key=place)
    found = {name: _values(str(row.cells[name]) for row in rows) for name in FILTERS}
    filters = {name: values for name, values in found.items() if len(values) > 1}
    return Cases(_columns(rows), tuple(rows), filters, tuple(everywhere))


def _columns(rows: list[Row]) -> tuple[Column, ...]:
    memory, stored = (_bytes(rows, name) for name in ("anon_memory_bytes", "stored_bytes"))
    first = ("s", 1.0) if _largest(rows, "first_batch_s") >= 10 else ("ms", 1e-3)
    return (
        Column("images_per_s", "throughput", "images/s", "Steady state: median over sweeps, and its 95% interval", 1, True),
        Column(
            "accelerator_utilisation",
            "AU",
            "%",
            "Accelerator utilisation: share of the time in which it computed; none for loading alone",
            1,
            True,
        ),
        Column(
            "first_batch_s", "first batch", first[0], "From asking a new pipeline for its first batch to having it", first[1]
        ),
        Column("cpu_us_per_image", "CPU", "µs/image", "CPU time of the process tree, step included"),
        Column(
            "anon_memory_bytes",
            "memory",
            memory[0],
            "Peak anonymous memory, less that held before the feed opened and not used again",
            memory[1],
        ),
        Column("stored_bytes", "stored", stored[0], "Size of the stored dataset", stored[1]),
        Column("convert_s", "conversion", "s", "Seconds that writing it took"),
    )


def _bytes(rows: list[Row], name: str) -> tuple[str, float]:
    """One unit for a column, so that its cells can be compared by eye."""
    return ("GB", 1e9) if _largest(rows, name) >= 2e9 else ("MB", 1e6)


def _largest(rows: list[Row], name: str) -> float:
    return max((row.number(name) or 0.0 for row in rows), default=0.0)


def _row(cells: Mapping[Any, Any], labels: Mapping[str, str]) -> Row:
    clean = {str(key): None if value is None or value != value else value for key, value in cells.items()}
    notes = [(word(flag), flag) for flag in str(clean["warnings"] or "").split("; ") if flag]
    if clean["pixels_cause"]:
        notes.append(("pixels differ", f"from the reference, by a named cause: {clean['pixels_cause']}"))
    if clean["reason"] and clean["status"] == "ok":
        notes.insert(0, ("fewer sweeps", str(clean["reason"])))
    case = str(clean["case"])
    return Row(case, labels[case], str(clean["phase"]), clean, tuple(notes))


def _values(found: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(found), key=lambda value: (STATUSES.get(value, 0), value)))
