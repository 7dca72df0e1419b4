"""A run's report as files: all of them, whole, made again from records alone; golden files; runs with nothing to report."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from markupsafe import escape
from PIL import Image

from bench.datasets import prepare
from bench.options import RunOptions
from bench.record import Failed, RunRecord, append_records, load_run, write_info
from bench.report.charts import CHARTS
from bench.report.csv import harmless
from bench.report.derived import tables
from bench.report.sections import masthead
from bench.report.summary import summary
from bench.report.write import write_report
from storage.errors import DataError, UsageError
from tests.bench.synthetic import matrix, synthetic_run

GOLDEN = sorted((Path(__file__).parent.parent / "golden").glob("v*"))
TABLES = {"results.csv", "sweeps.csv", "stages.csv", "starvation.csv"}
FILES = {"run.json", "records.jsonl", *TABLES, "choices.json", "summary.md", "report.html", "charts"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    synthetic_run(folder, cases=matrix(formats=("directory", "lmdb", "tfrecord"), payloads=("encoded",)), sweeps=3)
    write_report(folder)
    return folder


def test_every_file_is_there_and_none_half_written(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == FILES
    assert {path.name for path in (folder / "charts").iterdir()} == {
        f"{name}.{kind}" for name in CHARTS for kind in ("png", "svg")
    }
    assert json.loads((folder / "choices.json").read_text())["step"] == "feature_extraction"
    for path in (folder / "charts").glob("*.svg"):
        assert path.read_text().startswith("<svg")


def test_a_run_is_called_as_its_images_are(tmp_path: Path) -> None:
    for name in ("a/1", "a/2", "b/1"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / f"{name}.jpg")
    asked = RunOptions(images=tmp_path / "photos", limit=2, data=tmp_path / "data")
    (stored,) = prepare(asked, [("hdf5", "encoded")], lambda _: None).values()
    assert (stored.info.name, stored.info.stored_samples) == ("photos", 2)
    # An older run, whose dataset was called after the folder of links to its images.
    run = synthetic_run(tmp_path / "run", cases=3, sweeps=1, most_batches=2)
    older = {name: facts.model_copy(update={"name": "images"}) for name, facts in run.info.datasets.items()}
    write_info(run.path, run.info.model_copy(update={"datasets": older}))
    run = load_run(run.path)
    assert summary(run, tables(run)).startswith("# flowers: how to store and feed it\n")
    assert masthead(run)["name"] == "flowers"


def test_making_it_again_changes_nothing(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("run.json", "records.jsonl"):
        shutil.copy(folder / name, copy)
    write_report(copy)
    for name in (*TABLES, "choices.json", "summary.md"):
        assert (copy / name).read_bytes() == (folder / name).read_bytes(), name


def test_a_chart_that_has_nothing_to_show_any_more_goes(tmp_path: Path) -> None:
    synthetic_run(tmp_path, cases=3, sweeps=2)
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts" / "cold_warm.png").write_bytes(b"of an earlier report")
    write_report(tmp_path)
    assert not (tmp_path / "charts" / "cold_warm.png").exists()
    assert (tmp_path / "charts" / "throughput.png").is_file()


def test_a_chart_of_another_package_that_fails_is_left_out_and_told(tmp_path: Path) -> None:
    package, run = tmp_path / "site", tmp_path / "run"
    (package / "other-1.dist-info").mkdir(parents=True)
    (package / "other-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    rows = "".join(f"{name} = other:{name.upper()}\n" for name in ("fine", "raising", "unknown", "endless", "unpaintable"))
    (package / "other-1.dist-info" / "entry_points.txt").write_text(f"[feedbench.charts]\n{rows}")
    (package / "other.py").write_text(OTHER)
    synthetic_run(run, cases=3, sweeps=2)
    (run / "charts").mkdir()
    for suffix in (".png", ".svg"):
        (run / "charts" / f"raising{suffix}").write_bytes(b"of an earlier report")
    done = subprocess.run(
        [sys.executable, "-c", "from bench.cli import main; main()", "report", str(run)],
        env={**os.environ, "PYTHONPATH": str(package)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    left_out = {
        "raising": "(ValueError: <b>no</b> such column)",
        "unknown": "(AttributeError: module 'other' has no attribute 'UNKNOWN')",
        "endless": "(ValueError: Out of range float values are not JSON compliant",
        "unpaintable": "",
    }
    page = (run / "report.html").read_text()
    for name, why in left_out.items():
        (line,) = [line for line in done.stderr.splitlines() if name in line]
        assert line.startswith(f"The chart {name} is left out of the report: it could not be drawn ({why.strip('()')}")
        assert f"{name} {escape(why)}" in page
        assert not list((run / "charts").glob(f"{name}.*"))
        assert f'data-chart="{name}"' not in page
    assert 'data-chart="fine"' in page
    assert {path.name for path in (run / "charts").iterdir()} >= {"fine.svg", "fine.png", "throughput.svg", "throughput.png"}


OTHER = """
import altair
from bench.report.charts.base import Chart

class Spec(dict):
    def to_dict(self, validate=True):
        return dict(self)

def raises(tables):
    raise ValueError("<b>no</b>\\nsuch column")

