"""pytest-benchmark's table, JSON, histogram, saved runs and comparison hold the very samples that the records hold."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bench.compare import rates
from bench.record import Run, load_run

ROOT = Path(__file__).parent.parent.parent
KNOWN = ["--loaders=known:2000", "--placements=model", "--step=none", "--image-size=8", "--sweeps=3",
         "--today=memory-raw-known:2000", "--benchmark-only"]  # fmt: skip


WITHOUT = [part for plugin in ("timeout", "xdist", "hypothesispytest") for part in ("-p", f"no:{plugin}")]
"""As where only feedbench is installed, without its test extra."""


def benchmark(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "bench/test_pipelines.py", "-p", "no:cacheprovider", *WITHOUT, *KNOWN,
         f"--results={folder / 'results'}", f"--benchmark-storage=file://{folder / 'saved'}", *arguments],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one benchmark run was saved."""
    folder = tmp_path_factory.mktemp("benchmark")
    done = benchmark(
        folder, f"--benchmark-json={folder / 'all.json'}", "--benchmark-save=first", "--benchmark-save-data",
        f"--benchmark-histogram={folder / 'histogram'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"test_pipeline\[memory-raw-known:2000-model\S*\].*\b3\b", done.stdout)
    assert "known:2000" in done.stderr, "the run's own table and progress"
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return load_run(folder / "results" / "latest")


def samples(run: Run) -> list[float]:
    """Seconds a batch, one a sweep."""
    (case,) = run.info.cases
    return [case.spec.batch_size / images_per_s for images_per_s in rates(run.of(case.id)).values()]


def test_samples_are_seconds_a_batch_of_each_sweep(folder: Path, run: Run) -> None:
    found = json.loads((folder / "all.json").read_text())
    (one,) = found["benchmarks"]
    assert one["stats"]["rounds"] == 3
    assert one["stats"]["data"] == pytest.approx(samples(run), rel=1e-9)
    assert one["extra_info"]["images_per_s"] == pytest.approx([32 / second for second in samples(run)])
    assert one["extra_info"]["case"]["case"] == run.info.cases[0].id
    assert one["group"] == "none"


def test_the_case_that_a_run_compares_with_is_kept(run: Run) -> None:
    assert run.info.options["today"] == "memory-raw-known:2000"


def test_the_histogram_is_drawn_of_them(folder: Path, run: Run) -> None:
    (drawn,) = folder.glob("histogram*.svg")
    least = re.search(r"Min: ([\d.]+)", drawn.read_text())
    assert least
    assert float(least[1]) == pytest.approx(1000 * min(samples(run)), abs=1e-3), "milliseconds"


def test_what_is_saved_is_the_same_and_names_no_host(folder: Path, run: Run) -> None:
    (saved,) = (folder / "saved").rglob("*_first.json")
    assert json.loads(saved.read_text())["benchmarks"][0]["stats"]["data"] == pytest.approx(samples(run), rel=1e-9)
    assert "node" not in json.loads(saved.read_text())["machine_info"]
    if len(socket.gethostname()) > 3:
        assert socket.gethostname() not in saved.read_text()


@pytest.mark.slow
def test_a_later_run_is_compared_with_it(folder: Path) -> None:
    done = benchmark(folder, "--benchmark-compare=0001")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"test_pipeline\[memory\S*\] \(NOW\)", done.stdout)
    assert re.search(r"test_pipeline\[memory\S*\] \(0001_first\)", done.stdout)


@pytest.mark.parametrize(
    ("argument", "code", "words"),
    [
        (
            "--today=limit:decode",
            2,
            "--today limit:decode: a limit is no pipeline that one could have; name one, such as memory-raw-known:2000-model",
        ),
        ("--formats=zarr", 2, "--formats: unknown name 'zarr'; expected one or more of: directory"),
        ("--images=", 2, "--images is empty: give a value, or leave the option out"),
        ("--images=nowhere", 2, "--images: nowhere is not a folder"),
        ("--limit=x", 4, "argument --limit: invalid int value: 'x'"),
    ],
)
def test_what_is_wrong_is_one_line_as_on_the_command_line(tmp_path: Path, argument: str, code: int, words: str) -> None:
    done = benchmark(tmp_path, argument)
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert said.count(words) == 1, said
    assert "Traceback" not in said
    assert not re.search(r"\.py:\d", said)
    assert not (tmp_path / "results").exists()
