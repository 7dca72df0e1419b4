"""A run's progress on a terminal: what was measured so far as a table, what is being done, how far it is, and the time left."""

from __future__ import annotations

from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from bench.record import RunRecord
from bench.run_table import run_table
from bench.speeds import in_order

LINES = 5
"""Without a terminal, a run is told in about so many,"""
MOST_UNTOLD = 20
"""but never are more visits than these between two of them."""
OTHER_LINES = 4
"""Of a terminal: the table's head, the bar, and room for the prompt."""


class Bar:
    """The watcher of ``feedbench run`` and of pytest. Without a terminal: a line every few visits, with the time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._visits = self._seen = 0
        self._records: list[RunRecord] = []
        self._progress = Progress(
            BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            console=console, speed_estimate_period=300, expand=True,
        )  # fmt: skip
        self._task = self._progress.add_task("starting", total=None)
        self._live = (
            Live(self._shown(), console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        )

    def plan(self, visits: int) -> None:
        """So many visits to cases are still to come."""
        self._visits, self._seen = visits, 0
        self._progress.reset(self._task, total=visits)

    def now(self, what: str) -> None:
        """What is being done."""
        self._progress.update(self._task, description=what)
        if self._live is None and self._seen % max(1, min(MOST_UNTOLD, self._visits // LINES)) == 0:
            left = self._progress.tasks[self._task].time_remaining
            ahead = f" ({timedelta(seconds=round(left))} left)" if left else ""
            self._console.print(Text(f"{self._seen}/{self._visits or '?'}{ahead} {what}"), soft_wrap=True)

    def measured(self, record: RunRecord) -> None:
        """What came of a visit."""
        self._records.append(record)
        if self._live is not None:
            self._live.update(self._shown())

    def done(self) -> None:
        """One visit is over."""
        self._seen += 1
        self._progress.advance(self._task)

    def _shown(self) -> Group:
        """The table, as much of it as the terminal has lines for, above the bar."""
        if not self._records:
            return Group(self._progress)
        cases = list({record.case.id: record.case for record in self._records}.values())
        steps = max(1, len(in_order(case.step.step for case in cases)))
        most = max(1, (self._console.height - OTHER_LINES) // steps - 2)
        return Group(run_table(cases, self._records, self._console.width, most), Text(), self._progress)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
