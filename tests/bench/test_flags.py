"""Flags in words: each on a case made to deserve it, and none on one that does not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.case import Case, StepSpec
from bench.flags import few_apart, two_states, warnings, word
from bench.record import Measured, Run, RunRecord
from tests.bench.synthetic import matrix, synthetic_run

CASE = Case(format="hdf5", payload="raw", loader="tfdata", step=StepSpec(step="none"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return synthetic_run(tmp_path_factory.mktemp("runs") / "run", cases=[CASE])


def flags(
    run: Run,
    *,
    case: str = CASE.id,
    phase: str = "warm",
    speed: list[float] | None = None,
    records: int = 5,
    **changes: Any,
) -> list[str]:
    """The flags of a synthetic case with some fields of every measurement changed, and its sweeps at other speeds."""
    made = []
    for number, record in enumerate(run.of(case, phase)[:records]):
        assert isinstance(record.outcome, Measured)
        factor = speed[number] if speed else 1.0
        waits = [round(ns / factor) for ns in record.outcome.wait_ns]
        made.append(record.model_copy(update={"outcome": record.outcome.model_copy(update={"wait_ns": waits, **changes})}))
    return warnings(made)


def test_a_quiet_case_has_none(run: Run) -> None:
    assert flags(run) == []


def test_short_epochs_are_said(run: Run) -> None:
    assert any(
        flag.startswith("short epochs: the pipeline may hold a whole one ready") for flag in flags(run, whole_epochs=True)
    )


def test_bimodal_says_how_many_epochs_and_how_slow(tmp_path: Path) -> None:
    case = next(c for c in matrix() if c.id == "tfrecord-encoded-tfdata-pipeline-step=none")
    run = synthetic_run(tmp_path, cases=[case])
    found = warnings(run.of(case.id))
    assert len(found) == 1
    assert found[0].startswith("bimodal: ")
    assert "epochs ran at half speed: switch tf.data's autotuning off" in found[0]


def test_bimodal_advises_against_autotuning_only_where_something_tuned_itself(tmp_path: Path) -> None:
    case = next(c for c in matrix() if c.id == "tfrecord-encoded-tfdata-pipeline-step=none")
    records = synthetic_run(tmp_path, cases=[case])
    for tuned in ({}, {"autotune": "False", "deterministic": "True"}):
        (found,) = flags(records, case=case.id, tuned=tuned)
        assert "epochs ran at half speed: measure again with nothing beside it" in found
        assert "autotuning" not in found
    (found,) = flags(records, case=case.id, tuned={"autotune": "TensorFlow's default", "MapAndBatch parallelism": "1"})
    assert "switch tf.data's autotuning off" in found


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("drifting: 1[0-9]% slower from the first sweep to the last", {"speed": [1.0, 0.96, 0.92, 0.88, 0.84]}),
        ("unsteady: sweeps vary by", {"speed": [1.0, 0.85, 1.1, 0.9, 1.05]}),
        ("busy neighbour: in 5 of 5 sweeps others took up to 30%", {"steal_share": 0.1, "neighbour_share": 0.2}),
        ("throttled: in 5 of 5 sweeps the control group's limit held processes up for up to 4%", {"throttled_share": 0.04}),
        ("not enough sweeps: 3 measured, 5 needed", {"records": 3}),
        ("swap: up to 5,000 page faults", {"major_faults": 5000}),
        ("not proven warm in 5 of 5 sweeps: as little as 83%", {"resident_before": 0.83}),
        ("warm-up never became steady in 5 of 5 sweeps", {"warmup_steady": False}),
    ],
)
def test_each_flag_has_figures_and_a_next_step(run: Run, words: str, changes: dict[str, Any]) -> None:
    found = flags(run, **changes)
    assert len(found) == 1
    assert found[0].count(": ") >= 2 or "measure" in found[0]
    import re

    assert re.match(words, found[0]), found


def test_memory_that_comes_anew_is_told_from_a_noisy_machine(run: Run) -> None:
    """By hand: 83 faults an image in the two slow sweeps, at 0.85 of the others' speed; then the same in the fast ones."""

    def found(faults: list[int], speed: list[float]) -> list[str]:
        made = []
        for record, an_image, factor in zip(run.of(CASE.id, "warm"), faults, speed, strict=True):
            assert isinstance(record.outcome, Measured)
            one = record.outcome
            changes = {
                "wait_ns": [round(ns / factor) for ns in one.wait_ns],
                "step_ns": [0] * len(one.step_ns),
                "minor_faults": an_image * sum(one.images),
            }
            made.append(record.model_copy(update={"outcome": one.model_copy(update=changes)}))
        return warnings(made)

    (flag,) = found([1, 83, 2, 70, 0], [1.0, 0.85, 1.0, 0.85, 1.0])
    assert flag.startswith("fresh memory: 2 of 5 sweeps took 70 page faults an image or more and ran at 8")
    assert "MALLOC_TRIM_THRESHOLD_=" in flag
    for faults, speed in (
        ([83, 1, 70, 2, 60], [1.0, 0.85, 1.0, 0.85, 1.0]),  # where memory came anew it was faster
        ([1, 83, 2, 1, 0], [1.0, 0.85, 1.0, 0.85, 1.0]),  # a single sweep
        ([1, 14, 2, 12, 0], [1.0, 0.85, 1.0, 0.85, 1.0]),  # few faults
    ):
        assert [word(one) for one in found(faults, speed)] == ["unsteady"]
    (always,) = found([95, 120, 64, 99, 140], [1.0] * 5)
    assert always.startswith("fresh memory: 64 page faults an image or more in every sweep: measure again with MALLOC_")
    assert found([95, 120, 60, 99, 140], [1.0] * 5) == []


