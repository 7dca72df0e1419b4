"""Racing: with a budget, a case that has no chance left gives its time to those that have."""

from __future__ import annotations

from collections.abc import Sequence

from bench.compare import interval
from bench.evened import evened
from bench.record import Failed, RunRecord

LEAST_SWEEPS = 3


def beaten(records: Sequence[RunRecord]) -> dict[str, str]:
    """Cases whose interval lies wholly below their leader's, and those that failed, by id, with the reason in words.

    A step has one leader; cases that leave work to a model that nobody runs do less than the others, and race each other. What failed
    once is in no comparison, so it leads none, and more sweeps would say nothing of it.
    """
    by_step: dict[tuple[str, bool], dict[str, list[RunRecord]]] = {}
    for record in records:
        racer = record.case
        if record.phase == "warm" and not racer.loader.startswith("limit:"):
            by_step.setdefault((racer.step.step, racer.leaves_work), {}).setdefault(racer.id, []).append(record)
    out: dict[str, str] = {}
    for by_case in by_step.values():
        failures = {case: sum(isinstance(one.outcome, Failed) for one in mine) for case, mine in by_case.items()}
        found = {case: list(speeds.values()) for case, speeds in evened(by_case).items()}
        tries = {case: failures[case] + len(values) for case, values in found.items()}
        for case in found:
            if failures[case] and tries[case] >= LEAST_SWEEPS:
                out[case] = f"racing: failed in {failures[case]} of {tries[case]} sweeps; not measured further"
        enough = {case: interval(found[case]) for case in found if not failures[case] and tries[case] >= LEAST_SWEEPS}
        if not enough:
            continue
        leader = max(enough, key=lambda case: enough[case].value)
        best = enough[leader]
        for case, own in enough.items():
            if own.high < best.low:
                out[case] = (
                    f"racing: after {own.sweeps} sweeps its {own.low:,.0f} to {own.high:,.0f} images/s lie below the "
                    f"{best.low:,.0f} to {best.high:,.0f} of {leader}; not measured further"
                )
    return out
