"""Advice from runs whose truth is known: what to take, what it saves, when to change nothing, and code that is code."""

from __future__ import annotations

import ast
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from bench.advice import Limits, Source, advise
from bench.breakeven import break_even
from bench.case import Case, StepSpec
from bench.record import Failed, Run
from storage.errors import DataError, UsageError
from tests.bench.synthetic import matrix, synthetic_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return synthetic_run(tmp_path_factory.mktemp("runs") / "run", cases=matrix(cold=False), sweeps=10)


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A fast accelerator instead of the real step: the pipeline decides."""
    cases = matrix(steps=("emulated:8000", "none"), cold=False)
    return synthetic_run(tmp_path_factory.mktemp("runs") / "fast", cases=cases, sweeps=10)


def test_input_bound_takes_the_fastest_and_says_what_it_saves(fast: Run) -> None:
    found = advise(fast, Source("my photos"), limits=Limits(epochs=30))
    assert found.change
    assert (found.best.loader, found.best.payload) == ("tfdata", "raw")
    assert found.comparison.verdict == "faster"
    # 2,000 images: 3.85 s an epoch at 520 images/s, 0.25 s at 8,000; thirty of them, less a second or so of writing.
    assert found.saved_s == pytest.approx(30 * (2000 / 520 - 2000 / 8000), rel=0.1)
    assert found.lines[0].startswith("Input-bound: yes. Today (image_data_generator on directory encoded")
    assert "earned back after" in " ".join(found.lines)
    assert len(found.lines) + found.convert.count("\n") + found.code.count("\n") + 2 <= 12


def test_a_real_step_on_few_cores_competes_for_them(run: Run) -> None:
    found = advise(run, Source("photos"))
    assert found.lines[0].startswith("Input-bound: yes, by processors")
    assert found.best.loader == "tfdata"


def test_what_was_measured_on_a_part_is_scaled_to_the_whole(fast: Run) -> None:
    part = advise(fast, Source("photos"))
    whole = advise(fast, Source("photos", name="photos", images=200_000, fed_images=150_000))
    # Turnarounds do not grow with the dataset; here they are equal on both sides.
    epoch_s = (part.saved_s + 1.3) / 30
    assert whole.saved_s == pytest.approx(30 * 75 * epoch_s - 130, rel=0.05)
    assert "data/photos/" in whole.convert
    assert not advise(fast, Source("photos", images=200_000), limits=Limits(disk_bytes=10**6)).change


def test_the_disk_decides_what_fits(fast: Run) -> None:
    found = advise(fast, Source("photos"), limits=Limits(disk_bytes=60_000_000))
    assert found.best.payload == "encoded"
    assert any(
        line.startswith("Left out, being larger than --disk (0.06 GB): directory-raw, hdf5-raw") for line in found.lines
    )


def test_what_does_not_earn_its_conversion_back_is_not_advised(fast: Run) -> None:
    cheap = advise(fast, Source("photos"), limits=Limits(epochs=0))
    assert not cheap.change
    assert cheap.lines[1] == "Change nothing: what is faster does not earn its conversion back in these epochs."
    assert (cheap.convert, cheap.code) == ("", "")


def test_a_conversion_that_stands_costs_nothing_more(fast: Run) -> None:
    limits = Limits(epochs=0)
    assert advise(fast, Source("photos"), limits=limits).saved_s < 0
    assert advise(fast, Source("photos", standing=frozenset({"hdf5-raw", "directory-raw"})), limits=limits).saved_s == 0
    written = advise(fast, Source("photos"))
    stored = f"{written.best.format}-{written.best.payload}"
    stands = advise(fast, Source("photos", standing=frozenset({stored})))
    assert stands.best.format == written.best.format
    assert stands.saved_s - written.saved_s == pytest.approx(fast.info.datasets[stored].convert_s)
    assert any(line.endswith("; it is stored already, so nothing is to be earned back.") for line in stands.lines)


def test_what_needs_no_conversion_costs_none_as_in_the_report(tmp_path: Path) -> None:
    # Today's images are files, and a better loader reads the same: the table of break-even says 0 epochs too.
    cases = matrix(("directory",), ("encoded",), steps=("emulated:8000", "none"), cold=False)
    run = synthetic_run(tmp_path, cases=cases, sweeps=10)
    found = advise(run, Source("photos"))
    assert found.change
    assert (found.best.format, found.best.payload) == ("directory", "encoded")
    report = next(row for row in break_even(run, "emulated:8000") if row.stored == "directory-encoded")
    assert report.epochs == 0
    assert found.saved_s == pytest.approx(30 * report.saved_s)
    assert any("nothing is converted" in line for line in found.lines)


def test_change_nothing_when_today_is_among_the_best(fast: Run) -> None:
    today = "hdf5-raw-tfdata-model"
    found = advise(fast, Source("photos"), today=f"{today}-step=emulated:8000")
    assert not found.change
    assert found.best.id.startswith(today)
    assert found.lines[1].startswith("Change nothing: nothing that was measured is established to be faster")


def test_the_command_and_the_code_parse(fast: Run) -> None:
    found = advise(fast, Source("my photos; rm -rf /", out="my data"))
    words = shlex.split(found.convert)
    assert words[:5] == ["python", "-m", "storage.convert", "--from", "my photos; rm -rf /"]
    assert words[words.index("--image-size") + 1] == "160x160"
    tree = ast.parse(found.code)
    call = next(node for node in ast.walk(tree) if isinstance(node, ast.Call))
    assert ast.literal_eval(call.args[0]) == words[words.index("--out") + 1]
    assert {word.arg: ast.literal_eval(word.value) for word in call.keywords}["loader"] == "tfdata"


def test_a_run_that_cannot_answer_says_why(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path, cases=[Case(format="hdf5", payload="raw", loader="tfdata", step=StepSpec(step="none"))])
    with pytest.raises(DataError, match="did not measure today's case"):
        advise(run, Source("photos"))
    with pytest.raises(UsageError, match="--today x"):
        advise(run, Source("photos"), today="x")


def test_a_failure_of_todays_case_is_told_with_its_reason(tmp_path: Path) -> None:
    today = Case(format="directory", payload="encoded", loader="image_data_generator")
    run = synthetic_run(tmp_path, cases=[today, Case(format="hdf5", payload="raw", loader="tfdata")])
    failed = [
        record.model_copy(update={"outcome": Failed(reason="no such module")}) if record.case == today else record
        for record in run.records
    ]
    with pytest.raises(DataError, match=r"could not be measured: no such module\. Mend that"):
        advise(replace(run, records=failed), Source("photos"), today=today.id)
