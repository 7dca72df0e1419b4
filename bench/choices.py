"""``choices.json``: the best loader for each stored format, for ``loaders.load(..., loader="auto", results=PATH)``.

The fastest under the real step; among those that tie with it, the one that loads fastest alone, since it leaves most room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from bench.case import Case
from bench.compare import against, leader
from bench.record import Run
from bench.speeds import contenders, in_order, speeds, steps

VERSION = 1


def choices(run: Run) -> dict[str, Any]:
    """By ``FORMAT-PAYLOAD``: loader, spec fields that differ from the defaults, its rate, and what ties with it."""
    step, measured = decisive_step(run), speeds(run)
    stored: dict[str, list[Case]] = {}
    for case in contenders(measured, step) if step else []:
        stored.setdefault(f"{case.format}-{case.payload}", []).append(case)
    return {
        "version": VERSION,
        "run": run.info.name,
        "step": step,
        "choices": {name: _entry(measured, group) for name, group in stored.items()},
    }


def decisive_step(run: Run) -> str | None:
    """The step that decides: a real one if the run has one, else the slowest emulated one, else loading alone."""
    measured = in_order(case.step.step for case in speeds(run) if case.format != "memory")
    # A run that was cut off decides by what it has, and one that measured nothing by what was planned.
    found = measured or steps(run)
    real = [step for step in found if step != "none" and not step.startswith("emulated")]
    return next(iter([*real, *(step for step in found if step != "none"), *found]), None)


def best(measured: Mapping[Case, dict[int, float]], group: Sequence[Case]) -> tuple[Case, list[Case]]:
    """The case to take, and all those (it too) that the run cannot tell from the fastest.

    ``measured`` is all that the run measured (see ``speeds``), ``group`` the contenders, all of one step.
    """
    named = {case.id: case for case in group}
    by_case = {case.id: measured[case] for case in group}
    fastest = leader(by_case)
    verdicts = against(fastest, by_case, searched=True)
    tied = [named[fastest], *(named[name] for name, result in verdicts.items() if result.verdict == "tie")]

    def rank(case: Case) -> tuple[float, float]:
        # By default, loading alone is measured with the preprocessing outside the model only.
        outside = replace(case.alone, spec=replace(case.spec, placement="pipeline"))
        alone = measured.get(case.alone) or measured.get(outside) or {0: 0.0}
        return median(alone.values()), median(by_case[case.id].values())

    return max(tied, key=rank), tied


def _entry(measured: Mapping[Case, dict[int, float]], group: Sequence[Case]) -> dict[str, Any]:
    case, tied = best(measured, group)
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
