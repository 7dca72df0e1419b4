"""Racing: with a budget, a case that has no chance left gives its time to those that have."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from bench.compare import interval, rates
from bench.record import RunRecord

LEAST_SWEEPS = 3


def beaten(records: Sequence[RunRecord]) -> dict[str, str]:
    """Cases whose interval lies wholly below that of the leader of their step, by id, with the reason in words."""
    by_step: dict[str, dict[str, list[float]]] = {}
    for record in records:
        if record.phase == "warm" and not record.case.loader.startswith("limit:"):
            by_step.setdefault(record.case.step.step, {}).setdefault(record.case.id, [])
    for step, found in by_step.items():
        for case in found:
            mine = [r for r in records if r.case.id == case and r.case.step.step == step and r.phase == "warm"]
            found[case] = list(rates(mine).values())
    out: dict[str, str] = {}
    for found in by_step.values():
        enough = {case: interval(values) for case, values in found.items() if len(values) >= LEAST_SWEEPS}
        if not enough:
            continue
        leader = max(enough, key=lambda case: median(found[case]))
        best = enough[leader]
        for case, mine in enough.items():
            if mine.high < best.low:
                out[case] = (
                    f"racing: after {mine.sweeps} sweeps its {mine.low:,.0f} to {mine.high:,.0f} images/s lie below the "
                    f"{best.low:,.0f} to {best.high:,.0f} of {leader}; not measured further"
                )
    return out
