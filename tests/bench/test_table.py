"""The tidy tables and their CSV files: every case a row, the agreed columns, nothing that a spreadsheet would run."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest

from bench.case import Case, StepSpec
from bench.record import Measured, Run, load_run
from bench.report.csv import write_csv
from bench.report.table import results_columns, results_table, sweeps_table
from bench.speeds import NOT_REACHED
from bench.starvation import PASS_AU
from tests.bench.synthetic import matrix, synthetic_run

AGREED = [
    "phase",
    "images_per_s",
    "images_per_s_low",
    "images_per_s_high",
    "first_batch_s",
    "epoch_turnaround_s",
    "wait_share",
    "step_ms",
    "cpu_us_per_image",
    "anon_memory_bytes",
    "device_read_bytes",
    "stored_bytes",
    "convert_s",
    "pixels",
    "status",
    "reason",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return synthetic_run(tmp_path_factory.mktemp("runs") / "run")


def test_columns_are_the_agreed_ones_in_order() -> None:
    fields = list(Case(format="hdf5", payload="raw", loader="tfdata").fields())
    assert results_columns()[: len(fields) + len(AGREED)] == fields + AGREED


def test_every_case_and_phase_is_a_row(run: Run) -> None:
    table = results_table(run)
    assert set(table["case"]) == {case.id for case in run.info.cases}
    assert list(table.groupby("case").size().value_counts().items()) == [(1, len(matrix()) - 4), (2, 4)]
    assert (table.loc[table["status"] != "ok", "reason"].str.len() > 0).all()
    assert table.loc[table["status"] == "ok", "images_per_s"].notna().all()
    assert table.loc[table["status"] == "skipped", "images_per_s"].isna().all()


def test_intervals_hold_the_median(run: Run) -> None:
    ok = results_table(run).query("status == 'ok'")
    assert (ok["images_per_s_low"] <= ok["images_per_s"]).all()
    assert (ok["images_per_s"] <= ok["images_per_s_high"]).all()


def test_the_median_is_of_the_sweeps(run: Run) -> None:
    case = "lmdb-encoded-tfdata-model-step=none"
    sweeps = sweeps_table(run)
    sweeps = sweeps[sweeps["case"] == case]
    row = results_table(run).set_index("case").loc[case]
    assert len(sweeps) == 5
    assert row["images_per_s"] == sweeps["images_per_s"].median()


def test_racing_leaves_a_measured_case_ok_with_its_reason(run: Run) -> None:
    row = results_table(run).set_index("case").loc["directory-raw-image_data_generator-model"]
    assert (row["status"], row["sweeps"]) == ("ok", 3)
    assert "racing" in row["reason"]


def test_cold_that_nobody_proved_is_not_printed_as_cold(run: Run) -> None:
    cold = results_table(run).query("cache == 'cold' and phase != 'warm'").set_index("format")["phase"]
    assert cold["lmdb"] == "first_epoch"
    assert set(cold.drop("lmdb")) == {"cold_epoch"}


def test_a_case_the_run_did_not_reach_is_a_row(tmp_path: Path) -> None:
    cases = matrix(formats=["hdf5"], loaders=["tfdata"], limits=False, cold=False)
    synthetic_run(tmp_path, cases=cases, sweeps=1)
    lines = (tmp_path / "records.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "records.jsonl").write_text("".join(lines[:-1]))
    table = results_table(load_run(tmp_path))
    assert len(table) == len(cases)
    missing = table[table["status"] == "skipped"]
    assert list(missing["reason"]) == [NOT_REACHED]


def test_one_failure_in_five_sweeps_fails_the_case(tmp_path: Path) -> None:
    synthetic_run(tmp_path, cases=[Case(format="hdf5", payload="raw", loader="tfdata")])
    lines = (tmp_path / "records.jsonl").read_text().splitlines(keepends=True)
    head, _, _ = lines[2].partition('"outcome":')
    lines[2] = head + '"outcome":{"status":"failed","reason":"hung for 60 s"},"environment_id":"e0"}\n'
    (tmp_path / "records.jsonl").write_text("".join(lines))
    row = results_table(load_run(tmp_path)).iloc[0]
    assert (row["status"], row["reason"]) == ("failed", "in 1 of 5 sweeps: hung for 60 s")
    assert row["images_per_s"] > 0


def test_fine_tuning_starts_where_it_was_seen_to_start(tmp_path: Path) -> None:
    step = StepSpec(step="fine_tune", model="MobileNet")
    synthetic_run(tmp_path, cases=[Case(format="hdf5", payload="raw", loader="tfdata", step=step)], sweeps=2)
    assert set(results_table(load_run(tmp_path))["fine_tune_at"]) == {100}
    stored = tmp_path / "records.jsonl"
    stored.write_text(stored.read_text().replace('"fine_tune_at":null,"stages', '"fine_tune_at":55,"stages'))
    run = load_run(tmp_path)
    for table in (results_table(run), sweeps_table(run)):
        assert set(table["fine_tune_at"]) == {55}


def test_a_layer_that_nobody_named_is_no_part_of_an_old_case(tmp_path: Path) -> None:
    steps = (StepSpec(step="fine_tune"), StepSpec(), StepSpec(step="none"))
    synthetic_run(
        tmp_path, cases=[Case(format="hdf5", payload="raw", loader="tfdata", step=step) for step in steps], sweeps=2
    )
    stored = tmp_path / "records.jsonl"
    stored.write_text(stored.read_text().replace('"fine_tune_at":null,"jit', '"fine_tune_at":100,"jit'))
    run = load_run(tmp_path)
    assert {record.case for record in run.records} == set(run.info.cases)


def test_one_sweep_has_no_interval(tmp_path: Path) -> None:
    row = results_table(synthetic_run(tmp_path, cases=1, sweeps=1)).iloc[0]
    assert row["images_per_s"] > 0
    assert pd.isna(row["images_per_s_low"])
    assert pd.isna(row["images_per_s_high"])


def test_csv_reads_back_as_the_table(run: Run, tmp_path: Path) -> None:
    results, sweeps, *_ = write_csv(run, tmp_path)
    back = pd.read_csv(results)
    assert list(back.columns) == results_columns()
    pd.testing.assert_series_equal(back["images_per_s"], results_table(run)["images_per_s"])
    assert len(pd.read_csv(sweeps)) == len(run.records)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.csv", "stages.csv", "starvation.csv", "sweeps.csv"]


def test_stage_times_are_those_of_the_records(run: Run, tmp_path: Path) -> None:
    stages = pd.read_csv(write_csv(run, tmp_path)[2])
    assert list(stages.columns) == ["case", "stage", "order", "us_per_image", "total_us_per_image"]
    timed = {
        record.case: record.outcome.stages_ns
        for record in reversed(run.records)
        if isinstance(record.outcome, Measured) and record.outcome.stages_ns and record.case.cache == "warm"
    }
    assert len(timed) == stages["case"].nunique()
    for case, ns in timed.items():
        rows = stages[stages["case"] == case.id]
        # Left to the model, augmenting is no stage of the pipeline, and what its cut took is noise.
        expected = [stage for stage in ns if stage != "augment" or case.spec.placement == "pipeline"]
        assert rows["stage"].tolist() == expected
        assert rows["order"].tolist() == list(range(len(expected)))
        assert rows["total_us_per_image"].tolist() == pytest.approx([ns[stage] / 1000 for stage in expected])
        assert rows["us_per_image"].sum() == pytest.approx(ns["hand_over"] / 1000)


def test_starvation_is_of_each_case_alone_and_about_its_rate(run: Run, tmp_path: Path) -> None:
    results, _, _, starvation = (pd.read_csv(path) for path in write_csv(run, tmp_path))
    assert list(starvation.columns) == ["case", "knee_images_per_s", "accelerator_utilisation"]
    alone = results.query("step == 'none' and format != 'memory' and status == 'ok' and cache == 'warm'")
    assert set(starvation["case"]) == set(alone["case"])
    assert set(starvation["accelerator_utilisation"]) == {PASS_AU}
    found = starvation.merge(alone, on="case")
    # What is busy for 90% of the time may be a ninth faster than its pipeline, less what the epochs' turnarounds take.
    assert found["knee_images_per_s"].between(0.3 * found["images_per_s"], 1.15 * found["images_per_s"]).all()


def test_what_was_not_measured_is_a_table_without_rows(tmp_path: Path) -> None:
    case = Case(format="memory", payload="raw", loader="limit:gather", step=StepSpec(step="none"))
    _, _, *others = write_csv(synthetic_run(tmp_path, cases=[case], sweeps=1))
    assert [len(pd.read_csv(path)) for path in others] == [0, 0]


@pytest.mark.parametrize("name", ["=cmd()", "+1", "-1", "@SUM(A1)", "\t=1", "<script>"])
def test_no_cell_is_a_formula(name: str, tmp_path: Path) -> None:
    case = Case(format="hdf5", payload="raw", loader="tfdata", step=StepSpec(step="none"), name=name)
    results, *_ = write_csv(synthetic_run(tmp_path, cases=[case], sweeps=2))
    with results.open(newline="") as file:
        row = next(csv.DictReader(file))
    assert row["name"].lstrip("'") == name
    assert not row["name"].startswith(("=", "+", "-", "@", "\t"))
