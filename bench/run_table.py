"""A run as a table on a terminal: a line a case, while it is measured and when it is over."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from bench.case import Case
from bench.compare import interval, rates
from bench.labels import labels, marked, shared, with_shared
from bench.metrics import METRICS
from bench.phases import PHASES, phase_name
from bench.record import Failed, RunRecord, measured
from bench.report.digits import bounds, share, significant
from bench.speeds import in_order, in_words

COLUMNS = ("images/s", "95% interval", "sweeps", "first batch s", "waiting", "pixels")
WHERE_THERE_IS_ROOM = {"first batch s", "pixels"}
WIDE = 110
"""Characters of a terminal that has room for all columns beside names that are not folded more than once."""


def run_table(cases: Iterable[Case], records: Iterable[RunRecord], width: int, most: int | None = None) -> Table:
    """Fastest first within its step; of each step at most ``most`` lines. What has no rate yet, or never will, has no line.

    A cold case has two lines: its first epoch, called cold only where that was proven, and the later ones, which are warm.
    A terminal of less than ``WIDE`` characters shows what decides: rates, intervals, sweeps and waiting.
    """
    by_phase: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        by_phase.setdefault((record.case.id, record.phase), []).append(record)
    cases = list(cases)
    names = labels(cases)
    found = [(case, seen) for case in cases for phase in PHASES if rates(seen := by_phase.get((case.id, phase), []))]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("case", overflow="fold")
    columns = [column for column in COLUMNS if width >= WIDE or column not in WHERE_THERE_IS_ROOM]
    for name in columns:
        table.add_column(name, justify="left" if name == "pixels" else "right", no_wrap=True)
    steps = in_order(case.step.step for case, _ in found)
    for step in steps:
        of_step = sorted(
            ((case, seen) for case, seen in found if case.step.step == step),
            key=lambda pair: -interval(list(rates(pair[1]).values())).value,
        )
        table.add_row(Text(with_shared(in_words(step), shared(cases)), style="italic"))
        for case, seen in of_step[:most]:
            name = names[case.id] if case.cache == "warm" else f"{names[case.id]} ({phase_name(seen[0].phase, seen)})"
            table.add_row(*_cells(name, case, seen, columns))
        if most is not None and len(of_step) > most:
            table.add_row(Text(f"… and {len(of_step) - most} more", style="dim"))
    return table


def _cells(name: str, case: Case, seen: list[RunRecord], columns: Iterable[str]) -> list[Text]:
    rate = interval(list(rates(seen).values()))
    first = METRICS["first_batch_s"].compute(seen)
    wait = METRICS["wait_share"].compute(seen) if case.step.step != "none" else None
    failed = any(isinstance(record.outcome, Failed) for record in seen)
    shown = {
        "images/s": significant(rate.value),
        "95% interval": bounds(rate.low, rate.high) if rate.sweeps > 1 else "",
        "sweeps": str(rate.sweeps),
        "first batch s": "" if first is None else significant(first),
        "waiting": "" if wait is None else share(wait),
        "pixels": next((one.pixels.verdict for one in measured(seen) if one.pixels), ""),
    }
    cells = [marked(name, "failed" if failed else "ok"), *(shown[column] for column in columns)]
    # Text, not markup: a name in square brackets is a name.
    return [Text(cell, style="red" if failed else "dim" if case.format == "memory" else "") for cell in cells]
