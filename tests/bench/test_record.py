"""Records survive the way to disk and back, and a broken one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.case import Case
from bench.record import Failed, Measured, RunInfo, RunRecord, Skipped, append_records, load_run, write_info
from loaders.base import LoaderSpec
from storage.errors import DataError

CASE = Case(format="hdf5", payload="raw", loader="tfdata", spec=LoaderSpec(options=(("autotune", True),)))


def store(folder: Path) -> list[RunRecord]:
    info = RunInfo(
        name="test", command="feedbench run", started_at="2026-01-01T00:00:00Z", options={}, sweeps=3,
        environments={"a": {}}, datasets={}, cases=[CASE],
    )  # fmt: skip
    records = [
        RunRecord(case=CASE, sweep=0, environment_id="a", outcome=outcome)
        for outcome in (
            Measured(images=[32, 32], wait_ns=[1, 2], step_ns=[3, 4], epochs=[0, 0]),
            Failed(reason="killed"),
            Skipped(reason="no GIF"),
        )
    ]
    write_info(folder, info)
    append_records(folder, records)
    return records


def test_round_trip(tmp_path: Path) -> None:
    records = store(tmp_path)
    run = load_run(tmp_path)
    assert run.records == records
    assert run.info.cases == [CASE]
    assert run.of(CASE.id) == records


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path: Path) -> None:
    records = store(tmp_path)
    path = tmp_path / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    assert load_run(tmp_path).records == records[:-1]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    store(tmp_path)
    path = tmp_path / "records.jsonl"
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(DataError, match=r"records\.jsonl:1 is not a RunRecord"):
        load_run(tmp_path)


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no run\.json"):
        load_run(tmp_path)
