"""Who is told how far a run is: a progress bar, a live table, nobody."""

from __future__ import annotations

from typing import Protocol

from bench.record import RunRecord


class Watcher(Protocol):
    """Who is told how far a run is."""

    def plan(self, visits: int) -> None:
        """So many visits to cases are still to come."""

    def now(self, what: str) -> None:
        """What is being done."""

    def measured(self, record: RunRecord) -> None:
        """What came of a visit: a measurement, a failure, or why it was skipped."""

    def done(self) -> None:
        """One visit is over."""
