"""What came of each case, and the images/s of those that can be relied on: what every comparison starts from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median

from bench.case import Case
from bench.evened import evened_run
from bench.metrics.base import NS
from bench.phases import phase_name
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
    """Images/s by sweep, in steady state and evened, of every case that never failed, in the order in which they were planned.

    The later epochs of a cold case come from the page cache as a warm case's do. They count where all pipelines are cold; beside
    warm cases they would be the same pipelines once more.
    """
    cache = "cold" if only_cold(run) else "warm"
    evened = evened_run(run)
    found = {
        case: evened[case, phase]
        for case, phase, records in run.groups()
        if phase == "warm" and (case.cache == cache or case.format == "memory")
        if (keep is None or keep(case)) and outcome(records)[0] == "ok"
    }
    return {case: by_sweep for case, by_sweep in found.items() if by_sweep}


def by_rate(measured: Mapping[Case, Mapping[int, float]], cases: Iterable[Case]) -> tuple[Case, ...]:
    """These cases, the fastest first by the median of its sweeps."""
    return tuple(sorted(cases, key=lambda case: -median(measured[case].values())))


def only_cold(run: Run) -> bool:
    """Whether every pipeline of the run was to begin from the disk."""
    return {case.cache for case in run.cases if case.format != "memory"} == {"cold"}


def first_epochs(run: Run) -> dict[Case, dict[int, float]]:
    """Images/s by sweep over the whole first epoch of every case that was proven cold in all its sweeps and never failed.

    From opening the dataset to the last batch: unlike in ``images_per_s``, scan and start-up count too.
    """
    failed = {record.case for record in run.records if isinstance(record.outcome, Failed)}
    found = {
        case: {r.sweep: epoch_images(r.outcome) / epoch_s(r.outcome) for r in records if isinstance(r.outcome, Measured)}
        for case, phase, records in run.groups()
        if phase_name(phase, records) == "cold_epoch" and case not in failed
    }
    return {case: by_sweep for case, by_sweep in found.items() if by_sweep}


def epoch_images(one: Measured) -> int:
    """How many images the measurement of a first epoch saw, the first batch's too."""
    return sum(one.warmup_images) + sum(one.images)


def epoch_s(one: Measured) -> float:
    """Seconds from opening the dataset to the last batch of its first epoch."""
    batches = (one.warmup_wait_ns, one.warmup_step_ns, one.wait_ns, one.step_ns)
    return (one.scan_ns + one.startup_ns + sum(map(sum, batches))) / NS


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
