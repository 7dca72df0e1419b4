"""A run as tidy tables: ``results_table`` (a row a case and phase), ``sweeps_table`` (a row a case, phase and sweep).

Every case is a row, also one that was skipped, failed or never reached, with its reason. The columns are documented in
docs/results.md; ``results.csv`` and ``sweeps.csv`` are these tables, and so is everything that a report shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pandas import DataFrame

from bench.case import Case
from bench.compare import interval, rates
from bench.evened import evened_run
from bench.flags import warnings
from bench.metrics import METRICS
from bench.phases import phase_name
from bench.record import Run, RunRecord, measured
from bench.speeds import outcome, reason_of

FIRST_METRICS = (
    "first_batch_s", "epoch_turnaround_s", "wait_share", "step_ms", "cpu_us_per_image", "anon_memory_bytes",
    "device_read_bytes",
)  # fmt: skip


def case_columns() -> list[str]:
    """Every field of ``Case``, in order."""
    return list(Case(format="hdf5", payload="raw", loader="tfdata").fields())


def results_columns() -> list[str]:
    """The columns of ``results.csv``. Metrics that are not part of the agreed ones follow at the end."""
    return [
        *case_columns(), "phase", "images_per_s", "images_per_s_low", "images_per_s_high", *FIRST_METRICS,
        "stored_bytes", "convert_s", "pixels", "status", "reason", "sweeps", "warnings", "pixels_cause", *more_metrics(),
    ]  # fmt: skip


def sweeps_columns() -> list[str]:
    """The columns of ``sweeps.csv``."""
    return [
        *case_columns(), "phase", "sweep", "started_at", "environment_id", "images_per_s", *FIRST_METRICS, "pixels",
        "status", "reason", "block", "evened_images_per_s", *more_metrics(),
    ]  # fmt: skip


def more_metrics() -> list[str]:
    """The rows of METRICS that have no fixed column, third parties' included."""
    return [name for name in METRICS if name not in ("images_per_s", *FIRST_METRICS)]


def results_table(run: Run) -> DataFrame:
    """A row a case and phase. ``images_per_s`` is the median over sweeps, ``_low`` and ``_high`` its 95% interval."""
    rows = [_result(run, case, phase, records) for case, phase, records in run.groups()]
    return DataFrame(rows, columns=results_columns())


def sweeps_table(run: Run) -> DataFrame:
    """A row a case, phase and sweep: what one measurement says on its own, and, evened, beside the others of its sweep."""
    speeds = evened_run(run)
    rows = [
        {
            **_fields(record.case, [record]),
            "phase": phase_name(record.phase, [record]),
            "sweep": record.sweep,
            "started_at": record.started_at,
            "environment_id": record.environment_id,
            **{name: METRICS[name].compute([record]) for name in METRICS},
            "pixels": _pixels([record])[0],
            "status": record.outcome.status,
            "reason": reason_of(record),
            "block": record.block,
            "evened_images_per_s": speeds[case, phase].get(record.sweep),
        }
        for case, phase, records in run.groups()
        for record in records
    ]
    return DataFrame(rows, columns=sweeps_columns())


def _result(run: Run, case: Case, phase: str, records: list[RunRecord]) -> dict[str, Any]:
    speeds = list(rates(records).values())
    bounds = interval(speeds) if speeds else None
    facts = run.info.datasets.get(f"{case.format}-{case.payload}")
    status, reason = outcome(records)
    pixels, cause = _pixels(records)
    return {
        **_fields(case, records),
        "phase": phase_name(phase, records),
        **{name: METRICS[name].compute(records) for name in METRICS},
        "images_per_s": bounds and bounds.value,
        "images_per_s_low": bounds.low if bounds and bounds.sweeps > 1 else None,
        "images_per_s_high": bounds.high if bounds and bounds.sweeps > 1 else None,
        "stored_bytes": facts and facts.stored_bytes,
        "convert_s": facts and facts.convert_s,
        "pixels": pixels,
        "status": status,
        "reason": reason,
        "sweeps": len(speeds),
        "warnings": "; ".join(warnings(records)),
        "pixels_cause": cause,
    }


def _fields(case: Case, records: Sequence[RunRecord]) -> dict[str, Any]:
    """The case's fields; of the layer that fine-tuning starts from, what took effect, if that was measured."""
    seen = next((one.fine_tune_at for one in measured(records) if one.fine_tune_at is not None), None)
    return case.fields() | ({} if seen is None else {"fine_tune_at": seen})


def _pixels(records: Sequence[RunRecord]) -> tuple[str | None, str | None]:
    """The verdict (the worse one, if sweeps disagree) and the named cause of a difference."""
    seen = [one.pixels for one in measured(records) if one.pixels is not None]
    if not seen:
        return None, None
    differing = next((pixels for pixels in seen if pixels.verdict == "differs"), None)
    return ("differs", differing.cause) if differing else ("identical", None)
