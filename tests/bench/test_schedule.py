"""Whole runs over loaders of known behaviour: real worker processes, killed, hung, out of memory, resumed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from bench.case import Case, StepSpec
from bench.metrics.images_per_s import rate
from bench.options import RunOptions
from bench.racing import beaten
from bench.record import Failed, Measured, RunRecord, load_run
from bench.schedule import resume, run
from loaders.base import LoaderSpec
from storage.errors import DataError, UsageError

SMALL = LoaderSpec(batch_size=8, image_size=(8, 8))


class Quiet:
    """A watcher that counts, and that can interrupt."""

    def __init__(self, interrupt_after: int = 1 << 30) -> None:
        self.visits = 0
        self.left = interrupt_after

    def plan(self, visits: int) -> None: ...
    def now(self, what: str) -> None: ...
    def measured(self, record: RunRecord) -> None: ...
    def done(self) -> None:
        self.visits += 1
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports have tests of their own."""
    monkeypatch.setattr("bench.schedule.report", lambda folder, today: (folder, today))


def known(kind: str, name: str = "") -> Case:
    return Case(format="memory", payload="raw", loader=f"known:{kind}", spec=SMALL, step=StepSpec(step="none"), name=name)


def options(folder: Path, **more: object) -> RunOptions:
    return RunOptions(**{"results": folder, "data": folder / "data", "sweeps": 1, "tiny": True, **more})  # type: ignore[arg-type]


def test_a_worker_that_dies_hangs_or_eats_memory_is_a_row_and_all_others_complete(tmp_path: Path) -> None:
    planned = [known("null"), known("crash"), known("hang"), known("hog"), known("null", "again")]
    asked = options(tmp_path, timeout_s=12.0, memory_limit_bytes=600_000_000)
    stored = load_run(run(asked, Quiet(), "test", planned=planned))
    outcomes = {record.case.loader + record.case.name: record.outcome for record in stored.records}
    assert isinstance(outcomes["known:null"], Measured)
    assert isinstance(outcomes["known:nullagain"], Measured)
    reasons = {name: outcome.reason for name, outcome in outcomes.items() if isinstance(outcome, Failed)}
    assert reasons["known:crash"].startswith("the worker was killed by SIGKILL")
    assert reasons["known:hang"] == "no answer within 12 s: ended"
    assert reasons["known:hog"].startswith("over its memory limit of 600 MB")


def test_rate_of_a_known_loader_and_step(tmp_path: Path) -> None:
    spec = LoaderSpec(batch_size=8, image_size=(8, 8), prefetch=0)
    case = Case(format="memory", payload="raw", loader="known:800", spec=spec, step=StepSpec(step="emulated:800"))
    stored = load_run(run(options(tmp_path, tiny=False), Quiet(), "test", planned=[case]))
    (record,) = stored.records
    assert isinstance(record.outcome, Measured)
    # A busy machine can only make it slower; 400/s is what it promises.
    assert 0 < (rate(record.outcome) or 0) < 408
    assert stored.info.finished
    assert record.outcome.anon_memory_bytes
    assert (tmp_path / "latest" / "run.json").is_file()


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    planned = [known("null", name) for name in "abc"]
    with pytest.raises(KeyboardInterrupt):
        run(options(tmp_path, sweeps=2), Quiet(interrupt_after=4), "test", planned=planned)
    (folder,) = [path for path in tmp_path.iterdir() if (path / "run.json").is_file()]
    before = load_run(folder)
    assert len(before.records) == 4
    assert not before.info.finished
    with (folder / "records.jsonl").open("a") as file:
        file.write('{"version": 1, "ca')
    after = load_run(resume(folder, Quiet()))
    assert after.records[:4] == before.records
    assert Counter((r.case.name, r.sweep) for r in after.records) == Counter((n, s) for n in "abc" for s in (0, 1))
    assert after.info.finished
    with pytest.raises(DataError, match="nothing to resume"):
        resume(folder, Quiet())


def test_each_sweep_has_an_order_of_its_own(tmp_path: Path) -> None:
    planned = [known("null", name) for name in "abcdefgh"]
    stored = load_run(run(options(tmp_path, sweeps=2), Quiet(), "test", planned=planned))
    orders = [[r.case.name for r in stored.records if r.sweep == sweep] for sweep in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


def record(case: Case, sweep: int, images_per_s: float) -> RunRecord:
    outcome = Measured(images=[100], wait_ns=[round(100 / images_per_s * 1e9)], step_ns=[0], epochs=[0])
    return RunRecord(case=case, sweep=sweep, outcome=outcome, environment_id="a")


def test_racing_drops_only_what_is_established() -> None:
    rates = {"fast": [1000, 1010, 990], "close": [985, 1020, 960], "slow": [500, 505, 495]}
    records = [record(known("null", name), n, v) for name, values in rates.items() for n, v in enumerate(values)]
    (case_id,) = beaten(records)
    assert case_id.endswith("name=slow")
    assert "racing: after 3 sweeps" in beaten(records)[case_id]
    assert beaten([r for r in records if r.sweep < 2]) == {}


def test_a_budget_still_gives_three_sweeps(tmp_path: Path) -> None:
    stored = load_run(run(options(tmp_path, sweeps=None, budget_s=0.001), Quiet(), "test", planned=[known("null")]))
    assert [r.sweep for r in stored.records] == [0, 1, 2]


def test_the_case_that_a_run_compares_with_is_checked_first_kept_and_handed_to_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr("bench.schedule.report", lambda folder, today: told.append(today))  # noqa: ARG005
    only = known("null")
    with pytest.raises(UsageError, match="--today no-such-case: there is no such pipeline here"):
        run(options(tmp_path, today="no-such-case"), Quiet(), "test", planned=[only])
    assert not (tmp_path / "results").exists()
    folder = run(options(tmp_path, today=only.id), Quiet(), "test", planned=[only])
    assert told == [only.id]
    assert load_run(folder).info.options["today"] == only.id
