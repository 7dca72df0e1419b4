"""Seconds an epoch and waiting, by loader and regime: on a clock that stands still, and as a user types it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.case import StepSpec
from bench.regimes import Cost, app, measure, table
from loaders.base import LoaderSpec
from storage.errors import UsageError

SIZE = (32, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty demo images, stored as raw HDF5 and TFRecord, and a base of one convolution."""
    import keras

    from storage.conversion import convert
    from storage.demo import draw

    folder = tmp_path_factory.mktemp("regimes")
    draw(folder / "images", count=40)
    for name in ("hdf5", "tfrecord"):
        convert(folder / "images", to=name, out=folder / name, payload="raw", image_size=SIZE)
    keras.Sequential([keras.Input((*SIZE, 3)), keras.layers.Conv2D(4, 3, strides=4)]).save(folder / "base.keras")
    return folder


def test_medians_over_all_rounds_but_the_first(folder: Path) -> None:
    now = 0
    said: list[str] = []

    def clock() -> int:
        """Each reading is a second after the last, and an hour in the first round."""
        nonlocal now
        rounds = sum("round 0" in line for line in said)
        now += 1_000_000_000 * (3600 if rounds < 2 else 1)
        return now

    spec = LoaderSpec(image_size=SIZE, batch_size=8)
    step = StepSpec(model=str(folder / "base.keras"))
    costs = measure(
        [folder / "hdf5"],
        ["image_data_generator", "from_generator", "webdataset"],
        spec,
        [step],
        say=said.append,
        clock=clock,
    )
    # Eleven readings, ten seconds: the start, two a batch, the last batch's end, the end. Four seconds are steps, one is the end.
    assert [(cost.seconds, cost.wait_share) for cost in costs] == [(10.0, 0.5)] * 2
    assert {cost.loader for cost in costs} == {"image_data_generator", "from_generator"}
    assert sum(line.startswith("webdataset is left out: ") for line in said) == 1
    assert {cost.images for cost in costs} == {32}
    part = measure([folder / "hdf5"], ["image_data_generator"], spec, [step], batches=3, say=said.append, clock=clock)
    # Of eight readings, three are steps and one is the end.
    assert [(cost.seconds, cost.wait_share, cost.images) for cost in part] == [(8.0, 0.5, 24)]
    with pytest.raises(UsageError, match="none of the loaders serves any"):
        measure([folder / "hdf5"], ["webdataset"], spec, [step], say=said.append)


def test_the_table() -> None:
    costs = [Cost("full", "a", "hdf5", 1.25, 0.5, 500), Cost("full", "b", "lmdb", 2, 0, 500)]
    costs += [Cost("fine_tune", "a", "hdf5", 3, 1, 500), Cost("fine_tune", "b", "lmdb", 4, 0.25, 500)]
    head, _, *rows = table(costs)
    assert "| full: s an epoch of 500 images, waiting | fine_tune: s an epoch of 500 images, waiting |" in head
    assert rows == ["| `a` | hdf5 | 1.2, 50.0% | 3.0, 100.0% |", "| `b` | lmdb | 2.0, 0.0% | 4.0, 25.0% |"]
    assert "| full: s for an epoch's first 500 images, waiting |" in table(costs, whole=False)[0]


def test_from_the_command_line(folder: Path) -> None:
    arguments = [str(folder / "tfrecord"), str(folder / "hdf5"), "--loaders", "from_generator", "--image-size", "32"]
    arguments += ["--model", str(folder / "base.keras"), "--batch-size", "8", "--rounds", "2", "--regimes"]
    done = CliRunner().invoke(app, [*arguments, "feature_extraction,full"], catch_exceptions=False)
    assert done.exit_code == 0
    assert (
        "| loader | reads | feature_extraction: s an epoch of 32 images, waiting | full: s an epoch of 32 images, waiting |"
        in done.output
    )
    assert "| `from_generator` | hdf5 | " in done.output
    done = CliRunner().invoke(app, [*arguments, "full", "--batches", "2"], catch_exceptions=False)
    assert "| full: s for an epoch's first 16 images, waiting |" in done.output
    with pytest.raises(UsageError, match="--regimes: unknown name 'none'"):
        CliRunner().invoke(app, [*arguments, "none"], catch_exceptions=False)