FINE = Chart("fine", "Fine", lambda tables: altair.Chart(tables.results).mark_point().encode(x="images_per_s:Q"), "It works.")
RAISING = Chart("raising", "Raising", raises)
ENDLESS = Chart("endless", "Endless", lambda tables: Spec(mark="point", width=float("inf"), data={"values": []}))
UNPAINTABLE = Chart("unpaintable", "Unpaintable", lambda tables: Spec(mark={"no": "mark"}, data={"values": []}))
"""


def test_todays_case_is_passed_through(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    write_report(copy, "lmdb-encoded-tfdata-model")
    for name in ("summary.md", "report.html"):
        assert "tfdata on lmdb encoded, preprocessing in the model" in (copy / name).read_text(), name
    before = (copy / "summary.md").read_bytes()
    with pytest.raises(UsageError, match="--today nobody: there is no such pipeline here"):
        write_report(copy, "nobody")
    assert (copy / "summary.md").read_bytes() == before


def test_a_run_of_failures_only_has_a_report(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path, cases=matrix(cold=False)[:4], sweeps=1)
    (tmp_path / "records.jsonl").unlink()
    failed = Failed(reason="=cmd() <script>alert(1)</script> | killed")
    append_records(tmp_path, [replaced(record, failed) for record in run.records])
    write_report(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert list((tmp_path / "charts").iterdir()) == []
    text = (tmp_path / "summary.md").read_text()
    assert "no case was measured without a failure (4 failed of 4 cases)" in text
    assert "<script>" not in text
    assert pd.read_csv(tmp_path / "results.csv")["reason"].tolist() == ["'" + failed.reason] * 4


def test_a_run_that_was_cut_off_before_its_first_sweep_has_a_report(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path, cases=matrix(cold=False)[:3], sweeps=1)
    (tmp_path / "records.jsonl").unlink()
    write_info(tmp_path, run.info.model_copy(update={"finished": False}))
    write_report(tmp_path)
    assert "(3 skipped of 3 cases)" in (tmp_path / "summary.md").read_text()
    assert "go on with feedbench run --resume RUN" in (tmp_path / "summary.md").read_text()


def test_a_finished_run_whose_records_are_lost_keeps_the_report_it_has(tmp_path: Path) -> None:
    synthetic_run(tmp_path, cases=matrix(cold=False)[:3], sweeps=2)
    write_report(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.suffix in (".csv", ".md", ".html")}
    records = tmp_path / "records.jsonl"
    for left in (records.read_text().splitlines(keepends=True)[:1], []):
        records.write_text("".join(left))
        with pytest.raises(DataError, match=r"has no record of \d of 3 cases, though the run is finished"):
            write_report(tmp_path)
    assert {path: path.read_bytes() for path in before} == before


def test_images_that_could_not_be_stored_are_told(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path, cases=matrix(cold=False)[:3], sweeps=1)
    facts = {
        name: one.model_copy(update={"skipped": 2, "skipped_first": ("a*b*.jpg",)})
        for name, one in run.info.datasets.items()
    }
    write_info(tmp_path, run.info.model_copy(update={"datasets": facts}))
    page = write_report(tmp_path).read_text()
    assert r"2 unreadable images left out: a\*b\*.jpg and 1 more " in (tmp_path / "summary.md").read_text()
    assert "2 unreadable images left out: a*b*.jpg and 1 more " in page


def test_a_run_without_cases_has_a_report(tmp_path: Path) -> None:
    synthetic_run(tmp_path, cases=[], sweeps=1)
    write_report(tmp_path)
    assert "This run has no cases." in (tmp_path / "summary.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} >= FILES - {"records.jsonl"}


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a run"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_large_run_becomes_a_small_report(tmp_path: Path) -> None:
    """120 cases x 10 sweeps; how long it takes is measured elsewhere."""
    synthetic_run(tmp_path, cases=120, sweeps=10)
    write_report(tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 5_000_000
    assert all(path.stat().st_size < 1_000_000 for path in (tmp_path / "charts").iterdir())


def test_no_tensorflow_is_imported(folder: Path) -> None:
    code = f"import sys; from pathlib import Path; from bench.report.write import write_report; write_report(Path({str(folder)!r}))"
    check = "; print(*({'tensorflow', 'keras', 'h5py', 'lmdb', 'cv2'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("stored", GOLDEN, ids=lambda path: path.name)
def test_stored_records_are_read_and_their_tables_reproduced(stored: Path) -> None:
    """Columns may be added, but none moves, goes or comes to mean something else."""
    shown = tables(load_run(stored))
    for name, table in (("results.csv", shown.results), ("sweeps.csv", shown.sweeps)):
        golden = pd.read_csv(stored / name)
        made = pd.read_csv(io.StringIO(harmless(table).to_csv(index=False)))
        assert [column for column in made.columns if column in set(golden.columns)] == list(golden.columns)
        pd.testing.assert_frame_equal(made[list(golden.columns)], golden, check_dtype=False, rtol=1e-9)


@pytest.mark.parametrize("stored", GOLDEN, ids=lambda path: path.name)
def test_stored_records_give_the_same_summary(stored: Path) -> None:
    """If what a summary says was changed on purpose: feedbench report on a copy, and its summary.md is the new golden file."""
    run = load_run(stored)
    assert summary(run, tables(run)) == (stored / "summary.md").read_text()


def test_every_record_version_has_a_golden_run() -> None:
    from bench.record import RECORD_VERSION

    assert [path.name for path in GOLDEN] == [f"v{version}" for version in range(1, RECORD_VERSION + 1)]


def replaced(record: RunRecord, outcome: Failed) -> RunRecord:
    return record.model_copy(update={"outcome": outcome})
