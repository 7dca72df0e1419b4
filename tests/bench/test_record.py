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
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert load_run(tmp_path).records == records[:-1]
    path.write_bytes(whole + '{"reason": "ä'.encode()[:-1])  # Cut in the middle of a letter.
    assert load_run(tmp_path).records == records


def test_a_reason_may_hold_what_ends_a_line_elsewhere(tmp_path: Path) -> None:
    store(tmp_path)
    odd = RunRecord(case=CASE, sweep=1, environment_id="a", outcome=Failed(reason="cannot read a\u2028b\x85c\nd.jpg"))
    append_records(tmp_path, [odd])
    assert load_run(tmp_path).records[-1] == odd


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    store(tmp_path)
    path = tmp_path / "records.jsonl"
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(DataError, match=r"records\.jsonl:1 is not a RunRecord"):
        load_run(tmp_path)
    good = path.read_text().split("\n", 2)[1]
    for wrong in ('"wait_ns":[1]', '"wait_ns":[1,-2]'):
        path.write_text(good.replace('"wait_ns":[1,2]', wrong) + "\n")
        with pytest.raises(DataError, match=r"records\.jsonl:1 is not a RunRecord: outcome\.ok: .*wait_ns.* must"):
            load_run(tmp_path)
    (tmp_path / "run.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(DataError, match=r"run\.json is not a RunInfo: \w"):
        load_run(tmp_path)


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no run\.json"):
        load_run(tmp_path)


def test_a_file_that_cannot_be_read_is_no_run_without_it(tmp_path: Path) -> None:
    store(tmp_path)
    for name in ("records.jsonl", "run.json"):
        (tmp_path / name).unlink()
        (tmp_path / name).mkdir()
        with pytest.raises(DataError, match=rf"/{name} cannot be read: Is a directory$"):
            load_run(tmp_path)
