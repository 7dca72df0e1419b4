"""The tables behind the charts, beyond the CSV files': epochs, stages, utilisation, knees and break-even. All from the records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from math import log10
from statistics import median
from typing import Any

import numpy as np
from pandas import DataFrame

from bench.breakeven import BreakEven, break_even
from bench.case import Case
from bench.compare import rates
from bench.flags import epoch_rates, two_states
from bench.labels import labels, shared
from bench.metrics import METRICS
from bench.phases import phase_name
from bench.record import Measured, Run, measured
from bench.report.charts.base import Tables
from bench.report.table import results_table, sweeps_table
from bench.speeds import speeds, steps
from bench.starvation import PASS_AU, Loading, kept_ready, knee, loading, of_an_epoch, utilisation
from bench.today import todays_if_any
from loaders.base import STAGES, Stage

POINTS = 41
"""Of a curve: few enough for 120 cases in one page."""
SPEED_COLUMNS = ["case", "accelerator_images_per_s", "accelerator_utilisation"]
STAGE_COLUMNS = ["case", "stage", "order", "us_per_image", "total_us_per_image"]


def tables(run: Run, today: str | None = None) -> Tables:
    """All of a run's tables. ``today`` is the id of the user's case, for break-even; raises UsageError if it is not there."""
    curve, knees = _utilisation(run)
    return Tables(
        results_table(run), sweeps_table(run), _epochs(run), _stages(run), curve, _emulated(run), knees,
        _break_even(run, today), labels(run.cases), shared(run.cases),
    )  # fmt: skip


def _epochs(run: Run) -> DataFrame:
    rows = [
        {"case": case.id, "phase": phase_name(phase, [record]), "sweep": record.sweep, "epoch": number, "images_per_s": rate}
        for case, phase, records in run.groups()
        if two_states([rate for one in measured(records) for rate in epoch_rates(one)])
        for record in records
        if isinstance(record.outcome, Measured)
        for number, rate in enumerate(epoch_rates(record.outcome))
    ]
    return DataFrame(rows, columns=["case", "phase", "sweep", "epoch", "images_per_s"])


def _stages(run: Run) -> DataFrame:
    """Of one case a pipeline: the stages are timed once, without a step, and copied to all cases of that pipeline.

    Where preprocessing is left to the model, nothing is augmented or scaled here: that cut would show noise as a stage.
    """
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for case, phase, records in run.groups():
        found = next((one.stages_ns for one in measured(records) if one.stages_ns), None)
        pipeline = f"{case.format}-{case.payload}-{case.loader}-{case.spec}"
        if not found or pipeline in seen or phase != "warm":
            continue
        seen.add(pipeline)
        idle = {Stage.AUGMENT} if case.spec.placement == "model" else set()
        names = [stage.value for stage in STAGES if stage in found and stage not in idle]
        totals = [0.0, *(found[name] / 1000 for name in names)]
        rows += [
            {"case": case.id, "stage": name, "order": order, "us_per_image": after - before, "total_us_per_image": after}
            for order, (name, (before, after)) in enumerate(zip(names, pairwise(totals), strict=True))
        ]
    return DataFrame(rows, columns=STAGE_COLUMNS)


def _utilisation(run: Run) -> tuple[DataFrame, DataFrame]:
    feeds = dict(_feeds(run))
    if not feeds:
        return DataFrame(columns=SPEED_COLUMNS), DataFrame(columns=["case", "knee_images_per_s", "accelerator_utilisation"])
    rates = [feed.images_per_s for feed in feeds.values()]
    grid = np.logspace(log10(min(rates) / 4), log10(max(rates) * 4), POINTS)
    points, knees = [], []
    for case, feed in feeds.items():
        facts = run.info.datasets.get(f"{case.format}-{case.payload}")
        images, ready = facts.epoch_images if facts else None, kept_ready(case)
        points += [
            (case.id, float(speed), utilisation(feed, float(speed), ready=ready, epoch_images=images)) for speed in grid
        ]
        knees.append((case.id, knee(feed, ready=ready, epoch_images=images), PASS_AU))
    return DataFrame(points, columns=SPEED_COLUMNS), DataFrame(
        knees, columns=["case", "knee_images_per_s", SPEED_COLUMNS[2]]
    )


def _emulated(run: Run) -> DataFrame:
    """Of an epoch with its turnaround, as the curve is: steady state alone would lie above it where epochs are short."""
    rows = []
    for case, phase, records in run.groups():
        au = METRICS["accelerator_utilisation"].compute(records)
        if phase != "warm" or case.step.rate is None or case.format == "memory" or not au:
            continue
        facts = run.info.datasets.get(f"{case.format}-{case.payload}")
        if facts and not any(one.whole_epochs for one in measured(records)):
            turnaround_s = METRICS["epoch_turnaround_s"].compute(records) or 0.0
            au = of_an_epoch(au, facts.epoch_images / case.step.rate, turnaround_s)
        rows.append((case.id, case.loader, case.payload, case.step.rate, au))
    return DataFrame(rows, columns=["case", "loader", "payload", *SPEED_COLUMNS[1:]])


def _feeds(run: Run) -> Iterator[tuple[Case, Loading]]:
    """Of each case measured for loading alone: the sweep with the median rate, which stands for the others."""
    for case in speeds(run, lambda case: case.step.step == "none" and not case.loader.startswith("limit:")):
        by_sweep = rates(run.of(case.id))
        middle = min(by_sweep, key=lambda sweep: abs(by_sweep[sweep] - median(by_sweep.values())))
        outcome = next(record.outcome for record in run.of(case.id) if record.sweep == middle)
        feed = loading(outcome) if isinstance(outcome, Measured) else None
        if feed is not None:
            yield case, feed


def _break_even(run: Run, today: str | None) -> DataFrame:
    rows = [
        _flat(one) | {"step": step}
        for step in steps(run)
        if (now := todays_if_any(run, step, today))
        for one in break_even(run, step, now.id)
    ]
    columns = [*BreakEven.__dataclass_fields__, "ratio", "ratio_low", "ratio_high", "verdict", "saved_s", "step"]
    return DataFrame(rows, columns=[name for name in columns if name != "comparison"])


def _flat(one: BreakEven) -> dict[str, Any]:
    compared = one.comparison
    return asdict(one) | {
        "ratio": compared.ratio,
        "ratio_low": compared.low,
        "ratio_high": compared.high,
        "verdict": compared.verdict,
        "saved_s": one.saved_s,
    }
