"""What came of each case, and the images/s of those that can be relied on: what every comparison starts from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bench.case import Case
from bench.compare import rates
from bench.record import Failed, Measured, Run, RunRecord, Skipped

NOT_REACHED = "not measured: the run did not get to it (go on with feedbench run --resume RUN)"


def outcome(records: Sequence[RunRecord]) -> tuple[str, str]:
    """Status and reason of a case over its sweeps. One failure makes it *failed*: it cannot be relied on.

    A case that racing stopped is *ok*, with the reason why it has fewer sweeps.
    """
    failures = [record for record in records if isinstance(record.outcome, Failed)]
    skips = [record for record in records if isinstance(record.outcome, Skipped)]
    if failures:
        tried = len(records) - len(skips)
        share = f"in {len(failures)} of {tried} sweeps: " if tried > len(failures) else ""
        return "failed", share + reason_of(failures[0])
    if any(isinstance(record.outcome, Measured) for record in records):
        return "ok", reason_of(skips[0]) if skips else ""
    return "skipped", reason_of(skips[0]) if skips else NOT_REACHED


def reason_of(record: RunRecord) -> str:
    """Why a record is no measurement; empty if it is one."""
    return "" if isinstance(record.outcome, Measured) else record.outcome.reason


def speeds(run: Run, keep: Callable[[Case], bool] | None = None) -> dict[Case, dict[int, float]]:
    """Images/s by sweep of every case that was measured warm and never failed, in the order in which they were planned."""
    found = {
        case: rates(records)
        for case, phase, records in run.groups()
        if phase == case.cache == "warm" and (keep is None or keep(case)) and outcome(records)[0] == "ok"
    }
    return {case: by_sweep for case, by_sweep in found.items() if by_sweep}


def contenders(cases: Iterable[Case], step: str) -> list[Case]:
    """The cases of one step that may win it, limits and known loaders left out.

    Cases that leave work to a model that nobody runs would win by that: they stand against each other only.
    """
    found = [case for case in cases if case.step.step == step and case.format != "memory"]
    whole = [case for case in found if not case.leaves_work]
    return whole or found


def steps(run: Run) -> list[str]:
    """The steps of a run: loading alone first, then real ones, then emulated accelerators from slow to fast."""
    return in_order(case.step.step for case in run.info.cases)


def in_order(names: Iterable[str]) -> list[str]:
    """Each of these steps once, ordered so."""

    def place(step: str) -> tuple[int, float, str]:
        kind, _, speed = step.partition(":")
        return ({"none": 0, "emulated": 2}.get(kind, 1), float(speed or 0), step)

    return sorted(set(names), key=place)


def in_words(step: str) -> str:
    """A step as a reader wants it named."""
    kind, _, speed = step.partition(":")
    names = {"none": "loading alone", "emulated": f"an accelerator of {speed} images/s"}
    return names.get(kind, f"the real step ({step})")
