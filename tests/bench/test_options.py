"""What is asked of a run: texts in, and one clear line for what means nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import invalidate_caches
from pathlib import Path

import pytest

import storage
from bench.case import StepSpec
from bench.limits import step_case
from bench.matrix import Stored, cases, dataset_of
from bench.options import RunOptions, names, seconds
from bench.run_output import options_of, run_and_print
from bench.vary import size
from storage import demo
from storage.errors import DataError, UsageError


def test_texts() -> None:
    assert names("a, b,a,") == ("a", "b")
    assert names("none,emulated:1800,7200") == ("none", "emulated:1800", "emulated:7200")
    assert (size("120x160"), size("96"), size(None)) == ((120, 160), (96, 96), (160, 160))
    assert [seconds(text) for text in ("90s", "1.5m", "1h", "4m30s", None)] == [90, 90, 3600, 270, None]


@pytest.mark.parametrize("text", ["0", "x", "1x", "12x0", "-3", "1x2x3"])
def test_sizes_that_mean_nothing(text: str) -> None:
    with pytest.raises(UsageError, match="--image-size must be N or HEIGHTxWIDTH"):
        size(text)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"formats": "zarr"}, "--formats: unknown name 'zarr'; expected one or more of: directory"),
        ({"loaders": "tfdata2"}, "--loaders: unknown name 'tfdata2'"),
        ({"payloads": "jpeg"}, "--payloads: unknown name 'jpeg'"),
        ({"placements": "gpu"}, "--placements: unknown name 'gpu'"),
        ({"step": "emulated:fast"}, "emulated:RATE"),
        ({"cache": "hot"}, "--cache: unknown name 'hot'; expected one of: warm, cold"),
        ({"isolation": "none"}, "--isolation: unknown name 'none'; expected one of: case, sweep"),
        ({"formats": ""}, "--formats is empty: give a value, or leave the option out"),
        ({"payloads": ","}, "--payloads is empty"),
        ({"loaders": " "}, "--loaders is empty"),
        ({"placements": ""}, "--placements is empty"),
        ({"step": ""}, "--step is empty"),
        ({"fine_tune_at": ""}, "--fine-tune-at is empty"),
        ({"image_size": ""}, "--image-size is empty"),
        ({"step": "none,gpu"}, "^--step must be none, .* or full; got 'gpu' .*calibrate"),
        ({"prefetch": "-1"}, "^--prefetch must be a whole number of at least 0, got -1"),
        ({"steps_per_execution": "0"}, "^--steps-per-execution must be at least 1"),
        ({"seed": -4}, "^--seed must be a whole number of at least 0, got -4"),
        ({"batch_size": 0}, "--batch-size"),
        ({"budget": "soon"}, "--budget must be a time"),
        ({"budget": "10"}, "--budget must be a time"),
        ({"budget": f"{'9' * 309}h"}, "--budget must be above 0 s, and finite, got inf"),
        ({"timeout_s": 0.0}, "--timeout must be above 0"),
        ({"timeout_s": float("nan")}, "--timeout must be above 0 s, and finite, got nan"),
        ({"memory_limit_bytes": 0}, "--memory-limit must be above 0"),
        ({"fine_tune_at": "50"}, "--fine-tune-at changes --step fine_tune only"),
        ({"fine_tune_at": "50", "step": "calibrate,full"}, "--fine-tune-at changes --step fine_tune only"),
        ({"vary": ["fine-tune-at=50,80"], "step": "full"}, "--fine-tune-at changes --step fine_tune only"),
    ],
)
def test_options_that_mean_nothing(given: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        options_of(given)


def test_a_loader_that_is_not_installed_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "nvidia" / "cublas"  # Many wheels are part of that package.
    other.mkdir(parents=True)
    for package in (other, other.parent):
        (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    for hidden in ("grain", "webdataset", "torch"):
        monkeypatch.setitem(sys.modules, hidden, None)  # Python's own way of hiding what is installed.
    every = r"grain, webdataset, torch, nvidia\.dali are not installed: pip install 'feedbench\[peers\]'$"
    with pytest.raises(UsageError, match=f"--loaders grain,webdataset,torch,dali: {every}"):
        options_of({"loaders": "tfdata,grain,webdataset,torch,dali"})
    with pytest.raises(UsageError, match=r"--loaders dali: nvidia\.dali is not installed: pip install 'feedbench\[peers\]'"):
        options_of({"loaders": "tfdata,dali"})
    other.rename(other.parent / "dali")
    invalidate_caches()
    assert options_of({"loaders": "tfdata,dali"}).loaders == ("tfdata", "dali")


def test_no_such_folder() -> None:
    with pytest.raises(DataError, match="no/such/folder is not a folder"):
        RunOptions(images=Path("no/such/folder"))


def test_the_step_without_input_needs_no_payload_of_its_own(tmp_path: Path) -> None:
    demo.draw(tmp_path / "demo", 10)
    stored = Stored(tmp_path, "train", storage.convert(tmp_path / "demo", to="hdf5", out=tmp_path / "hdf5"))
    assert dataset_of(step_case(32, (160, 160), StepSpec()), {"hdf5-encoded": stored}) is stored


def test_the_matrix_is_formats_times_payloads_times_loaders_times_placements_times_steps() -> None:
    asked = options_of({"formats": "hdf5,lmdb", "loaders": "from_generator", "step": "none,calibrate"})
    planned = cases(asked)
    assert [case.loader for case in planned].count("from_generator") == 2 * 2 * 1 * 2
    assert [case.id for case in planned if case.format == "memory"] == [
        "memory-encoded-limit:decode-pipeline-step=none",
        "memory-raw-limit:gather-pipeline-step=none",
        "memory-raw-limit:step-pipeline-augment=off",
    ]
    assert len({case.id for case in planned}) == len(planned)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--formats=zarr"], 2, "unknown name 'zarr'"),
        (["--images=/no/such/folder"], 1, "is not a folder"),
        (["--resume=/no/such/run"], 1, r"there is no folder /no/such/run"),
    ],
)
def test_the_command_line_says_it_in_one_line(arguments: list[str], code: int, words: str, tmp_path: Path) -> None:
    program = "from bench.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program, "run", *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code
    import re

    (line,) = done.stderr.strip().splitlines()
    assert re.search(words, line)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "results",
    [
        "file",
        pytest.param("n" * 300, id="too long"),
        pytest.param("closed/results", marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may enter any folder")),
    ],
)
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_converted(tmp_path: Path, results: str) -> None:
    demo.draw(tmp_path / "demo", 10)
    (tmp_path / "file").write_text("")
    (tmp_path / "closed").mkdir(mode=0)
    asked = {"images": tmp_path / "demo", "results": tmp_path / results, "data": tmp_path / "data"}
    try:
        with pytest.raises(DataError, match="--results"):
            run_and_print(asked, None)
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert not (tmp_path / "data").exists()


def test_the_default_matrix_leaves_out_what_decides_nothing() -> None:
    planned = [case for case in cases(options_of({})) if case.format != "memory"]
    formats = {"directory", "hdf5", "lmdb", "tfrecord"}
    loaders = {"image_data_generator", "from_generator", "tfdata", "threaded", "image_dataset_from_directory"}
    outside = {(format_, "encoded", loader, "pipeline") for format_ in formats for loader in loaders}
    outside |= {("hdf5", "raw", "threaded", "pipeline"), ("lmdb", "raw", "threaded", "pipeline")}
    inside = {("directory", "encoded", loader, "model") for loader in ("image_data_generator", "tfdata", "threaded")}
    real, alone = ([case for case in planned if case.step.trains is trains] for trains in (True, False))
    wrapped = {(format_, "encoded", "from_generator", "pipeline") for format_ in formats - {"directory"}}
    assert {(case.format, case.payload, case.loader, case.spec.placement) for case in real} == (outside | inside) - wrapped
    assert {(case.format, case.payload, case.loader, case.spec.placement) for case in alone} == outside
    assert len(planned) == len(real) + len(alone) == 2 * len(outside) + len(inside) - len(wrapped)


@pytest.mark.parametrize(
    "given", [{"step": "feature_extraction,none"}, {"payloads": "encoded,raw"}, {"vary": ["workers=2"]}]
)
def test_naming_anything_gives_the_whole_product(given: dict[str, object]) -> None:
    assert len([case for case in cases(options_of(given)) if case.format != "memory"]) == 2 * 4 * 2 * 5 * 2
