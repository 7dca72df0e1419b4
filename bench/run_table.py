"""A run as a table on a terminal: a line a case, while it is measured and when it is over."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from bench.case import Case
from bench.compare import interval, rates
from bench.metrics import METRICS
from bench.record import Failed, RunRecord, measured
from bench.report.digits import bounds, share, significant
from bench.report.labels import labels, marked, shared, with_shared
from bench.speeds import in_order, in_words


def run_table(cases: Iterable[Case], records: Iterable[RunRecord], most: int | None = None) -> Table:
    """Fastest first within its step; of each step at most ``most`` cases. What has no rate yet, or never will, has no line."""
    by_case: dict[str, list[RunRecord]] = {}
    for record in records:
        if record.phase == "warm":
            by_case.setdefault(record.case.id, []).append(record)
    cases = list(cases)
    names = labels(cases)
    found = [(case, by_case[case.id]) for case in cases if rates(by_case.get(case.id, ()))]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("case", overflow="fold")
    for name in ("images/s", "95% interval", "sweeps", "first batch s", "waiting"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("pixels", no_wrap=True)
    steps = in_order(case.step.step for case, _ in found)
    for step in steps:
        of_step = sorted(
            ((case, seen) for case, seen in found if case.step.step == step),
            key=lambda pair: -interval(list(rates(pair[1]).values())).value,
        )
        table.add_row(Text(with_shared(in_words(step), shared(cases)), style="italic"))
        for case, seen in of_step[:most]:
            table.add_row(*_cells(names[case.id], case, seen))
        if most is not None and len(of_step) > most:
            table.add_row(Text(f"… and {len(of_step) - most} more", style="dim"))
    return table


def _cells(name: str, case: Case, seen: list[RunRecord]) -> list[Text]:
    rate = interval(list(rates(seen).values()))
    first = METRICS["first_batch_s"].compute(seen)
    wait = METRICS["wait_share"].compute(seen) if case.step.step != "none" else None
    pixels = next((one.pixels.verdict for one in measured(seen) if one.pixels), "")
    failed = any(isinstance(record.outcome, Failed) for record in seen)
    cells = [
        marked(name, "failed" if failed else "ok"), significant(rate.value),
        bounds(rate.low, rate.high) if rate.sweeps > 1 else "", str(rate.sweeps),
        "" if first is None else significant(first), "" if wait is None else share(wait), pixels,
    ]  # fmt: skip
    # Text, not markup: a name in square brackets is a name.
    return [Text(cell, style="red" if failed else "dim" if case.format == "memory" else "") for cell in cells]
