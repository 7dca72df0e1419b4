"""What a budget holds: how long a further sweep will take, told from those before it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from bench.record import RunRecord


def expected_s(records: Sequence[RunRecord], cases: Iterable[str]) -> float:
    """Seconds that measuring these cases, by id, will take.

    What each usually took, and what a sweep usually took beyond that: if workers are shared, its first visit starts one, and the
    first of a step compiles it, which falls on another case each time.
    """
    took: dict[str, dict[int, float]] = {}
    for record in records:
        if record.visit_s is not None:  # A visit that left two records, of a cold and of a warm epoch, counts once.
            took.setdefault(record.case.id, {})[record.sweep] = record.visit_s
    usual = {case: median(by_sweep.values()) for case, by_sweep in took.items()}
    beyond: dict[int, float] = {}
    for case, by_sweep in took.items():
        for sweep, seconds in by_sweep.items():
            beyond[sweep] = beyond.get(sweep, 0.0) + seconds - usual[case]
    own = sum(usual.get(case, 0.0) for case in cases)
    return own + max(0.0, median(beyond.values())) if own else 0.0
