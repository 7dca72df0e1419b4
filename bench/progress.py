"""A run's progress on a terminal: what is being done, how far it is, and the time left."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Bar:
    """The watcher of ``feedbench run`` and of pytest. Without a terminal it writes a line every few visits instead."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._visits = self._seen = 0
        self._progress = Progress(
            BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            TextColumn("{task.description}"), console=console, disable=not console.is_terminal, speed_estimate_period=300,
        )  # fmt: skip
        self._task = self._progress.add_task("starting", total=None)

    def plan(self, visits: int) -> None:
        """So many visits to cases are still to come."""
        self._visits, self._seen = visits, 0
        self._progress.reset(self._task, total=visits)

    def now(self, what: str) -> None:
        """What is being done."""
        self._progress.update(self._task, description=what, refresh=True)
        if not self._console.is_terminal and (not self._visits or self._seen % 20 == 0):
            self._console.print(f"{self._seen}/{self._visits or '?'} {what}", highlight=False, soft_wrap=True)

    def done(self) -> None:
        """One visit is over."""
        self._seen += 1
        self._progress.advance(self._task)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()
