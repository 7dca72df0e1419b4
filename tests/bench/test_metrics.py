"""Every metric against numbers worked out by hand, on two sweeps of a case that any reader can follow."""

from __future__ import annotations

from pathlib import Path

import pytest

import bench.metrics
from bench.case import Case, StepSpec
from bench.metrics import METRICS
from bench.record import Failed, Measured, RunRecord

MS = 1_000_000


def record(outcome: Measured | Failed, sweep: int = 0, step: str = "emulated:1000") -> RunRecord:
    case = Case(format="hdf5", payload="raw", loader="tfdata", step=StepSpec(step=step))
    return RunRecord(case=case, sweep=sweep, environment_id="e", outcome=outcome)


def one(**changes: object) -> Measured:
    """Four batches of 10 in epoch 0, two in epoch 1: 5 steady ones of 20 ms and an opening one that waits 100 ms.

    4 of the images lay in a buffer. Steady: 50 - 4 images in 5 x (15 + 5) ms. All: 60 images in 100 + 105 ms.
    """
    values: dict[str, object] = {
        "images": [10] * 6, "wait_ns": [15 * MS] * 4 + [100 * MS, 15 * MS], "step_ns": [5 * MS] * 6, "epochs": [0] * 4 + [1] * 2,
        "buffered_images": 4, "scan_ns": 2 * MS, "startup_ns": 30 * MS, "first_batch_ns": 250 * MS, "cpu_ns": 123 * MS,
        "anon_memory_bytes": 1000, "minor_faults": 7, "major_faults": 1, "asked_read_bytes": 600, "device_read_bytes": 300,
        "threads": 9, "transfer_ns": [3 * MS] * 4 + [50 * MS, 3 * MS],
    }  # fmt: skip
    return Measured.model_validate({**values, **changes})


EXPECTED = {
    "accelerator_utilisation": (50 - 4) / 1000 / 0.100,
    "anon_memory_bytes": 1000,
    "asked_read_bytes": 600,
    "cpu_cores": 123 / 205,
    "cpu_us_per_image": 2050,
    "device_read_bytes": 300,
    "epoch_turnaround_s": 0.100,
    "first_batch_s": 0.250,
    "images_per_s": 460,
    "major_faults": 1,
    "minor_faults": 7,
    "scan_s": 0.002,
    "startup_s": 0.030,
    "step_ms": 5,
    "threads": 9,
    "transfer_ms": 3,
    "wait_share": 0.75,
}


def test_every_built_in_metric_is_worked_out_by_hand() -> None:
    assert set(METRICS.built_in) == set(EXPECTED)


def test_every_module_has_a_row() -> None:
    modules = {path.stem for path in Path(bench.metrics.__file__).parent.glob("*.py")} - {"__init__", "base"}
    assert modules == set(METRICS.built_in)


@pytest.mark.parametrize("name", EXPECTED)
def test_one_sweep(name: str) -> None:
    assert METRICS[name].compute([record(one())]) == pytest.approx(EXPECTED[name])


@pytest.mark.parametrize("name", EXPECTED)
def test_a_failed_sweep_is_no_number(name: str) -> None:
    assert METRICS[name].compute([record(Failed(reason="killed"))]) is None
    assert METRICS[name].compute([]) is None


def test_throughput_is_images_over_time_and_no_mean_of_rates() -> None:
    # 10 images in 10 ms, then 10 in 90 ms: 200 images/s; the mean of the two rates would be 556.
    uneven = one(images=[10, 10], wait_ns=[10 * MS, 90 * MS], step_ns=[0, 0], epochs=[0, 0], buffered_images=0)
    assert METRICS["images_per_s"].compute([record(uneven)]) == pytest.approx(200)


def test_what_a_turnaround_looked_at_afterwards_took_is_no_part_of_the_processor_time() -> None:
    # 123 ms of processor time for four batches; the fifth, of the next epoch, came when that had been read.
    seen = one(images=[10] * 5, wait_ns=[15 * MS] * 4 + [100 * MS], step_ns=[5 * MS] * 4 + [0], epochs=[0] * 4 + [1])
    assert METRICS["cpu_us_per_image"].compute([record(seen)]) == pytest.approx(123_000 / 40)
    assert METRICS["cpu_cores"].compute([record(seen)]) == pytest.approx(123 / 80)


def test_several_sweeps_give_the_median() -> None:
    slow = one(wait_ns=[35 * MS] * 4 + [100 * MS, 35 * MS])  # 46 images in 0.2 s
    records = [record(one(), 0), record(slow, 1), record(one(), 2)]
    assert METRICS["images_per_s"].compute(records) == pytest.approx(460)
    assert METRICS["images_per_s"].compute(records[:2]) == pytest.approx((460 + 230) / 2)


def test_utilisation_of_a_real_step_is_the_time_inside_it_and_loading_alone_has_none() -> None:
    assert METRICS["accelerator_utilisation"].compute([record(one(), step="full")]) == pytest.approx(25 / 100)
    assert METRICS["accelerator_utilisation"].compute([record(one(), step="none")]) is None


def test_a_step_is_a_batch_also_where_several_are_taken_in_one_go() -> None:
    step = StepSpec(step="full", steps_per_execution=5)
    case = Case(format="hdf5", payload="raw", loader="tfdata", step=step)
    records = [RunRecord(case=case, sweep=0, environment_id="e", outcome=one())]
    assert METRICS["step_ms"].compute(records) == 1
    assert METRICS["transfer_ms"].compute(records) == 3 / 5


def test_no_accelerator_is_no_transfer() -> None:
    assert METRICS["transfer_ms"].compute([record(one(transfer_ns=[]))]) is None


def test_no_steady_batch_is_no_throughput() -> None:
    lone = one(images=[10, 10], wait_ns=[MS, MS], step_ns=[MS, MS], epochs=[0, 1])
    steady_only = record(one(images=[], wait_ns=[], step_ns=[], epochs=[]))
    assert METRICS["images_per_s"].compute([steady_only]) is None
    assert METRICS["epoch_turnaround_s"].compute([record(lone)]) == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("before", "reused", "shown"), [(None, None, 1000), (300, None, 700), (300, 200, 900), (1000, 200, 200), (1200, 0, 0)]
)
def test_memory_is_what_came_on_top_of_what_was_there_or_was_used_again(
    before: int | None, reused: int | None, shown: int
) -> None:
    outcome = one(anon_before_bytes=before, anon_reused_bytes=reused)
    assert METRICS["anon_memory_bytes"].compute([record(outcome)]) == shown