def test_cold_that_nobody_proved_is_flagged(tmp_path: Path) -> None:
    case = Case(format="lmdb", payload="encoded", loader="tfdata", step=StepSpec(step="none"), cache="cold")
    run = synthetic_run(tmp_path, cases=[case])
    assert any(flag.startswith("not proven cold in 5 of 5 sweeps, 60%") for flag in warnings(run.of(case.id, "cold_epoch")))


def test_what_was_read_while_opening_is_flagged(tmp_path: Path) -> None:
    case = Case(format="hdf5", payload="encoded", loader="tfdata", step=StepSpec(step="none"), cache="cold")
    run = synthetic_run(tmp_path, cases=[case])
    early, late = (
        flags(run, case=case.id, phase="cold_epoch", opening_read_bytes=before, device_read_bytes=1000)
        for before in (9000, 100)
    )
    assert [flag.partition(" of the bytes")[0] for flag in early] == ["read while opening in 5 of 5 sweeps: up to 90%"]
    assert late == []


def test_two_states_are_not_seen_in_ordinary_noise() -> None:
    rng = np.random.default_rng(0)
    called = sum(two_states([100 * math.exp(rng.normal(0, 0.05)) for _ in range(20)]) is not None for _ in range(2000))
    assert called == 0
    slow, fast = two_states([50.0, 51.0, 100.0, 98.0, 101.0]) or ([], [])
    assert (slow, fast) == ([50.0, 51.0], [98.0, 100.0, 101.0])
    assert two_states([50.0, 100.0, 100.0, 100.0, 100.0]) is None


def test_a_state_is_a_tenth_of_the_epochs_at_least() -> None:
    """By hand: of 93 epochs a state needs 10, of 30 it needs 3, of 20 or fewer it needs 2."""
    assert two_states([60.0] * 2 + [100.0] * 91) is None
    assert two_states([60.0] * 9 + [100.0] * 84) is None
    assert two_states([60.0] * 10 + [100.0] * 83) == ([60.0] * 10, [100.0] * 83)
    assert two_states([60.0] * 2 + [100.0] * 28) is None
    assert two_states([60.0] * 3 + [100.0] * 27) == ([60.0] * 3, [100.0] * 27)
    assert two_states([60.0] * 2 + [100.0] * 18) == ([60.0] * 2, [100.0] * 18)
    assert two_states([100.0] * 91 + [160.0] * 2) is None


def test_two_states_are_a_quarter_apart_and_three_times_the_spread_within() -> None:
    """By hand: a ratio of 1.24 is less than 1.25. Of 98, 100, 102 (sd 2%) and 60, 80 (sd of logs 20%), the gap is 20%."""
    assert two_states([100.0] * 3 + [124.0] * 3) is None
    assert two_states([100.0] * 3 + [126.0] * 3) == ([100.0] * 3, [126.0] * 3)
    assert two_states([60.0, 80.0, 98.0, 100.0, 102.0]) is None


def test_few_epochs_apart_are_no_second_rate(tmp_path: Path) -> None:
    assert few_apart([60.0] * 2 + [100.0] * 91) == ([60.0] * 2, [100.0] * 91)
    assert few_apart([100.0] * 91 + [160.0] * 2) == ([100.0] * 91, [160.0] * 2)
    assert few_apart([60.0] + [100.0] * 92) is None, "one is an outlier"
    assert few_apart([60.0] * 10 + [100.0] * 83) is None, "these are a state"
    assert few_apart([60.0] * 2 + [100.0] * 18) is None, "these too"
    run = synthetic_run(tmp_path, cases=[CASE])
    made = []
    for record in run.of(CASE.id):
        # Five batches an epoch, 10 ms each; of 25 epochs two took 16 ms a batch.
        epochs = [epoch for epoch in range(5) for _ in range(5)]
        waits = [16_000_000 if record.sweep == 4 and epoch in (1, 2) else 10_000_000 for epoch in epochs]
        changes = {"images": [32] * 25, "wait_ns": waits, "step_ns": [0] * 25, "epochs": epochs, "buffered_images": 0}
        assert isinstance(record.outcome, Measured)
        made.append(record.model_copy(update={"outcome": record.outcome.model_copy(update=changes)}))
    found = [flag for flag in warnings(made) if "epochs" in flag]
    assert [word(flag) for flag in found] == ["few slow epochs"]
    assert found[0].startswith("few slow epochs: 2 of 25 ran at 62% of the others' speed: they are counted in")


def test_nothing_measured_warns_of_nothing(run: Run) -> None:
    empty: list[RunRecord] = []
    assert warnings(empty) == []
