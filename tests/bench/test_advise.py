"""``feedbench advise``: what it plans to measure, what it refuses, its code run as printed, and the whole way."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import loaders
from bench.advice import Limits, Source, advise
from bench.advise import Question, ask, look, parse_bytes, plan, standing, to_store, today_case
from bench.case import StepSpec
from bench.racing import LEAST_SWEEPS
from loaders import LOADERS
from storage.demo import draw
from storage.errors import DataError, UsageError
from tests.bench.synthetic import matrix, synthetic_run

LOADS = hasattr(loaders, "load") and "tfdata" in LOADERS
REPORTS = importlib.util.find_spec("bench.report.write") is not None


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("advise") / "my photos"
    draw(folder, count=100)
    return folder


def test_a_plan_has_today_and_each_case_under_both_steps_where_loading_alone_does_its_work(images: Path) -> None:
    planned = plan(Question(images=images, budget_s=10_000))
    assert planned[0].id == "directory-encoded-image_data_generator-pipeline"
    assert len({case.id for case in planned}) == len(planned)
    real = {case for case in planned if case.step.step != "none"}
    assert {case.spec.placement for case in real} == {"pipeline", "model"}
    # Without a step nobody does what placement "model" leaves to the model: such a measurement answers nothing.
    assert set(planned) - real == {case.alone for case in real if case.spec.placement == "pipeline"}


def test_placement_model_takes_no_budget_for_loading_alone(images: Path) -> None:
    assert not [case for case in plan(Question(images=images, step="none", budget_s=10_000)) if case.leaves_work]
    pipeline, model = (
        plan(Question(images=images, budget_s=5 * LEAST_SWEEPS * 5, today=f"hdf5-raw-tfdata-{placement}"))
        for placement in ("pipeline", "model")
    )
    # Room for five cases: two and their like alone; or today's, and two with theirs.
    assert (len(pipeline), len(model)) == (4, 5)


def test_a_short_budget_plans_less_and_never_only_today(images: Path) -> None:
    sizes = [len(plan(Question(images=images, budget_s=budget))) for budget in (1, 120, 600)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 4 if "tfdata" in LOADERS else sizes[0] >= 2
    assert sizes[-1] * LEAST_SWEEPS * 5 <= 600


def test_today_is_named_as_for_a_run(images: Path) -> None:
    own = StepSpec(step="full", model="m.keras")
    for text in ("model", "model-step=none", "model-step=full-model=m.keras"):
        named = today_case(Question(images=images, today=f"hdf5-raw-from_generator-{text}"), own)
        assert named.id == "hdf5-raw-from_generator-model-step=full-model=m.keras"
    for text, message in (
        ("hdf5-raw-tfdata", "means several cases: hdf5-raw-tfdata-model, hdf5-raw-tfdata-pipeline"),
        ("hdf5-raw-tfdat-model", "there is no such pipeline here; name one, such as hdf5-raw-tfdata-model, "),
        ("limit:decode", "a limit is no pipeline"),
    ):
        with pytest.raises(UsageError, match=message):
            today_case(Question(images=images, today=text), StepSpec())


def test_what_it_refuses(images: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not a folder"):
        Question(images=tmp_path / "nowhere")
    with pytest.raises(DataError, match="--model: there is no file"):
        Question(images=images, model=tmp_path / "m.keras")
    with pytest.raises(UsageError, match="--epochs"):
        Question(images=images, epochs=0)


@pytest.mark.parametrize(
    ("text", "size"), [("50GB", 50 * 10**9), ("500 mb", 5 * 10**8), ("4GiB", 4 << 30), ("1.5T", 15 * 10**11), ("7", 7)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "50XB", "0GB"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="--disk takes a size such as 50GB"):
        parse_bytes(text)


def test_the_model_says_its_size_and_scaling_and_leaves_its_path_out(images: Path, tmp_path: Path) -> None:
    layers = [
        {"class_name": "InputLayer", "config": {"batch_shape": [None, 96, 128, 3]}},
        {"class_name": "Rescaling", "config": {}},
    ]
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Functional", "config": {"layers": layers}}))
    planned = plan(Question(images=images, model=tmp_path / "m.keras"))
    assert {case.spec.image_size for case in planned} == {(96, 128)}
    assert {case.spec.scaling for case in planned} == {"none"}
    assert {case.step.model for case in planned if case.step.trains} == {"m.keras"}
    alone = {case.alone for case in planned if case.step.trains and case.spec.placement == "pipeline"}
    assert alone == {case for case in planned if not case.step.trains}
    (tmp_path / "no.keras").write_text("no")
    with pytest.raises(DataError, match=r"no\.keras"):
        plan(Question(images=images, model=tmp_path / "no.keras"))


def test_the_source_is_counted(images: Path) -> None:
    source = look(images, Path("data"))
    files = [path for path in images.rglob("*") if path.is_file()]
    assert source.images == len(files) == 100
    assert source.fed_images == sum(path.parts[-3] == "train" for path in files)


@pytest.mark.skipif(not LOADS, reason="needs loaders.load with tfdata")
@pytest.mark.parametrize("disk_bytes", [None, pytest.param(60_000_000, marks=pytest.mark.slow)], ids=["raw", "encoded"])
def test_the_command_and_the_code_run_as_printed(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk_bytes: int | None
) -> None:
    """Of a run with a known outcome, so that no noise of this machine turns the advice into "change nothing"."""
    run = synthetic_run(tmp_path / "run", cases=matrix(steps=("emulated:8000", "none"), cold=False), sweeps=10)
    found = advise(run, Source(str(images), name="photos"), limits=Limits(disk_bytes=disk_bytes))
    assert found.best.payload == ("encoded" if disk_bytes else "raw")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(loaders.__file__).parent.parent))
    assert to_store(found, images) == found.convert
    subprocess.run([sys.executable, *shlex.split(found.convert)[1:]], check=True, capture_output=True)
    assert to_store(found, images) == f"{found.place} is stored already."
    source = Source(str(images), name="photos")
    assert standing(source, run.info.cases) == {f"{found.best.format}-{found.best.payload}"}
    os.utime(Path(found.place) / "dataset.json", (0, 0))
    assert not standing(source, run.info.cases)
    assert to_store(found, images) == f"{found.convert} --overwrite"
    check = f"{found.code}\nimages, labels = next(iter(train))\nassert images.shape == (32, 160, 160, 3), images.shape"
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.skipif(not (LOADS and REPORTS), reason="needs loaders.load with tfdata, and bench.report.write")
def test_the_whole_way(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    found = ask(Question(images=images, step="emulated:100000", budget_s=1, results=tmp_path / "results"), said.append)
    assert said[0].startswith("Input-bound: yes. Today (image_data_generator on directory encoded")
    assert said[1].startswith(f"Use {found.best.loader} on " if found.change else "Change nothing: ")
    assert said[-1].startswith("\nEverything that was measured: ")
    assert len("\n".join(said).splitlines()) <= 16
