"""``choices.json``: the best loader for each stored format, for ``loaders.load(..., loader="auto", results=PATH)``.

The fastest under the real step; among those that tie with it and are nearly as fast, the one that loads fastest alone, since it
leaves most room.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from bench.case import Case
from bench.compare import Comparison, against, leader
from bench.record import Run
from bench.speeds import contenders, in_order, speeds, steps
from bench.today import todays

VERSION = 1
NEARLY = 0.97
"""So fast beside the fastest seen a case must be to stand in for it: a tie of a noisy case can hide a large difference."""


def choices(run: Run, today: str | None = None) -> dict[str, Any]:
    """By ``FORMAT-PAYLOAD``: loader, spec fields that differ from the defaults, its rate, and what ties with it.

    ``today`` is the id of the user's case; raises UsageError if it was not measured.
    """
    step, measured = decisive_step(run), speeds(run)
    now = todays(run, step, today) if step else None
    group = rivals(measured, step, now) if step else []
    stored: dict[str, list[Case]] = {}
    for case in contenders(measured, step) if step else []:
        stored.setdefault(f"{case.format}-{case.payload}", []).append(case)
    return {
        "version": VERSION,
        "run": run.info.name,
        "step": step,
        "choices": {name: _entry(measured, *best(measured, group, now, among)) for name, among in stored.items()},
    }


def decisive_step(run: Run) -> str | None:
    """The step that decides: a real one if the run has one, else the slowest emulated one, else loading alone."""
    # A run that was cut off decides by what it has, and one that measured nothing by what was planned.
    return decisive(case.step.step for case in speeds(run) if case.format != "memory") or decisive(steps(run))


def decisive(names: Iterable[str]) -> str | None:
    """The one of these steps that decides; None without any."""
    found = in_order(names)
    real = [step for step in found if step != "none" and not step.startswith("emulated")]
    return next(iter([*real, *(step for step in found if step != "none"), *found]), None)


def rivals(measured: Mapping[Case, Mapping[int, float]], step: str, now: Case | None) -> list[Case]:
    """All that is compared under a step: its contenders, and today's case whatever it is."""
    return list(dict.fromkeys([*contenders(measured, step), *([now] if now else [])]))


def over_today(
    measured: Mapping[Case, Mapping[int, float]], group: Sequence[Case], now: Case | None
) -> dict[Case, Comparison]:
    """Each of the others over today's case, which was named before anybody looked; all of that at once. Empty without it."""
    if now is None:
        return {}
    found = against(now.id, {case.id: measured[case] for case in group})
    return {case: found[case.id] for case in group if case != now}


def best(
    measured: Mapping[Case, Mapping[int, float]],
    group: Sequence[Case],
    now: Case | None = None,
    among: Sequence[Case] | None = None,
) -> tuple[Case, list[Case]]:
    """The case to take, and all those (it too) that the run cannot tell from the fastest seen, which comes first.

    ``measured`` is all that the run measured (see ``speeds``), ``group`` what is compared under one step (``rivals``), ``now`` today's
    case. ``among`` are those to choose from, if not all. Every statement about a step is made here, and with all its pairs
    counted, so that none contradicts another: two cases of one format tie beside all others exactly if they tie beside each other.
    """
    by_case = {case.id: measured[case] for case in group}
    fastest = leader({case.id: measured[case] for case in among or group})
    verdicts = against(fastest, by_case, searched=True)
    found = over_today(measured, group, now)
    # Being named beforehand, today's case is established to be slower by less; then it isn't the fastest, whatever is.
    beaten = now if any(one.verdict == "faster" for one in found.values()) else None
    first = next(case for case in group if case.id == fastest)
    tied = [case for case in among or group if case != first and case != beaten and verdicts[case.id].verdict == "tie"]

    def rank(case: Case) -> tuple[float, float]:
        # With the preprocessing outside the model wherever that was measured: inside, loading alone does less of the work.
        outside = replace(case.alone, spec=replace(case.spec, placement="pipeline"))
        alone = measured.get(outside) or measured.get(case.alone) or {0: 0.0}
        return median(alone.values()), median(measured[case].values())

    return max(nearly(measured, [first, *tied]), key=rank), [first, *tied]


def nearly(measured: Mapping[Case, Mapping[int, float]], tied: Sequence[Case]) -> list[Case]:
    """Of the fastest seen, which comes first, and its ties: those that may stand in for it, itself too."""
    least = NEARLY * median(measured[tied[0]].values())
    return [case for case in tied if median(measured[case].values()) >= least]


def _entry(measured: Mapping[Case, Mapping[int, float]], case: Case, tied: Sequence[Case]) -> dict[str, Any]:
    changed = case.spec.changed()
    options = dict(changed.pop("options", ()))
    return {
        "case": case.id,
        "loader": case.loader,
        "spec": {key: list(value) if isinstance(value, tuple) else value for key, value in changed.items()},
        "options": options,
        "images_per_s": median(measured[case].values()),
        "ties": [other.id for other in tied if other.id != case.id],
    }
