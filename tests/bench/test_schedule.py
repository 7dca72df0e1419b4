"""Whole runs over loaders of known behaviour: real worker processes, killed, hung, out of memory, resumed."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from bench.case import Case, StepSpec
from bench.limits import limit_cases
from bench.metrics.images_per_s import rate
from bench.options import RunOptions
from bench.racing import beaten
from bench.record import Failed, Measured, RunRecord, Skipped, load_run
from bench.run_output import print_run
from bench.schedule import resume, run
from loaders.base import LoaderSpec
from storage import demo
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
    assert re.match("the worker was killed by SIGKILL(; the last that it said: .+)?$", reasons["known:crash"])
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
        run(options(tmp_path, sweeps=2, turns=1), Quiet(interrupt_after=4), "test", planned=planned)
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


def test_each_sweep_has_an_order_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned = [known("null", name) for name in "abcdefgh"]
    (tmp_path / "latest").mkdir()  # as a copy that follows links has it
    stored = load_run(run(options(tmp_path, sweeps=2), Quiet(), "test", planned=planned))
    assert f"Careful: {tmp_path / 'latest'} is not this run, since no link could be put there" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"latest", stored.info.name}
    orders = [[r.case.name for r in stored.records if r.sweep == sweep] for sweep in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


def test_an_epoch_too_short_to_be_measured_is_a_row_before_anything_is_proven(tmp_path: Path) -> None:
    demo.draw(tmp_path / "photos", 20)
    fed = len(list((tmp_path / "photos" / "train").rglob("*.jpg")))
    asked = options(tmp_path, images=tmp_path / "photos")
    single = Case(format="hdf5", payload="encoded", loader="tfdata", spec=LoaderSpec(batch_size=fed, image_size=(8, 8)))
    half = replace(single, spec=replace(single.spec, batch_size=fed // 2), step=StepSpec(steps_per_execution=2))
    _, large = limit_cases(8, (5000, 5000), 0)  # 75 MB an image
    watcher = Quiet()
    stored = load_run(run(asked, watcher, "test", planned=[single, half, *limit_cases(fed, (8, 8), 0), large]))
    assert watcher.visits == 0
    reasons = {record.case.id: record.outcome.reason for record in stored.records if isinstance(record.outcome, Skipped)}
    assert len(reasons) == len(stored.info.cases) == 5
    assert reasons[single.id].startswith("an epoch is a single batch, so there is no steady state: lower --batch-size")
    assert reasons[half.id].startswith("an epoch of 2 batches holds no steady state with steps_per_execution 2: at least 4")
    assert reasons[large.id] == (
        "limit:gather holds at most 7 images in memory, and an epoch needs two batches: lower --image-size or --batch-size"
    )


def test_an_image_that_is_left_out_is_named_with_the_list_of_all(tmp_path: Path) -> None:
    demo.draw(tmp_path / "photos", 20)
    for number in range(3):
        (tmp_path / "photos" / "train" / "daisy" / f"bad\n{number}.jpg").write_bytes(b"\xff\xd8\xff")
    asked = options(tmp_path, images=tmp_path / "photos")
    case = Case(format="hdf5", payload="encoded", loader="tfdata", spec=LoaderSpec(batch_size=64, image_size=(8, 8)))
    stored = load_run(run(asked, Quiet(), "test", planned=[case]))
    said = StringIO()
    print_run(stored, Console(file=said, width=200))
    (careful,) = [line for line in said.getvalue().splitlines() if line.startswith("Careful")]
    listed = "hdf5-encoded/skipped.csv"
    assert (tmp_path / "data" / "photos" / listed).is_file()
    assert re.fullmatch(
        r"Careful: 3 unreadable images left out: daisy/bad\\n\d.jpg, daisy/bad\\n\d.jpg and 1 more "
        rf"\(reasons in {listed}, among the stored datasets\)\.",
        careful,
    ), careful


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
    # Faster than all, but not to be relied on: it beats nobody, and is no longer measured.
    hasty = [record(known("null", "hasty"), n, 5000) for n in range(3)]
    hasty.append(hasty[0].model_copy(update={"sweep": 3, "outcome": Failed(reason="killed")}))
    assert beaten([*records, *hasty]) == beaten(records) | {
        hasty[0].case.id: "racing: failed in 1 of 4 sweeps; not measured further"
    }


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
